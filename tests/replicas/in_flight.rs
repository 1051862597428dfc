//! Faults while replicas hold units in flight: how many are held at once, and how soon all of them can be
//! held again. What each row asserts is what the docs of the store state.

use std::{thread, time::Duration};

use common::redis::{APPEND_ONLY, Proxy, Server, wait_for};

use crate::{
    holder::Holding,
    holders::{FIRST, Held, Holders, NONE, RECONNECTED},
    replica::micros,
    stage::{Row, WITH_PASSWORD, url},
};

/// So short that a row can wait until it is over.
const SHORT: Duration = Duration::from_secs(2);
const MOMENT: Duration = Duration::from_secs(1);
/// So long that it does not pass, even on a busy machine, while a server or a connection is gone.
const LONG: Duration = Duration::from_secs(5);

impl Holding {
    /// Long requests outlast every fault.
    fn new(port: u16, timeout: Duration) -> Self {
        Self { url: url(port), timeout, long: Duration::from_secs(6) }
    }
}

/// Replicas that know one server.
fn at(server: &Server, timeout: Duration) -> Holders {
    Holders::start(|_| Holding::new(server.port(), timeout))
}

/// Its units come back after the time-out.
pub fn replica_killed() -> Row {
    let server = Server::start_with(WITH_PASSWORD);
    let mut holders = at(&server, SHORT);
    holders.stop_one();
    holders.kill_one();
    holders.until_full(FIRST);
    let held = holders.end();
    let healed = held.healed(held.fault.start, FIRST);
    held.keeps_the_limit().row("a replica killed", healed, SHORT)
}

/// The excess is what the replica holds. After its next statement, no request enters until there is room.
pub fn replica_paused() -> Row {
    let server = Server::start_with(WITH_PASSWORD);
    let mut holders = at(&server, SHORT);
    holders.stop_one();
    holders.until_full(FIRST);
    holders.resume_one();
    thread::sleep(MOMENT);
    let held = holders.end();
    let its = held.held_at(FIRST, held.fault.start);
    held.exceeds().exceeds_by_at_most(its).enters_no_more_after(held.statement());
    let healed = held.healed(held.fault.start, FIRST);
    held.row("a replica paused for longer than the time-out", healed, SHORT)
}

/// One replica's way to the server is cut off until then.
fn cut_off(timeout: Duration, until: impl FnOnce(&Holders)) -> Held {
    let server = Server::start_with(WITH_PASSWORD);
    let proxy = Proxy::before(&server);
    let port = |place| if place == FIRST { proxy.port() } else { server.port() };
    let mut holders = Holders::start(|place| Holding::new(port(place), timeout));
    holders.until_long();
    proxy.refuse_connections();
    proxy.drop_connections();
    holders.fault_has_begun();
    until(&holders);
    proxy.pass();
    holders.fault_has_ended();
    thread::sleep(MOMENT);
    holders.until_full(NONE);
    holders.end()
}

pub fn cut_off_for_long() -> Row {
    let held = cut_off(SHORT, |holders| holders.until_full(FIRST));
    let its = held.held_at(FIRST, held.fault.start);
    held.exceeds().exceeds_by_at_most(its);
    held.enters_no_more_after(RECONNECTED + held.statement());
    let healed = held.healed(held.fault.start, FIRST);
    held.row("a replica cut off for longer than the time-out", healed, SHORT)
}

/// The units that it could not give back come back.
pub fn cut_off_briefly() -> Row {
    let held = cut_off(LONG, |_| thread::sleep(MOMENT));
    let healed = held.healed(held.fault.end, NONE);
    held.keeps_the_limit().row("a replica cut off for 1 s", healed, held.put_right_in())
}

pub fn lost_connections() -> Row {
    let server = Server::start_with(WITH_PASSWORD);
    let proxy = Proxy::before(&server);
    let mut holders = Holders::start(|_| Holding::new(proxy.port(), LONG));
    holders.fault_has_begun();
    for _ in 0..8 {
        proxy.lose_replies("EVALSHA", 3);
        thread::sleep(Duration::from_millis(60));
        proxy.drop_connections();
        thread::sleep(Duration::from_millis(60));
    }
    holders.fault_has_ended();
    holders.until_full(NONE);
    let held = holders.end();
    let healed = held.healed(held.fault.end, NONE);
    let fault = "connection lost in mid-script, 8 times in 1 s";
    held.keeps_the_limit().row(fault, healed, held.put_right_in())
}

