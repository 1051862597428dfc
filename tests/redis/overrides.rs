//! Overrides that replicas share through Redis, and what holds while it is down.
#![cfg(feature = "redis")]

use std::time::{Duration, Instant};

use common::redis::{APPEND_ONLY, Cluster, PATIENCE, Server};
use http::{Request, request::Parts};
use tower_quota::{
    Decision, Limiter, OnStoreFailure, Policy, Quota, Reason, Verdict,
    key::header,
    overrides::{Override, OverrideError, OverrideKind},
    store::{RedisStore, RedisStoreBuilder},
    warning::{Code, warnings},
};

use crate::outage::until;

const SECRET: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
const HOUR: Duration = Duration::from_secs(3_600);

/// A replica, which has its own connection.
fn replica(store: RedisStoreBuilder) -> Limiter {
    let store = store.connect_timeout(PATIENCE).response_timeout(PATIENCE);
    start(store.decision_timeout(PATIENCE))
}

fn start(store: RedisStoreBuilder) -> Limiter {
    let reads = Policy::fixed_window("read", Quota::per_day(900)).key(header("x-key")).or_skip();
    Limiter::builder()
        .policy(reads.on_store_failure(OnStoreFailure::Allow))
        .caller(header("x-key"))
        .store(store.secret(SECRET).build().unwrap())
        .build()
        .unwrap()
}

fn request(key: &str) -> Parts {
    Request::get("/").header("x-key", key).body(()).unwrap().into_parts().0
}

async fn is_blocked(limiter: &Limiter, key: &str) -> bool {
    limiter.decide(&request(key)).await.reason() == Some(Reason::Blocked)
}

/// What a replica has of each override: key, policy and reason.
fn listed(limiter: &Limiter) -> Vec<(String, Option<String>, Option<String>)> {
    let known: Vec<_> =
        ["a", "b", "c"].map(|key| (key, limiter.overrides().caller(key).unwrap())).into();
    let name = |caller| {
        let (name, _) = known.iter().find(|(_, known)| known.fingerprint() == caller).unwrap();
        (*name).to_owned()
    };
    let all = limiter.overrides().list().into_iter();
    all.map(|own| (name(own.caller), own.policy().map(str::to_owned), own.reason)).collect()
}

#[tokio::test]
async fn what_one_replica_sets_holds_on_all_within_a_second_and_costs_requests_nothing() {
    let server = Server::start();
    let [a, b] = [(); 2].map(|()| replica(RedisStore::builder(server.url())));
    for limiter in [&a, &b] {
        assert!(!is_blocked(limiter, "a").await);
    }
    let caller = a.overrides().caller("a").unwrap();
    assert_eq!(caller.block(HOUR).at_once(), Err(OverrideError::WouldWait));
    assert_eq!(caller.block(HOUR).reason("scraping").author("ana").await.unwrap(), []);
    assert!(is_blocked(&a, "a").await, "at once where it was set");
    let set = Instant::now();
    until("the other replica to know", async || is_blocked(&b, "a").await).await;
    // It takes a quarter of a second; a busy machine is given more.
    assert!(set.elapsed() < Duration::from_secs(5), "{:?}", set.elapsed());
    let list = b.overrides().list();
    let [block] = &list[..] else { panic!("{list:?}") };
    assert_eq!(block.kind, OverrideKind::Block);
    let texts = (block.reason.as_deref(), block.author.as_deref());
    assert_eq!(texts, (Some("scraping"), Some("ana")));
    assert_eq!(block.until - block.since, HOUR);
    let refused = b.decide(&request("a")).await;
    let Verdict::Blocked { wait } = refused.verdict() else { panic!("{refused:?}") };
    assert!(wait <= HOUR && wait > HOUR - Duration::from_secs(60), "{wait:?}");

    // In each way of asking, and by the same caller's fingerprint.
    let of_b = b.overrides().by_fingerprint(block.caller).unwrap();
    let replaced = of_b.block(2 * HOUR).reason("still").await.unwrap();
    assert_eq!(replaced[0].reason.as_deref(), Some("scraping"));
    assert_eq!(of_b.unblock().await.unwrap().len(), 1);
    assert_eq!(of_b.set_quota("read", Quota::per_day(5_000), HOUR).await.unwrap(), []);
    let is_quota = |own: &Override| own.policy() == Some("read");
    until("the quota on the other", async || {
        let own = a.overrides().list();
        own.iter().all(is_quota) && !own.is_empty()
    })
    .await;
    let limit = |decision: &Decision| decision.outcomes().next().unwrap().limit();
    assert_eq!(limit(&a.decide(&request("a")).await), 5_000);
    assert_eq!(limit(&a.check("read", "a").await.unwrap()), 5_000);
    assert_eq!(limit(&a.peek_request(&request("a")).await), 5_000);
    assert_eq!(limit(&a.give_back("read", "a", 1).await.unwrap()), 5_000);

    // A request is one command, whether or not its caller has an override.
    for key in ["a", "b"] {
        let _ = b.decide(&request(key)).await;
        let before = server.calls("evalsha");
        for _ in 0..50 {
            let _ = b.decide(&request(key)).await;
        }
        assert_eq!(server.calls("evalsha") - before, 50, "{key}");
    }
    assert!(server.keys_without_ttl().is_empty());
    assert_eq!(of_b.end_all().await.unwrap().len(), 1);
    until("the end on the other", async || listed(&a).is_empty()).await;
}

