//! Patterns of paths, and the path that a client sent.
//!
//! Routers read some paths in different ways: one keeps the empty segment in `//`, another drops it;
//! one removes a trailing slash, another decodes `%61`, another resolves `..`. The limiter does not
//! know which router routes the request. So there are two kinds of path. A plain path has one
//! reading, on which all routers agree: it is compared as it was sent. An odd path has several
//! readings, and a pattern may match any of them.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod automaton;
mod compare;
#[cfg(feature = "describe")]
mod examples;
mod index;
mod pattern;
#[cfg(feature = "describe")]
mod pattern_tree;
mod request_path;
mod segment;

#[cfg(feature = "describe")]
pub(crate) use self::examples::ExamplePaths;
pub(crate) use self::{
    compare::{covers, overlap},
    index::{Numbers, PatternIndex},
    pattern::{Param, Pattern},
    request_path::SentPath,
};
