//! Faults by which the server loses counts, or cannot count: how much more is admitted.

use std::{ops::Range, thread, time::Duration};

use common::redis::{Cluster, Server, wait_for};

use crate::{
    faults::{PATIENCE, a_hot_key},
    quotas::{KEYS, POLICIES, Quotas},
    replica::Orders,
    stage::{Row, Stage, WITH_PASSWORD},
};

/// The number of keys without a quota, of which fewer fill the memory.
const OTHERS: u32 = 1_000;
const EVER: Range<u64> = 0..u64::MAX;

/// Each kill is worth one more quota, and no more.
pub fn killed() -> Row {
    let server = Server::start_with(WITH_PASSWORD);
    // The server is back before the window is over, also on a busy machine.
    let quotas = Quotas { units: 150, window: Duration::from_secs(3) };
    let mut stage = Stage::start(&Orders { quotas, ..Orders::server(&server) });
    stage.until_busy();
    stage.fault(|| {
        server.kill();
        server.restart();
    });
    stage.until_busy();
    stage.pass(1);
    let run = stage.end();
    let most = run.is_busy().most(&EVER);
    assert!(most.iter().all(|most| *most <= 2.0), "{most:?} of the quotas in a window");
    assert!(most.iter().any(|most| *most > 1.0), "a server without a file forgets");
    run.row("killed and restarted, without persistence")
}

/// What a master has admitted and not sent to its replica is admitted once more, and nothing else is.
pub fn failed_over() -> Row {
    let cluster = Cluster::start_with_replicas();
    // The fail-over takes seconds, and the window is not over then.
    let quotas = Quotas { units: 700, window: Duration::from_secs(10) };
    let pause = Duration::from_millis(20);
    let mut stage = Stage::start(&Orders { quotas, pause, ..Orders::new(cluster.urls()) });
    thread::sleep(Duration::from_millis(500));
    let key = a_hot_key(cluster.nodes());
    let master = cluster.master_of(&key);
    stage.fault(|| {
        // The replica follows no more, and learns nothing of the second that comes.
        let mut deny = redis::cmd("ACL");
        master.ask::<()>(deny.arg(&["SETUSER", "default", "-psync", "-sync"])).unwrap();
        let mut cut = redis::cmd("CLIENT");
        master.ask::<u32>(cut.arg(&["KILL", "TYPE", "replica"])).unwrap();
        thread::sleep(Duration::from_secs(1));
        master.kill();
        wait_for("a replica that takes over", || {
            (cluster.master_of(&key).port() != master.port()).then_some(())
        });
    });
    thread::sleep(Duration::from_secs(3));
    let run = stage.end();
    let mut excess = [0; POLICIES];
    for (policy, excess) in excess.iter_mut().enumerate() {
        for key in 0..KEYS {
            let most = run.quotas.most(policy, &run.used(policy, key, &EVER));
            // Of what the master admitted alone, all may be admitted twice.
            let alone = run.used(policy, key, &(run.fault.start..run.fault.end));
            let alone: u64 = alone.iter().map(|one| one.units).sum();
            let beyond = most.saturating_sub(run.quotas.capacity(policy));
            assert!(beyond <= alone, "{beyond} beyond the quota, {alone} were not told");
            *excess = beyond.max(*excess);
        }
    }
    assert!(excess.iter().any(|beyond| *beyond > 0), "what is not told is forgotten");
    run.row("a cluster's master killed 1 s after its replica lost touch")
}

/// Each count that is evicted is worth one more quota. Operators are warned.
pub fn evicting() -> Row {
    let options = ["--maxmemory", "4mb", "--maxmemory-policy", "volatile-ttl"];
    let server = Server::start_with(&[WITH_PASSWORD, &options].concat());
    let mut stage = Stage::start(&Orders { patience: PATIENCE, ..Orders::server(&server) });
    stage.until_busy();
    stage.fault(|| fill(&server));
    stage.pass(2);
    let run = stage.end();
    assert_eq!(run.logged("maxmemory-policy"), [1, 1, 1]);
    let most = run.is_busy().most(&EVER);
    assert!(most.iter().any(|most| *most > 1.0), "counts were evicted");
    run.row("`maxmemory` reached with `volatile-ttl`")
}

/// A full server that evicts nothing cannot count; that is one change of state, until it can.
pub fn full() -> Row {
    let options = ["--maxmemory", "8mb", "--maxmemory-policy", "noeviction"];
    let server = Server::start_with(&[WITH_PASSWORD, &options].concat());
    let mut stage = Stage::start(&Orders { patience: PATIENCE, ..Orders::server(&server) });
    stage.until_busy();
    stage.fault(|| {
        fill(&server);
        // Where every write is refused, however short.
        server.ask::<()>(redis::cmd("CONFIG").arg(&["SET", "maxmemory", "6mb"])).unwrap();
        thread::sleep(Duration::from_secs(1));
        for place in 0..OTHERS {
            server.ask::<()>(redis::cmd("DEL").arg(other(place))).unwrap();
        }
    });
    stage.pass(2);
    let run = stage.end();
    assert_eq!(run.logged("maxmemory-policy"), [0, 0, 0]);
    assert_eq!(run.logged("is given up"), [1, 1, 1]);
    assert_eq!(run.logged("answers again"), [1, 1, 1]);
    run.keeps_the_quota().row("`maxmemory` reached with `noeviction`, for 1 s")
}

/// Fills the memory with keys that stay, until a write is refused or all of them are written.
fn fill(server: &Server) {
    let mut connection = server.connection();
    let text = "x".repeat(10_000);
    for place in 0..OTHERS {
        let set = redis::cmd("SET").arg(other(place)).arg(&text).exec(&mut connection);
        if set.is_err() {
            return;
        }
    }
}

fn other(place: u32) -> String {
    format!("other-{place}")
}
