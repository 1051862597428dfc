//! A Redis Sentinel, which watches a master and makes a replica the new one.

use std::fs::{self, OpenOptions};

use redis::{Client, Cmd, FromRedisValue, RedisResult};
use tempfile::TempDir;

use super::{PATIENCE, Server, port::free_port, process::Process, wait_for};

/// Watches one master, and decides by itself alone. Killed when dropped.
pub struct Sentinel {
    port: u16,
    _process: Process,
    _folder: TempDir,
}

impl Sentinel {
    /// The name of the master.
    pub const MASTER: &str = "quota";

    /// Starts when the master has this many replicas, and returns when the Sentinel knows them.
    pub fn watch(master: &Server, replicas: usize) -> Self {
        let connected = format!("connected_slaves:{replicas}");
        wait_for("the replicas", || {
            let info: String = master.ask(redis::cmd("INFO").arg("replication")).unwrap();
            info.contains(&connected).then_some(())
        });
        let folder = TempDir::new().unwrap();
        // It writes into its configuration, and needs a file for that.
        let (port, file) = (free_port(), folder.path().join("sentinel.conf"));
        let text = format!(
            "bind 127.0.0.1\nport {port}\nsentinel monitor {name} 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 2000\n",
            master.port(),
            name = Self::MASTER,
        );
        fs::write(&file, text).unwrap();
        let log = folder.path().join("log");
        let log = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let args = [file.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
        let process = Process::start("redis-server", &args, log);
        let sentinel = Self { port, _process: process, _folder: folder };
        wait_for("a Sentinel that knows the replicas", || {
            let mut known = redis::cmd("SENTINEL");
            let known: Vec<redis::Value> =
                sentinel.ask(known.arg("REPLICAS").arg(Self::MASTER)).ok()?;
            (known.len() == replicas).then_some(())
        });
        sentinel
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port of the master that it names.
    pub fn master(&self) -> u16 {
        let mut ask = redis::cmd("SENTINEL");
        let address: (String, u16) =
            self.ask(ask.arg("GET-MASTER-ADDR-BY-NAME").arg(Self::MASTER)).unwrap();
        address.1
    }

    /// Makes a replica the master, though the master works.
    pub fn fail_over(&self) {
        wait_for("a fail-over that begins", || {
            let mut command = redis::cmd("SENTINEL");
            self.ask::<()>(command.arg("FAILOVER").arg(Self::MASTER)).ok()
        });
    }

    fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let client = Client::open(("127.0.0.1", self.port))?;
        command.query(&mut client.get_connection_with_timeout(PATIENCE)?)
    }
}
