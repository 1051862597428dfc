//! Memory and processor time of this process, and processes for one measurement each.

use std::{
    fs,
    process::{Command, Stdio},
    str::FromStr,
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

/// This program again, in a process of its own.
pub fn again() -> Command {
    Command::new(std::env::current_exe().expect("the path of this program"))
}

/// The numbers that `command` prints.
pub fn numbers_from<T: FromStr>(command: &mut Command) -> Vec<T> {
    let output = command.stderr(Stdio::inherit()).output().expect("a process");
    assert!(output.status.success(), "{command:?} failed");
    let text = String::from_utf8(output.stdout).expect("text");
    let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{command:?} said {word}"));
    text.split_whitespace().map(number).collect()
}

/// The bytes of memory that this process has in use.
pub fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux's /proc");
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0_usize) * rustix::param::page_size()
}

/// The time that this thread has run: what others do on its core is no part of it.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
