//! A server in a process of its own.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::common::{process::again, routers::Variant};

/// The argument with which this program serves.
pub const SERVE: &str = "serve";

/// Serves on one thread, on a free port that it prints, until its input ends.
pub fn serve(variant: Variant) {
    // With its client, it never outlives it.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a free port");
        println!("{}", listener.local_addr().expect("an address"));
        axum::serve(listener, variant.router()).await.expect("a server");
    });
}

/// Keeps a process on a core, where there are two and `taskset` is installed.
pub fn pin(process: u32, core: usize) {
    let arguments = ["-cp".to_owned(), core.to_string(), process.to_string()];
    let pinned = Command::new("taskset").args(arguments).stdout(Stdio::null()).status();
    if !pinned.is_ok_and(|status| status.success()) {
        eprintln!("process {process} is not pinned to core {core}");
    }
}

/// A running server; it ends when this is dropped.
pub struct Servant {
    process: Child,
    address: SocketAddr,
}

impl Servant {
    pub fn start(variant: usize) -> Self {
        let mut command = again();
        command.arg(SERVE).arg(variant.to_string());
        let mut process =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        pin(process.id(), 1);
        let mut line = String::new();
        let output = process.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut line).expect("a line");
        let address = line.trim().parse().expect("an address");
        Self { process, address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its serving thread has used of its core so far.
    pub fn processor_time(&self) -> Duration {
        // The kernel adds it up when the thread falls asleep.
        std::thread::sleep(Duration::from_millis(1));
        let path = format!("/proc/{}/schedstat", self.process.id());
        let schedstat = fs::read_to_string(path).expect("Linux's /proc");
        let nanos = schedstat.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.expect("nanoseconds"))
    }
}

impl Drop for Servant {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}
