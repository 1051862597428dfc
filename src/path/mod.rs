//! Paths: what a pattern means, and how the path that a client sent may be read.
//!
//! Routers do not read a path alike. One takes `//` for an empty segment, another merges it; one
//! trims a trailing slash, another decodes `%61`, another resolves `..`. The limiter stands outside
//! of them all and does not know which of them routes the request. It therefore knows two kinds of
//! path. A plain path has one reading, in which all routers agree: it is compared as it was sent.
//! An odd path has several readings, and a pattern may accept any of them.

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

mod compare;
mod pattern;
mod sent;

pub(crate) use self::{
    pattern::{Param, Pattern},
    sent::SentPath,
};
