//! Shared by the benchmarks: arguments, keys, quotas, paired rounds and Markdown tables.
#![allow(dead_code, reason = "each benchmark uses its part")]

pub mod args;
pub mod keys;
pub mod process;
pub mod rounds;
pub mod routers;
pub mod stats;

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::HeaderName;
use tower_quota::{Clock, Limiter, Policy, key::header, store::MemoryStore};

/// The header that the key is read from.
pub static API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// So long that nothing comes back, and nothing expires, while it is measured.
pub const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// What `future` answers at once, as the memory store does.
#[inline]
pub fn now_or_never<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing here waits"),
    }
}

/// The bound for that many keys, with some room, as users set it.
pub const fn room_for(keys: usize) -> usize {
    if keys < 8_000 { 10_000 } else { keys + keys / 4 }
}

/// A limiter whose `policies` count by the header, with room for `keys`.
pub fn limiter(policies: impl IntoIterator<Item = Policy>, keys: usize, clock: Clock) -> Limiter {
    let (mut limiter, mut counts) = (Limiter::builder().clock(clock), 0);
    for policy in policies {
        limiter = limiter.policy(policy.key(header(API_KEY.as_str())).or_refuse());
        counts += keys;
    }
    let store = MemoryStore::with_max_keys(room_for(counts));
    limiter.store(store).build().expect("settings that work")
}

/// governor's quota of `units` in each `window`.
pub fn governors(units: u32, window: Duration) -> governor::Quota {
    let burst = units.try_into().expect("at least one unit");
    governor::Quota::with_period(window / units).expect("some time a unit").allow_burst(burst)
}