#[tokio::test]
async fn a_new_process_knows_all_overrides_before_its_first_request() {
    let server = Server::start();
    let first = replica(RedisStore::builder(server.url()));
    let caller = |key| first.overrides().caller(key).unwrap();
    let _ = caller("a").block(HOUR).await.unwrap();
    let _ = caller("b").set_quota("read", Quota::per_day(3), HOUR).await.unwrap();
    let _ = caller("c").set_quota("read", Quota::unlimited(), HOUR).await.unwrap();
    let next = || replica(RedisStore::builder(server.url()));
    assert!(is_blocked(&next(), "a").await);
    assert_eq!(next().decide(&request("b")).await.remaining(), 2);
    assert_eq!(next().decide(&request("c")).await.outcomes().len(), 0);
    let peeked = next().peek_request(&request("b")).await;
    assert_eq!(peeked.remaining(), 2);
    let check = next();
    assert_eq!(check.check("read", "a").await.unwrap().reason(), Some(Reason::Blocked));
    assert_eq!(next().give_back("read", "b", 1).await.unwrap().remaining(), 3);
    assert!(next().check("read", "a").at_once().is_err(), "it would wait");
}

#[tokio::test]
async fn without_the_server_what_is_known_holds_and_changes_fail_and_a_restart_keeps_them() {
    let server = Server::start_with(APPEND_ONLY);
    let limiter = start(RedisStore::builder(server.url()));
    let caller = |key| limiter.overrides().caller(key).unwrap();
    until("the server", async || caller("a").block(HOUR).await.is_ok()).await;
    let _ = caller("b").block(Duration::from_millis(600)).await.unwrap();
    assert!(is_blocked(&limiter, "b").await);
    server.kill();
    let error = caller("c").block(HOUR).await.unwrap_err();
    assert!(matches!(error, OverrideError::Store(_)), "{error}");
    assert!(!is_blocked(&limiter, "c").await);
    assert!(is_blocked(&limiter, "a").await, "it is known");
    until("the end of a known one", async || !is_blocked(&limiter, "b").await).await;
    assert!(is_blocked(&limiter, "a").await, "as long as it was set for");

    // A process that starts meanwhile knows none, and says so.
    let new = start(RedisStore::builder(server.url()));
    assert!(!is_blocked(&new, "a").await);
    until("the warning", async || {
        warnings().iter().any(|given| given.code() == Code::OverridesUnknown)
    })
    .await;
    server.restart();
    until("the new process to know", async || is_blocked(&new, "a").await).await;
    assert!(is_blocked(&limiter, "a").await);
    until("a change", async || caller("c").block(HOUR).await.is_ok()).await;
    until("it to be known", async || is_blocked(&new, "c").await).await;
}

