//! What a watched file of limits logs of lints.

use std::{fs, time::Duration};

use tokio::time::sleep;
use tower_quota::config::{Limits, Registry, Watch};

use crate::log;

/// The file is read once a second on the paused clock, so this is enough for two reads.
const SECONDS: Duration = Duration::from_millis(2_500);

fn text(matcher: &str) -> String {
    let policy = "[policies.chats]\nalgorithm = \"fixed_window\"\nquota = \"5 per day\"\nkeys = [\"ip\"]\nwithout_key = \"refuse\"\n";
    format!(
        "{policy}[[categories]]\nname = \"chat\"\nrequests = [\"{matcher}\"]\npolicies = [\"chats\"]\n"
    )
}

#[tokio::test(start_paused = true)]
async fn a_path_with_a_typo_is_logged_as_soon_as_it_is_applied() {
    log::keep();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("limits.toml");
    fs::write(&path, text("POST /v1/chat")).unwrap();
    let registry = Registry::new();
    let limits = Limits::read(&path, &registry).unwrap();
    let limiter = limits.builder(&registry).unwrap().build().unwrap();
    let _watch = Watch::new(&limiter, &path, registry).routes([("POST", "/v1/chat")]);
    sleep(SECONDS).await;
    let warned = || {
        let lines = log::take().into_iter().filter(|line| line.contains(" WARN "));
        lines.collect::<Vec<_>>()
    };
    assert_eq!(warned(), [""; 0]);
    for (matcher, lints) in [
        ("POST /v2/chat", vec!["route_without_policy", "no_such_route"]),
        ("POST /v3/chat", vec!["no_such_route"]),
        ("POST /v1/chat", vec![]),
        ("POST /v2/chat", vec!["route_without_policy", "no_such_route"]),
    ] {
        fs::write(&path, text(matcher)).unwrap();
        sleep(SECONDS).await;
        let warned = warned();
        assert_eq!(warned.len(), lints.len(), "{matcher}: {warned:#?}");
        for lint in lints {
            assert!(warned.iter().any(|line| line.contains(lint)), "{matcher}: {warned:#?}");
        }
    }
}
