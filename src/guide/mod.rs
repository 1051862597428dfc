//! The guide: one chapter for each question of a first project, from the algorithm to production.
//!
//! | chapter | its questions |
//! |---|---|
//! | [`algorithms`] | which algorithm? what does each let pass? |
//! | [`placement`] | where does the layer stand among CORS, authentication, time-outs? what is counted? |
//! | [`proxies`] | which address does a request come from, behind nginx, HAProxy, Caddy, Cloudflare, an ALB or an ingress? |
//! | [`plans`] | where do the quotas of customers come from? |
//! | [`replicas`] | what changes with the second replica, and during a release? |
//! | [`sign_in`] | how are passwords and codes protected from guessing? |
//! | [`responses`] | what are callers told, and what do they do with it? |
//! | [`testing`] | how are limits tested without waiting? |
//!
//! The docs of each type have the details. Each block of code in the guide is a doc test.

// A chapter is in the docs whatever the features are. Its code needs the features that are named here.

#[doc = include_str!("algorithms.md")]
#[doc = ""]
#[doc = include_str!("algorithms.svg")]
#[doc = ""]
#[doc = include_str!("algorithms_chosen.md")]
pub mod algorithms {}

#[cfg_attr(any(not(doctest), feature = "axum"), doc = include_str!("placement.md"))]
pub mod placement {}

#[doc = include_str!("proxies.md")]
pub mod proxies {}

#[doc = include_str!("plans.md")]
pub mod plans {}

#[cfg_attr(any(not(doctest), feature = "redis"), doc = include_str!("replicas.md"))]
pub mod replicas {}

#[doc = include_str!("sign_in.md")]
pub mod sign_in {}

#[doc = include_str!("responses.md")]
pub mod responses {}

#[cfg_attr(any(not(doctest), feature = "describe"), doc = include_str!("testing.md"))]
pub mod testing {}
