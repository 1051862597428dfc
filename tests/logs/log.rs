//! The log of this process, kept for tests to read.

use std::{
    io,
    sync::{Mutex, Once},
    thread::{self, ThreadId},
};

use tracing_subscriber::filter::LevelFilter;

static LINES: Mutex<Vec<(ThreadId, String)>> = Mutex::new(Vec::new());

/// Keeps what is logged from now on.
///
/// Each test of this process calls it first: an event that happens while the subscriber is being
/// installed could be switched off for good.
pub fn keep() {
    static ONCE: Once = Once::new();
    let log = tracing_subscriber::fmt().with_max_level(LevelFilter::DEBUG).with_ansi(false);
    ONCE.call_once(|| log.with_target(false).with_writer(|| Writer).init());
}

/// Takes the lines that this thread has logged since the last call: each test has a thread.
pub fn take() -> Vec<String> {
    let this = thread::current().id();
    let mut lines = LINES.lock().unwrap();
    lines.extract_if(.., |(thread, _)| *thread == this).map(|(_, line)| line).collect()
}

/// The lines of all threads, without those taken.
#[cfg(feature = "usage-sqlite")]
pub fn of_all_threads() -> String {
    LINES.lock().unwrap().iter().map(|(_, line)| line.as_str()).collect()
}

/// Gets each event in one call.
struct Writer;

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8(bytes.to_vec()).unwrap();
        LINES.lock().unwrap().push((thread::current().id(), line));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
