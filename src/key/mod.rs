//! Whose quota a request uses: keys, and the extractors that read them.
//!
//! A [`KeyExtractor`] reads a [`Key`] from a request's head: an API key, a user, an address. Each key
//! has a quota of its own. The limiter keeps no keys, only fingerprints of them.
//!
//! [`ClientIp`] is an extractor, and the functions of this module return extractors; [`from_fn`] makes
//! one from a closure. A tuple of extractors counts each combination of their keys separately.
//!
//! # Found, missing, unreadable
//! An extractor has one of three answers, [`Extracted`]:
//!
//! | answer | the request | the policy |
//! |---|---|---|
//! | found | has the key | counts the request by the key |
//! | missing | has no key | does what it says: [`or_key`], [`or_skip`] or [`or_refuse`] |
//! | unreadable | has a key that is sent twice, or malformed | refuses the request |
//!
//! An unreadable key is not a missing one: the handler may read it in another way. If such a request
//! were not counted, or were counted by another key, callers could choose what they are counted by.
//! [`unreadable_as_missing`] allows it for a policy where this does no harm.
//!
//! [`or_key`]: crate::Policy::or_key
//! [`or_skip`]: crate::Policy::or_skip
//! [`or_refuse`]: crate::Policy::or_refuse
//! [`unreadable_as_missing`]: crate::Policy::unreadable_as_missing
//!
//! ```
//! use tower_quota::key::{self, ClientIp};
//!
//! let by_api_key = key::header("x-api-key");
//! let by_key_and_ip = (key::bearer(), ClientIp::new());
//! let by_user = key::extension("user", |user: &User| user.id.as_str().into());
//! # struct User { id: String }
//! # let _ = (by_api_key, by_key_and_ip, by_user);
//! ```

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod body_field;
mod bytes;
mod caller;
mod client_ip;
mod closure;
mod cookie;
mod extracted;
mod extractor;
mod fingerprint;
mod looked_up;
mod request_head;
mod same_text;

#[cfg(feature = "testing")]
pub(crate) use self::client_ip::has_peer;
pub(crate) use self::{
    body_field::Fields,
    client_ip::{hold_all_callers, parse_networks},
    extractor::canonical,
    fingerprint::{Domain, Fingerprinter},
    looked_up::LookedUp,
    same_text::same_text,
};
pub use self::{
    body_field::body_field,
    bytes::Key,
    caller::Caller,
    client_ip::{AddressHop, AddressWalk, ClientIp, FoundClient, HopAddress, PeerAddr, UnixPeer},
    closure::{extension, from_fn, try_from_fn},
    cookie::cookie,
    extracted::Extracted,
    extractor::KeyExtractor,
    fingerprint::Fingerprint,
    looked_up::looked_up,
    request_head::{bearer, header, path_param, query},
};
