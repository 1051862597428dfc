//! Redis as it really runs, for tests: processes on loopback, and networks that fail.
//!
//! Needs Debian's packages `redis-server` and `util-linux`. It blocks and keeps real time in threads
//! of its own, so a test may use it with any runtime or none. What goes wrong in it panics.

mod cluster;
mod port;
mod process;
mod proxy;
mod sentinel;
mod server;

use std::{
    thread,
    time::{Duration, Instant},
};

pub use self::{
    cluster::Cluster,
    proxy::Proxy,
    sentinel::Sentinel,
    server::{APPEND_ONLY, Server},
};

/// Long enough for a busy machine; nothing waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again until there is what is awaited.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