/// Commands that were sent before the stop run after it, and statements correct the count.
pub fn stopped() -> Row {
    let server = Server::start_with(WITH_PASSWORD);
    let mut holders = at(&server, LONG);
    server.pause();
    holders.fault_has_begun();
    thread::sleep(MOMENT);
    server.resume();
    holders.fault_has_ended();
    holders.until_full(NONE);
    let held = holders.end();
    let healed = held.healed(held.fault.end, NONE);
    held.keeps_the_limit().row("server stopped for 1 s", healed, held.put_right_in())
}

pub fn flushed_scripts() -> Row {
    let server = Server::start_with(WITH_PASSWORD);
    let mut holders = at(&server, LONG);
    holders.fault_has_begun();
    for _ in 0..100 {
        server.ask::<()>(redis::cmd("SCRIPT").arg("FLUSH")).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    holders.fault_has_ended();
    holders.until_full(NONE);
    let held = holders.end();
    let healed = held.healed(held.fault.end, NONE);
    held.keeps_the_limit().row("`SCRIPT FLUSH`, 100 times in 1 s", healed, Duration::ZERO)
}

/// Kills a server whose units are held, and starts it again.
fn restarted(options: &[&str], timeout: Duration) -> Held {
    let server = Server::start_with(&[WITH_PASSWORD, options].concat());
    let mut holders = at(&server, timeout);
    holders.until_long();
    server.kill();
    holders.fault_has_begun();
    server.restart();
    holders.fault_has_ended();
    // Long enough for an excess to show.
    thread::sleep(MOMENT);
    holders.until_full(NONE);
    holders.end()
}

pub fn restarted_with_its_file() -> Row {
    let held = restarted(APPEND_ONLY, LONG);
    let healed = held.healed(held.fault.end, NONE);
    let fault = "server killed and restarted, `appendfsync always`";
    held.keeps_the_limit().row(fault, healed, held.put_right_in())
}

/// The excess is what was held, until replicas state it again.
pub fn killed() -> Row {
    let held = restarted(&[], SHORT);
    held.exceeds().exceeds_by_at_most(held.held_at(NONE, held.fault.start));
    held.enters_no_more_after(RECONNECTED + held.statement());
    let healed = held.healed(held.fault.end, NONE);
    held.row("server killed and restarted, without persistence", healed, RECONNECTED)
}

/// The excess is what the new server does not know of, until replicas state it. Units that it counts and no
/// replica holds come back.
pub fn failed_over() -> Row {
    let primary =
        Server::start_with(&[WITH_PASSWORD, &["--repl-diskless-sync-delay", "0"]].concat());
    let follows = ["--replicaof", "127.0.0.1", &primary.port().to_string()];
    let follower = Server::start_with(&[WITH_PASSWORD, &follows].concat());
    wait_for("a server that follows", || {
        let info: String = follower.ask(redis::cmd("INFO").arg("replication")).unwrap();
        info.contains("master_link_status:up").then_some(())
    });
    let proxy = Proxy::before(&primary);
    let orders = Holding { long: MOMENT / 2, ..Holding::new(proxy.port(), LONG) };
    let mut holders = Holders::start(|_| orders.clone());
    // The follower has the units that were taken before.
    let alone = micros();
    let mut connection = primary.connection();
    redis::cmd("SET").arg("other").arg(1).exec(&mut connection).unwrap();
    let told: u32 = redis::cmd("WAIT").arg(1).arg(10_000).query(&mut connection).unwrap();
    assert_eq!(told, 1);
    let mut deny = redis::cmd("ACL");
    primary.ask::<()>(deny.arg(&["SETUSER", "default", "-psync", "-sync"])).unwrap();
    let mut cut = redis::cmd("CLIENT");
    primary.ask::<u32>(cut.arg(&["KILL", "TYPE", "replica"])).unwrap();
    thread::sleep(MOMENT / 2);
    primary.kill();
    holders.fault_has_begun();
    follower.ask::<()>(redis::cmd("REPLICAOF").arg(&["NO", "ONE"])).unwrap();
    proxy.lead_to(&follower);
    holders.fault_has_ended();
    thread::sleep(MOMENT);
    holders.until_full(NONE);
    let held = holders.end();
    held.exceeds_by_at_most(held.taken_since(alone, held.fault.start));
    held.enters_no_more_after(RECONNECTED + held.statement());
    let healed = held.healed(held.fault.end, NONE);
    let fault = "the primary killed, 0.5 s after its replica had lost touch with it";
    held.row(fault, healed, held.put_right_in())
}
