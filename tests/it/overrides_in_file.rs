//! Overrides in a file of limits: what is set, changed and ended, and what operators have set.
#![cfg(feature = "config")]

use std::{
    fs,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::Request;
use tokio::time::sleep;
use tower_quota::{
    Clock, Limiter, Quota, Reason,
    config::{Limits, Override, Registry, Watch},
    key::PeerAddr,
    overrides::{OverrideError, OverrideKind},
};

const HOUR: Duration = Duration::from_secs(3_600);
const AUTHOR: Option<&str> = Some("limits file");

const LIMITS: &str = r#"
every_request = ["read"]
caller = { header = "x-key" }

[policies.read]
algorithm = "fixed_window"
quota = "9 per day"
keys = [{ header = "x-key" }]
without_key = "refuse"
"#;

/// The time now, in whole seconds: the checks of a file read the system's clock.
fn now() -> Duration {
    Duration::from_secs(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs())
}

fn limits(overrides: Vec<Override>) -> Limits {
    let mut limits = Limits::from_toml(LIMITS, &Registry::new()).unwrap();
    limits.overrides = overrides;
    // As from a file.
    Limits::from_toml(&limits.to_toml(), &Registry::new()).unwrap()
}

fn limiter(start: Duration) -> Limiter {
    let builder = limits(Vec::new()).builder(&Registry::new()).unwrap();
    builder.clock(Clock::tokio(UNIX_EPOCH + start)).build().unwrap()
}

fn block(key: &str, until: Duration) -> Override {
    Override::block([key], until)
}

fn quota(key: &str, units: u64, until: Duration) -> Override {
    Override::quota([key], "read", Quota::per_day(units), until)
}

async fn apply(limiter: &Limiter, overrides: Vec<Override>) -> usize {
    limits(overrides).apply_overrides(limiter).await.unwrap()
}

async fn is_blocked(limiter: &Limiter, key: &str) -> bool {
    let request = Request::get("/").header("x-key", key).body(()).unwrap().into_parts().0;
    limiter.decide(&request).await.reason() == Some(Reason::Blocked)
}

fn remaining(limiter: &Limiter, key: &str) -> u64 {
    limiter.peek("read", key).at_once().unwrap().remaining()
}

#[tokio::test(start_paused = true)]
async fn what_a_file_says_is_set_changed_and_ended() {
    let start = now();
    let limiter = limiter(start);
    let mut read = quota("a", 100, start + HOUR);
    read.reason = Some("migration".to_owned());
    assert_eq!(apply(&limiter, vec![read.clone(), block("b", start + HOUR)]).await, 2);
    assert_eq!(remaining(&limiter, "a"), 100);
    assert!(is_blocked(&limiter, "b").await && !is_blocked(&limiter, "c").await);
    let own = limiter.overrides().caller("a").unwrap().list();
    assert_eq!((own[0].reason.as_deref(), own[0].author.as_deref()), (Some("migration"), AUTHOR));
    assert_eq!((own[0].since, own[0].until), (start, start + HOUR));

    sleep(HOUR / 2).await;
    let before = limiter.overrides().list();
    assert_eq!(apply(&limiter, vec![block("b", start + HOUR), read.clone()]).await, 0);
    assert_eq!(limiter.overrides().list(), before, "nothing is set again");

    // Each of these makes it another one.
    let mut other_reason = read.clone();
    other_reason.reason = None;
    for changed in [other_reason, quota("a", 50, start + HOUR), quota("a", 50, start + 2 * HOUR)] {
        assert_eq!(apply(&limiter, vec![block("b", start + HOUR), changed.clone()]).await, 1);
        let own = limiter.overrides().caller("a").unwrap().list();
        let quota = changed.quota.unwrap();
        assert_eq!(own[0].kind, OverrideKind::Quota { policy: "read".to_owned(), quota });
        assert_eq!((own[0].until, own[0].reason.clone()), (changed.until, changed.reason));
    }

    assert_eq!(apply(&limiter, vec![quota("a", 50, start + 2 * HOUR)]).await, 1);
    assert!(!is_blocked(&limiter, "b").await, "it is not in the file any more");
    sleep(2 * HOUR).await;
    assert_eq!(remaining(&limiter, "a"), 9, "it has ended");
    assert_eq!(apply(&limiter, vec![quota("a", 50, start + 2 * HOUR)]).await, 0, "and stays so");
    assert_eq!(apply(&limiter, Vec::new()).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_has_set_stays_until_it_ends() {
    let start = now();
    let limiter = limiter(start);
    let of_operator = |key| limiter.overrides().caller(key).unwrap();
    let _ = of_operator("a").set_quota("read", Quota::per_day(70), HOUR).author("ana").await;
    let _ = of_operator("b").block(HOUR).await.unwrap();
    let file = vec![quota("a", 100, start + 3 * HOUR), block("a", start + 3 * HOUR)];
    assert_eq!(apply(&limiter, file.clone()).await, 1, "the block is another override");
    assert_eq!(of_operator("a").unblock().await.unwrap().len(), 1);
    assert_eq!(remaining(&limiter, "a"), 70);
    assert_eq!(apply(&limiter, Vec::new()).await, 0);
    assert_eq!(remaining(&limiter, "a"), 70);
    assert!(is_blocked(&limiter, "b").await);

    // An operator replaces one of the file: it is the operator's from then on.
    assert_eq!(apply(&limiter, vec![quota("c", 100, start + 3 * HOUR)]).await, 1);
    let _ = of_operator("c").set_quota("read", Quota::per_day(7), HOUR).author("ana").await;
    assert_eq!(apply(&limiter, vec![quota("c", 200, start + 3 * HOUR)]).await, 0);
    assert_eq!(apply(&limiter, Vec::new()).await, 0);
    assert_eq!(remaining(&limiter, "c"), 7);

    sleep(HOUR).await;
    assert_eq!(apply(&limiter, file).await, 2);
    assert_eq!(remaining(&limiter, "a"), 0, "blocked by the file");
    assert!(!is_blocked(&limiter, "b").await);
}

#[tokio::test(start_paused = true)]
async fn an_override_that_the_limiter_cannot_have_is_an_error_without_its_key() {
    let start = now();
    let limiter = limiter(start);
    let key = "sk_live_secret";
    let all = limits(vec![block("other", start + HOUR), quota(key, 100, start + HOUR)]);
    for text in [format!("{all:?}"), format!("{:?}", all.overrides)] {
        assert!(!text.contains(key) && text.contains("reason"), "{text}");
    }
    // A limiter with other limits.
    let mut other = limits(Vec::new());
    let policy = other.policies.remove("read").unwrap();
    other.policies.insert("write".to_owned(), policy);
    other.every_request = vec!["write".to_owned()];
    let changes = limiter.apply(other.builder(&Registry::new()).unwrap()).unwrap();
    let error = all.apply_overrides(&limiter).await.unwrap_err();
    assert_eq!(error, OverrideError::UnknownPolicy("read".to_owned()));
    assert!(!format!("{error:?} {error} {changes:?} {changes}").contains("sk_live"));
    for (block, quota) in [(true, Some(Quota::per_day(5))), (false, None)] {
        let mut limits = limits(vec![]);
        let mut both = Override::block([key], start + HOUR);
        (both.block, both.quota) = (block, quota);
        limits.overrides = vec![both];
        let error = limits.apply_overrides(&limiter).await.unwrap_err();
        assert!(matches!(error, OverrideError::InvalidQuota { .. }), "{error}");
        assert!(limiter.overrides().list().is_empty());
    }
    for unfit in [vec![], vec![" sk_live_secret"], vec!["sk_live_secret", "b"]] {
        let mut limits = limits(Vec::new());
        limits.overrides = vec![Override::block(unfit, start + HOUR)];
        assert_eq!(limits.apply_overrides(&limiter).await, Err(OverrideError::UnfitKey));
        let error = limits.builder(&Registry::new()).unwrap_err();
        assert!(!format!("{error:?} {error}").contains("sk_live"), "{error}");
    }
}

#[test]
fn no_mistake_in_a_file_shows_a_key() {
    for line in [
        "key = SECRET",
        "key = \"SECRET",
        "key = 'SECRET\"",
        "key == \"SECRET\"",
        "key = \"SECRET\" \"b\"",
        "key = \"SECRET\\q\"",
        "key = [\"SECRET\", 5]",
        "key = [\"SECRET\" \"b\"]",
        "key = [[\"SECRET\"]]",
        "key = { SECRET = true }",
        "key = { header = \"SECRET\" }",
        "key = \"SECRET\"\nkey = \"SECRET\"",
        "key = \" SECRET\"",
        "kye = \"SECRET\"",
        "block = \"SECRET\"",
        "SECRET",
        "SECRET = true",
        "until = \"SECRET\"",
    ] {
        for name in ["[[overrides]]", "[overrides]"] {
            let line = line.replace("SECRET", "sk_live_secret");
            let text = format!("{LIMITS}\n{name}\n{line}\nreason = \"…\"\n");
            let error = Limits::from_toml(&text, &Registry::new()).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("sk_live"), "{line}: {error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_has_the_parts_of_the_caller_and_addresses_are_texts() {
    let (start, registry) = (now(), Registry::new());
    for (caller, key, of_address) in [
        ("[{ header = \"x-key\" }, \"ip\"]", &["a", "2001:db8::1"][..], true),
        ("\"ip\"", &["2001:db8::1"], true),
        ("{ header = \"x-key\" }", &["a"], false),
    ] {
        let text = LIMITS.replacen("{ header = \"x-key\" }", caller, 1);
        let mut limits = Limits::from_toml(&text, &registry).unwrap();
        limits.overrides = vec![Override::block(key.iter().copied(), start + HOUR)];
        let limits = Limits::from_toml(&limits.to_toml(), &registry).unwrap();
        let builder = limits.builder(&registry).unwrap();
        let limiter = builder.clock(Clock::tokio(UNIX_EPOCH + start)).build().unwrap();
        assert_eq!(limits.apply_overrides(&limiter).await, Ok(1), "{caller}");
        for (address, is_blocked) in [("2001:db8::7", true), ("2001:db8:1::7", !of_address)] {
            let peer = PeerAddr((address.parse::<IpAddr>().unwrap(), 50_000).into());
            let request = Request::get("/").header("x-key", "a").extension(peer);
            let request = request.body(()).unwrap().into_parts().0;
            let reason = limiter.decide(&request).await.reason();
            assert_eq!(reason == Some(Reason::Blocked), is_blocked, "{caller} {address}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watched_file_sets_its_overrides_when_it_changes() {
    let start = now();
    let limiter = limiter(start);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("limits.toml");
    let write = |overrides| fs::write(&path, limits(overrides).to_toml()).unwrap();
    write(vec![block("a", start + HOUR)]);
    let _watch = Watch::new(&limiter, &path, Registry::new());
    let seconds = Duration::from_millis(2_500);
    sleep(seconds).await;
    assert!(is_blocked(&limiter, "a").await, "at the start, too");
    write(vec![block("b", start + HOUR)]);
    sleep(seconds).await;
    assert!(!is_blocked(&limiter, "a").await && is_blocked(&limiter, "b").await);

    // A wrong file changes nothing, and an operator's change stays while the file does.
    fs::write(&path, format!("{LIMITS}\n[[overrides]]\nkey = \"c\"\nblock = true\n")).unwrap();
    sleep(seconds).await;
    assert!(is_blocked(&limiter, "b").await && !is_blocked(&limiter, "c").await);
    let _ = limiter.overrides().caller("b").unwrap().unblock().await.unwrap();
    sleep(60 * seconds).await;
    assert!(!is_blocked(&limiter, "b").await);
    write(vec![block("b", start + HOUR), block("c", start + HOUR)]);
    sleep(seconds).await;
    assert!(is_blocked(&limiter, "b").await && is_blocked(&limiter, "c").await);
}
