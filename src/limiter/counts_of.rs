//! The store of another limiter, on whose counts this one counts on: [`CountsOf`].

use std::sync::Arc;

use super::Core;
use crate::{
    algorithm::Algorithm,
    clock::Now,
    store::{
        Announcement, Charge, Correction, OverrideStore, Store, StoreFuture, Usage, implement_by,
    },
};

/// The store of a limiter, which it keeps. It is no shared pointer: that would cost each decision of
/// all limiters something, and few have their counts carried over.
pub(super) struct CountsOf(pub(super) Arc<Core>);

implement_by!([] CountsOf, |this| this.0.store);
