//! The servers, clusters and networks that the other tests of the Redis store use.
#![cfg(feature = "redis")]

use std::{
    fs,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::redis::{APPEND_ONLY, Cluster, PATIENCE, Proxy, Server, wait_for};
use redis::{Client, Connection, RedisResult};

const SHORT: Duration = Duration::from_millis(200);

fn increment(connection: &mut Connection, key: &str) -> RedisResult<i64> {
    connection.set_read_timeout(Some(PATIENCE))?;
    redis::cmd("INCR").arg(key).query(connection)
}

fn connect(url: &str) -> RedisResult<Connection> {
    Client::open(url)?.get_connection_with_timeout(PATIENCE)
}

#[test]
fn a_paused_server_answers_when_it_goes_on() {
    let server = Server::start();
    assert!(server.answers_within(PATIENCE));
    server.pause();
    assert!(!server.answers_within(SHORT));
    server.resume();
    assert!(server.answers_within(PATIENCE));
}

#[test]
fn a_server_that_appends_remembers_across_a_kill() {
    for (options, remembered) in [(APPEND_ONLY, 2), (&[], 1)] {
        let server = Server::start_with(options);
        assert_eq!(increment(&mut server.connection(), "n"), Ok(1));
        server.kill();
        assert!(connect(&server.url()).is_err());
        let url = server.url();
        server.restart();
        assert_eq!((server.url(), server.answers_within(PATIENCE)), (url, true));
        assert_eq!(increment(&mut server.connection(), "n"), Ok(remembered));
    }
}

#[test]
fn options_are_the_servers() {
    let server = Server::start_with(&["--maxmemory", "2mb", "--maxmemory-policy", "allkeys-lru"]);
    let before = server.memory();
    let set = |key: usize| {
        server.ask::<()>(redis::cmd("SET").arg(key).arg("x".repeat(10_000))).unwrap();
    };
    set(0);
    assert!(server.memory() > before);
    (1..200).for_each(set);
    assert!(server.keys().len() < 200, "it evicts");
}

#[test]
fn what_a_server_did_and_keeps() {
    let server = Server::start();
    assert_eq!((server.commands(), server.keys()), (0, vec![]));
    let set = |key: &str, ttl: &[&str]| {
        server.ask::<()>(redis::cmd("SET").arg(key).arg(1).arg(ttl)).unwrap();
    };
    // More than one step of a scan.
    let passing: Vec<_> = (0..50).map(|place| format!("passing-{place}")).collect();
    passing.iter().for_each(|key| set(key, &["EX", "100"]));
    set("for-ever", &[]);
    assert_eq!(server.keys().len(), 51);
    assert_eq!(server.keys_without_ttl(), ["for-ever"]);
    let script = redis::Script::new("return redis.call('INCR', KEYS[1])");
    assert_eq!(script.key("for-ever").invoke(&mut server.connection()), Ok(2));
    // A script that the server does not know is loaded, and called again.
    assert_eq!(["set", "EVALSHA", "incr"].map(|name| server.calls(name)), [51, 2, 1]);
    assert_eq!(server.commands(), 51 + 2 + 1 + 1);
}

/// This test runs itself once more, as the process that is killed while it has a server.
#[test]
fn no_server_outlives_its_test() {
    const NAME: &str = "servers::no_server_outlives_its_test";
    const FILE: &str = "REDIS_HARNESS_PORT";
    if let Some(file) = std::env::var_os(FILE) {
        // The thread that started it may end.
        let server = thread::spawn(Server::start).join().unwrap();
        assert!(server.answers_within(PATIENCE));
        fs::write(&file, server.port().to_string()).unwrap();
        thread::sleep(PATIENCE);
        panic!("it has not been killed");
    }
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("port");
    let mut test = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env(FILE, &file)
        // what the server leaves behind goes with the folder
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let port: u16 = wait_for("the port", || fs::read_to_string(&file).ok()?.parse().ok());
    let url = format!("redis://127.0.0.1:{port}/");
    assert!(connect(&url).is_ok());
    test.kill().unwrap();
    test.wait().unwrap();
    wait_for("the server's end", || connect(&url).is_err().then_some(()));
}

#[test]
fn a_cluster_serves_every_slot_but_those_of_a_dead_master() {
    let cluster = Cluster::start();
    let nodes = cluster.nodes();
    assert_eq!((nodes.len(), cluster.urls()[2].clone()), (3, nodes[2].url()));
    let client = redis::cluster::ClusterClient::new(cluster.urls()).unwrap();
    let mut connection = client.get_connection().unwrap();
    let mut by_master = [0; 3];
    for place in 0..300 {
        let key = format!("key-{place}");
        let count: i64 = redis::cmd("INCR").arg(&key).query(&mut connection).unwrap();
        assert_eq!(count, 1);
        let master = cluster.master_of(&key);
        // Another node would answer that the slot is not its.
        assert_eq!(increment(&mut master.connection(), &key), Ok(2));
        let place = nodes.iter().position(|node| node.port() == master.port()).unwrap();
        by_master[place] += 1;
    }
    assert!(by_master.iter().all(|&keys| keys > 50), "{by_master:?}");

    let dead = cluster.master_of("key-0").port();
    cluster.master_of("key-0").kill();
    let mut others = (0..300).map(|place| format!("key-{place}"));
    let other = others.find(|key| cluster.master_of(key).port() != dead).unwrap();
    // Longer than the others need to find that it is dead.
    for _ in 0..20 {
        increment(&mut cluster.master_of(&other).connection(), &other).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_replica_takes_over() {
    let cluster = Cluster::start_with_replicas();
    let master = cluster.master_of("n");
    let mut connection = master.connection();
    assert_eq!(increment(&mut connection, "n"), Ok(1));
    let replicas = redis::cmd("WAIT").arg(1).arg(5_000).query(&mut connection);
    assert_eq!(replicas, Ok(1));
    master.kill();
    let replica = wait_for("a new master", || {
        let now = cluster.master_of("n");
        (now.port() != master.port()).then_some(now)
    });
    assert_eq!(increment(&mut replica.connection(), "n"), Ok(2));
}

#[test]
fn a_reply_is_lost_after_its_command() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    proxy.lose_replies("INCR", 2);
    for count in 1..=2 {
        let mut connection = connect(&proxy.url()).unwrap();
        assert!(redis::cmd("PING").query::<String>(&mut connection).is_ok());
        assert!(increment(&mut connection, "n").unwrap_err().is_connection_dropped());
        assert_eq!(server.calls("incr"), count);
    }
    assert_eq!(increment(&mut connect(&proxy.url()).unwrap(), "n"), Ok(3));
    assert_eq!(proxy.connections(), 3);
}

#[test]
fn connections_are_dropped_and_refused() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let mut connection = connect(&proxy.url()).unwrap();
    assert_eq!(increment(&mut connection, "n"), Ok(1));
    proxy.refuse_connections();
    assert!(connect(&proxy.url()).err().unwrap().is_connection_refusal());
    assert_eq!(increment(&mut connection, "n"), Ok(2));
    proxy.drop_connections();
    assert!(increment(&mut connection, "n").is_err());
    assert_eq!(server.calls("incr"), 2);
    proxy.pass();
    assert_eq!(increment(&mut connect(&proxy.url()).unwrap(), "n"), Ok(3));
}

#[test]
fn replies_are_late_but_not_one_after_the_other() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let mut connection = connect(&proxy.url()).unwrap();
    const DELAY: Duration = Duration::from_millis(500);
    proxy.delay_replies(DELAY);
    let start = Instant::now();
    for count in 1..=2 {
        let command = redis::cmd("INCR").arg("n").get_packed_command();
        connection.send_packed_command(&command).unwrap();
        wait_for("the command", || (server.calls("incr") == count).then_some(()));
    }
    for count in 1..=2 {
        assert_eq!(connection.recv_response(), Ok(redis::Value::Int(count)));
    }
    assert!((DELAY..2 * DELAY).contains(&start.elapsed()));
    proxy.pass();
    let start = Instant::now();
    assert_eq!(increment(&mut connection, "n"), Ok(3));
    assert!(start.elapsed() < DELAY);
}

#[test]
fn what_is_swallowed_reaches_nobody() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let mut connection = connect(&proxy.url()).unwrap();
    let (commands, bytes) = (proxy.commands(), proxy.bytes());
    assert_eq!(increment(&mut connection, "n"), Ok(1));
    assert_eq!(proxy.commands(), commands + 1);
    assert_eq!(proxy.bytes() - bytes, "*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n".len() as u64);
    proxy.swallow();
    connection.set_read_timeout(Some(SHORT)).unwrap();
    let error = redis::cmd("INCR").arg("n").query::<i64>(&mut connection).unwrap_err();
    assert!(error.is_timeout());
    let client = Client::open(proxy.url()).unwrap();
    assert!(client.get_connection_with_timeout(SHORT).err().unwrap().is_timeout());
    assert_eq!(server.calls("incr"), 1);
    proxy.pass();
    assert!(increment(&mut connection, "n").is_err());
    assert_eq!(increment(&mut connect(&proxy.url()).unwrap(), "n"), Ok(2));
}
