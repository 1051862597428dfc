//! One Redis server.

use std::{
    fs::{self, OpenOptions},
    path::Path,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use redis::{Client, Cmd, Connection, FromRedisValue, InfoDict, IntoConnectionInfo, RedisResult};
use tempfile::TempDir;

use super::{
    PATIENCE,
    port::{BUS, free_port},
    process::Process,
    wait_for,
};

/// Options of a server that has every write in a file before it answers, and reads it when it restarts.
pub const APPEND_ONLY: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// A `redis-server` on a port of 127.0.0.1. It keeps nothing across a restart, unless its options say
/// so. Killed when dropped.
pub struct Server {
    port: u16,
    args: Vec<String>,
    process: Mutex<Process>,
    folder: TempDir,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With options as on its command line, such as `--maxmemory 4mb --databases 2`, each a word.
    pub fn start_with(options: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        // Each has a default: the port, the folder, and snapshots.
        let fixed = ["--bind", "127.0.0.1", "--save", "", "--dir", folder.path().to_str().unwrap()];
        for _ in 0..10 {
            let port = free_port();
            let args = fixed.iter().chain(options).map(|&word| word.to_owned());
            let args: Vec<_> = args.chain(["--port".to_owned(), port.to_string()]).collect();
            if let Some(process) = launch(port, &args, folder.path()) {
                return Self { port, args, process: Mutex::new(process), folder };
            }
        }
        panic!("the server does not start: {}", log(folder.path()));
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Another port that was free when the server started, as for TLS.
    pub fn second_port(&self) -> u16 {
        self.port + BUS
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Where it keeps its files: the log, and under `appendonlydir` each write if it is [`APPEND_ONLY`].
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Stops it where it is (SIGSTOP): it takes connections, and answers nothing until it goes on.
    pub fn pause(&self) {
        self.process().pause();
    }

    /// Lets it go on after a pause (SIGCONT).
    pub fn resume(&self) {
        self.process().resume();
    }

    /// Ends it at once (SIGKILL). Its port refuses connections from then on.
    pub fn kill(&self) {
        self.process().kill();
    }

    /// Ends it if it runs, and starts it again on the same port, with what its files have kept.
    pub fn restart(&self) {
        let mut process = self.process();
        process.kill();
        let again = launch(self.port, &self.args, self.folder());
        *process = again.unwrap_or_else(|| panic!("no restart: {}", log(self.folder())));
    }

    /// A connection whose commands fail rather than wait for ever.
    pub fn connection(&self) -> Connection {
        connect(self.port, PATIENCE).unwrap()
    }

    /// Whether it answers a new connection in time.
    pub fn answers_within(&self, timeout: Duration) -> bool {
        connect(self.port, timeout).is_ok_and(|mut connection| info(&mut connection).is_ok())
    }

    /// How many commands of clients and of their scripts it has carried out since it started, without
    /// those that ask the server about itself or open a connection.
    pub fn commands(&self) -> u64 {
        let own = ["client", "cluster", "hello", "info", "pttl", "scan", "select"];
        let is_own = |name: &str| own.contains(&name.split('|').next().unwrap());
        let calls = self.calls_by_command();
        calls.into_iter().filter(|(name, _)| !is_own(name)).map(|(_, calls)| calls).sum()
    }

    /// How often it has carried out one command since it started, scripts' calls of it included.
    pub fn calls(&self, command: &str) -> u64 {
        let command = command.to_lowercase();
        let calls = self.calls_by_command();
        calls.into_iter().find(|(name, _)| *name == command).map_or(0, |(_, calls)| calls)
    }

    fn calls_by_command(&self) -> Vec<(String, u64)> {
        let text: String = self.ask(redis::cmd("INFO").arg("commandstats")).unwrap();
        // such as cmdstat_get:calls=2,usec=9,usec_per_call=4.50,rejected_calls=0,failed_calls=0
        let stats = text.lines().filter_map(|line| line.strip_prefix("cmdstat_"));
        stats
            .map(|line| {
                let (name, stats) = line.split_once(":calls=").unwrap();
                (name.to_owned(), stats.split(',').next().unwrap().parse().unwrap())
            })
            .collect()
    }

    /// The bytes that its data and buffers take.
    pub fn memory(&self) -> u64 {
        let info = info(&mut self.connection()).unwrap();
        info.get("used_memory").expect("a server tells its memory")
    }

    /// Every key of database 0, in no order.
    pub fn keys(&self) -> Vec<String> {
        let mut connection = self.connection();
        let keys = redis::cmd("SCAN").cursor_arg(0).clone().iter(&mut connection).unwrap();
        let mut keys: Vec<_> = keys.collect::<RedisResult<_>>().expect("keys are text");
        // A scan may come by a key twice.
        keys.sort();
        keys.dedup();
        keys
    }

    /// The keys of database 0 that would stay for ever.
    pub fn keys_without_ttl(&self) -> Vec<String> {
        let mut connection = self.connection();
        let mut stays = |key: &String| {
            let ttl: i64 = redis::cmd("PTTL").arg(key).query(&mut connection).unwrap();
            ttl == -1
        };
        self.keys().into_iter().filter(|key| stays(key)).collect()
    }

    /// The answer to one command, on a connection of its own.
    pub fn ask<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        command.query(&mut connect(self.port, PATIENCE)?)
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap()
    }
}

/// Runs a server until it answers; none if it ends by itself, as when its port is taken.
fn launch(port: u16, args: &[String], folder: &Path) -> Option<Process> {
    let log = OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
    let mut process = Process::start("redis-server", args, log);
    // The port may be another server's, which was faster: the answer must be of this process.
    wait_for("a server that answers", || {
        if process.has_ended() {
            return Some(false);
        }
        let info = info(&mut connect(port, PATIENCE).ok()?).ok()?;
        let is_ready =
            info.get("loading") == Some(0) && info.get("process_id") == Some(process.id());
        is_ready.then_some(true)
    })
    .then_some(process)
}

fn log(folder: &Path) -> String {
    fs::read_to_string(folder.join("log")).unwrap()
}

fn connect(port: u16, timeout: Duration) -> RedisResult<Connection> {
    let server = ("127.0.0.1", port).into_connection_info()?;
    // Nothing is sent to open it.
    let settings = server.redis_settings().clone().set_skip_set_lib_name();
    let client = Client::open(server.set_redis_settings(settings))?;
    let connection = client.get_connection_with_timeout(timeout)?;
    connection.set_read_timeout(Some(timeout))?;
    connection.set_write_timeout(Some(timeout))?;
    Ok(connection)
}

fn info(connection: &mut Connection) -> RedisResult<InfoDict> {
    redis::cmd("INFO").query(connection)
}