#[tokio::test]
async fn a_server_that_hangs_costs_a_new_process_its_decision_timeout_at_most() {
    let server = Server::start();
    let limiter = start(RedisStore::builder(server.url()));
    let caller = limiter.overrides().caller("a").unwrap();
    until("the server", async || caller.block(HOUR).await.is_ok()).await;
    server.pause();
    let new = start(RedisStore::builder(server.url()));
    let asked = Instant::now();
    assert!(!is_blocked(&new, "a").await);
    // 50 ms for the overrides and 50 ms for the counts; a busy machine is given more.
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    assert!(is_blocked(&limiter, "a").await);
    let error = caller.unblock().await.unwrap_err();
    assert!(matches!(error, OverrideError::Store(_)), "{error}");
    server.resume();
    until("the new process to know", async || {
        is_blocked(&new, "a").await || listed(&new).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_forgets_everything_is_followed() {
    let server = Server::start();
    let [a, b] = [(); 2].map(|()| replica(RedisStore::builder(server.url())));
    for key in ["a", "b", "c"] {
        let _ = a.overrides().caller(key).unwrap().block(HOUR).await.unwrap();
    }
    until("all three", async || listed(&b).len() == 3).await;
    server.ask::<()>(&redis::cmd("FLUSHALL")).unwrap();
    until("none", async || listed(&a).is_empty() && listed(&b).is_empty()).await;
    let _ = b.overrides().caller("b").unwrap().block(HOUR).await.unwrap();
    until("the new one", async || listed(&a) == [("b".to_owned(), None, None)]).await;
    assert_eq!(listed(&b), listed(&a));
}

#[tokio::test]
async fn more_than_ten_thousand_are_refused_whichever_replica_sets_them() {
    let server = Server::start();
    let [a, b] = [(); 2].map(|()| replica(RedisStore::builder(server.url())));
    let set = async |limiter: &Limiter, number: u32, time| {
        let caller = limiter.overrides().caller(format!("key {number}")).unwrap();
        caller.block(time).await.map(drop)
    };
    // Those of the first ten end soon.
    for number in 0..10_000 {
        let time = if number < 10 { Duration::from_millis(1) } else { HOUR };
        set(&a, number, time).await.unwrap();
    }
    assert_eq!(a.overrides().list().len(), 9_990);
    for number in 10_000..10_010 {
        set(&b, number, HOUR).await.unwrap();
    }
    assert_eq!(set(&b, 10_010, HOUR).await, Err(OverrideError::Full));
    assert_eq!(set(&a, 10_011, HOUR).await, Err(OverrideError::Full));
    set(&a, 10_000, 2 * HOUR).await.unwrap();
    let new = replica(RedisStore::builder(server.url()));
    assert!(is_blocked(&new, "key 9999").await && !is_blocked(&new, "key 10010").await);
    assert_eq!(new.overrides().list().len(), 10_000);
}

#[tokio::test]
async fn a_field_that_cannot_be_read_blocks_if_it_is_a_block_and_is_left_out_otherwise() {
    let server = Server::start();
    let limiter = replica(RedisStore::builder(server.url()));
    let caller = limiter.overrides().caller("a").unwrap();
    let _ = caller.set_quota("read", Quota::per_day(1), HOUR).await.unwrap();
    let hash = server.keys().into_iter().find(|key| key.contains("overrides")).unwrap();
    let mut field = caller.fingerprint().to_bytes().to_vec();
    let write = |field: &[u8], value: &[u8]| {
        server.ask::<()>(redis::cmd("HSET").arg(&hash).arg(field).arg(value)).unwrap();
    };
    field.extend(b"qread");
    write(&field, b"nonsense");
    write(b"of no caller at all", b"nonsense");
    write(b"log", b"nonsense");
    let mut field = limiter.overrides().caller("b").unwrap().fingerprint().to_bytes().to_vec();
    field.push(b'b');
    write(&field, b"nonsense");
    let new = replica(RedisStore::builder(server.url()));
    assert_eq!(new.decide(&request("a")).await.remaining(), 899, "the policy's own quota");
    assert!(is_blocked(&new, "b").await);
    assert!(warnings().iter().any(|given| given.code() == Code::UnreadableOverride));
    let unreadable = (("b".to_owned()), None, Some("this block cannot be read".to_owned()));
    assert_eq!(listed(&new), [unreadable]);
    let _ = new.overrides().caller("b").unwrap().end_all().await.unwrap();
    assert!(!is_blocked(&new, "b").await);
    let of_a = new.overrides().caller("a").unwrap();
    let _ = of_a.set_quota("read", Quota::per_day(2), HOUR).await.unwrap();
    assert_eq!(listed(&new).len(), 1);
    until("the other replica", async || {
        limiter.peek("read", "a").await.unwrap().outcomes().next().unwrap().limit() == 2
    })
    .await;
}

#[tokio::test]
async fn a_cluster_shares_overrides_and_a_prefix_or_a_secret_keeps_them_apart() {
    let cluster = Cluster::start();
    let [a, b] = [(); 2].map(|()| replica(RedisStore::cluster_builder(cluster.urls())));
    let _ = a.overrides().caller("a").unwrap().block(HOUR).await.unwrap();
    until("the other replica", async || is_blocked(&b, "a").await).await;
    let other = replica(RedisStore::cluster_builder(cluster.urls()).prefix("other"));
    assert!(!is_blocked(&other, "a").await);
    let _ = b.overrides().caller("a").unwrap().unblock().await.unwrap();
    until("its end", async || !is_blocked(&a, "a").await).await;
}

/// This test runs itself once more, as the other process: it ends when it knows of the block.
#[test]
fn another_process_knows_within_a_second() {
    const NAME: &str = "overrides::another_process_knows_within_a_second";
    const URL: &str = "OVERRIDES_URL";
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let Ok(url) = std::env::var(URL) {
        runtime.block_on(async {
            let other = replica(RedisStore::builder(url));
            assert!(!is_blocked(&other, "a").await, "it is set later");
            let _ = other.overrides().caller("b").unwrap().block(HOUR).await.unwrap();
            until("the block", async || is_blocked(&other, "a").await).await;
            let _ = other.overrides().caller("c").unwrap().block(HOUR).await.unwrap();
        });
        return;
    }
    let server = Server::start();
    let mut other = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME])
        .env(URL, server.url())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    runtime.block_on(async {
        let this = replica(RedisStore::builder(server.url()));
        until("the other process", async || is_blocked(&this, "b").await).await;
        let set = Instant::now();
        let _ = this.overrides().caller("a").unwrap().block(HOUR).await.unwrap();
        until("its answer", async || is_blocked(&this, "c").await).await;
        // There and back again, in half a second; a busy machine is given more.
        assert!(set.elapsed() < Duration::from_secs(10), "{:?}", set.elapsed());
    });
    assert!(other.wait().unwrap().success());
}

/// Random changes on three replicas beside a naive model, with fail-overs to a server that has lost the
/// last of them.
#[tokio::test]
async fn replicas_agree_with_a_naive_model_whatever_the_server_loses() {
    type Model = std::collections::BTreeMap<(String, Option<String>), String>;
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let server = Server::start();
    let start = || replica(RedisStore::builder(server.url()));
    let mut replicas = [start(), start(), start()];
    let mut model = Model::new();
    let mut saved: Option<(Vec<u8>, Model)> = None;
    let hash = || server.keys().into_iter().find(|key| key.contains("overrides"));
    for step in 0..250 {
        let limiter = &replicas[random(3) as usize];
        let key = ["a", "b", "c"][random(3) as usize].to_owned();
        let caller = limiter.overrides().caller(&*key).unwrap();
        let policy = (random(2) == 0).then(|| "read".to_owned());
        let reason = step.to_string();
        // A short one has ended before anybody looks.
        let time = if random(4) == 0 { Duration::from_millis(1) } else { HOUR };
        match random(8) {
            0..4 => {
                let change = match &policy {
                    None => caller.block(time),
                    Some(policy) => caller.set_quota(policy, Quota::per_day(step + 1), time),
                };
                let _ = change.reason(&reason).await.unwrap();
                match time == HOUR {
                    true => model.insert((key, policy), reason),
                    false => model.remove(&(key, policy)),
                };
            }
            4 | 5 => {
                let change = match &policy {
                    None => caller.unblock(),
                    Some(policy) => caller.restore_quota(policy),
                };
                let _ = change.await.unwrap();
                model.remove(&(key, policy));
            }
            6 => {
                let _ = caller.end_all().await.unwrap();
                model.retain(|(of, _), _| *of != key);
            }
            _ => match (&saved, hash()) {
                (Some((dump, before)), Some(hash)) if random(2) == 0 => {
                    let mut restore = redis::cmd("RESTORE");
                    restore.arg(&hash).arg(3_600_000).arg(dump).arg("REPLACE");
                    server.ask::<()>(&restore).unwrap();
                    model = before.clone();
                    // Sometimes nobody has looked when the next change follows.
                    if random(2) == 0 {
                        replicas[random(3) as usize] = start();
                    }
                }
                (_, Some(hash)) => {
                    let dump = server.ask(redis::cmd("DUMP").arg(&hash)).unwrap();
                    saved = Some((dump, model.clone()));
                }
                _ => {}
            },
        }
        if step % 10 == 9 {
            let expected: Vec<_> =
                model.iter().map(|((key, policy), why)| (key, policy, why)).collect();
            for limiter in &replicas {
                until(&format!("agreement after step {step}"), async || {
                    let mut known = listed(limiter);
                    known.sort();
                    let known = known.iter().map(|(key, policy, why)| (key, policy, why.as_ref()));
                    let expected =
                        expected.iter().map(|(key, policy, why)| (*key, *policy, Some(*why)));
                    known.eq(expected)
                })
                .await;
            }
        }
    }
}

#[cfg(feature = "config")]
mod in_file {
    //! Overrides in a file of limits, which all replicas have.

    use std::{
        fs,
        time::{SystemTime, UNIX_EPOCH},
    };

    use tower_quota::config::{Limits, Override, Registry, Watch};

    use super::*;

    const LIMITS: &str = r#"
every_request = ["read"]
caller = { header = "x-key" }

[policies.read]
algorithm = "fixed_window"
quota = "900 per day"
keys = [{ header = "x-key" }]
without_key = "skip"
on_store_failure = "allow"
"#;

    fn limits<'a>(blocked: impl IntoIterator<Item = &'a str>) -> Limits {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        // The same moment for all replicas that begin within this test.
        let until = Duration::from_secs(now.as_secs() / 86_400 * 86_400) + 48 * HOUR;
        let mut limits = Limits::from_toml(LIMITS, &Registry::new()).unwrap();
        limits.overrides = blocked.into_iter().map(|key| Override::block([key], until)).collect();
        limits
    }

    fn of_file(server: &Server) -> Limiter {
        let store = RedisStore::builder(server.url()).secret(SECRET);
        let builder = limits([]).builder(&Registry::new()).unwrap();
        builder.store(store.build().unwrap()).build().unwrap()
    }

    #[tokio::test]
    async fn replicas_set_the_overrides_of_their_files_once_and_end_those_that_are_gone() {
        let server = Server::start();
        let [a, b] = [(); 2].map(|()| of_file(&server));
        let old = limits(["a", "b"]);
        until("the server", async || old.apply_overrides(&a).await.is_ok()).await;
        assert_eq!(a.overrides().list().len(), 2);
        // Each reads first what others have set, also if it has just started.
        for limiter in [&b, &a, &b, &of_file(&server)] {
            assert_eq!(old.apply_overrides(limiter).await, Ok(0));
        }
        assert_eq!(listed(&b), listed(&a));

        // A release: the new file on one replica, while the other has the old one and runs on.
        let new = limits(["b", "c"]);
        assert_eq!(new.apply_overrides(&b).await, Ok(2));
        until("the new ones on the other", async || {
            !is_blocked(&a, "a").await && is_blocked(&a, "b").await && is_blocked(&a, "c").await
        })
        .await;
        assert_eq!(new.apply_overrides(&a).await, Ok(0));

        // What an operator has set on one replica stays on all.
        let caller = a.overrides().caller("c").unwrap();
        let _ = caller.block(HOUR).reason("scraping").author("ana").await.unwrap();
        assert_eq!(new.apply_overrides(&b).await, Ok(0));
        assert_eq!(limits([]).apply_overrides(&b).await, Ok(1));
        until("the operator's alone", async || {
            listed(&b) == [("c".to_owned(), None, Some("scraping".to_owned()))]
        })
        .await;
    }

    #[tokio::test]
    async fn a_watch_sets_overrides_as_soon_as_the_server_answers() {
        let server = Server::start();
        let limiter = of_file(&server);
        server.kill();
        let error = limits(["a"]).apply_overrides(&limiter).await.unwrap_err();
        assert!(matches!(error, OverrideError::Store(_)), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits.toml");
        fs::write(&path, limits(["a"]).to_toml().replace("900 per day", "5 per day")).unwrap();
        let _watch = Watch::new(&limiter, &path, Registry::new());
        let limit = || limiter.policy("read").unwrap().quota().unwrap().units();
        until("the limits", async || limit() == 5).await;
        assert!(!is_blocked(&limiter, "a").await, "the server is down");
        server.restart();
        until("the override", async || is_blocked(&limiter, "a").await).await;
    }
}
