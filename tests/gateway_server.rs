//! The gateway example as its users run it: callers held over real connections.
#![cfg(all(feature = "axum", target_os = "linux"))]

mod common;

use std::time::{Duration, Instant};

use common::{PATIENCE, Result, Server};
use tokio::task::JoinSet;

const SECOND: Duration = Duration::from_secs(1);

/// Asks over a connection of its own, which closes when the task is aborted.
async fn ask(url: String, credential: &'static str) -> reqwest::Result<u16> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    Ok(client.get(url).bearer_auth(credential).send().await?.status().as_u16())
}

/// Fires 63 requests at once from two credentials of a tenant, until two are left: 60 have passed
/// and one was refused, so those two are held.
async fn fire(url: &str) -> Result<JoinSet<reqwest::Result<u16>>> {
    let mut asked = JoinSet::new();
    for credential in ["gw_acme_nightly", "gw_acme_desk"].into_iter().cycle().take(63) {
        asked.spawn(ask(url.to_owned(), credential));
    }
    let (mut passed, mut refused) = (0, 0);
    while asked.len() > 2 {
        match asked.join_next().await.ok_or("more than two are left")??? {
            200 => passed += 1,
            429 => refused += 1,
            status => return Err(format!("answered with {status}").into()),
        }
    }
    assert_eq!((passed, refused), (60, 1));
    Ok(asked)
}

#[tokio::test]
async fn of_63_at_once_60_pass_two_are_held_and_one_is_refused() -> Result<()> {
    let server = Server::start("gateway").await?;
    let began = Instant::now();
    let mut held = fire(&format!("{}/v1/sites", server.address)).await?;
    while let Some(answered) = held.join_next().await {
        assert_eq!(answered??, 200);
    }
    let took = began.elapsed();
    assert!(took >= 2 * SECOND, "62 tokens are there after 2 s, not {took:?}");
    assert!(took < SECOND * 5 / 2, "{took:?}");
    assert_eq!(server.terminate().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn held_connections_that_close_give_their_tokens_back() -> Result<()> {
    let server = Server::start("gateway").await?;
    let url = format!("{}/v1/sites", server.address);
    let began = Instant::now();
    let mut held = fire(&url).await?;

    // Both close. Others have their places as soon as the server notices.
    held.shutdown().await;
    let mut passed = 0;
    while passed < 2 {
        match ask(url.clone(), "gw_acme_nightly").await? {
            200 => passed += 1,
            status => assert_eq!(status, 429),
        }
    }
    // These are the 61st and 62nd token, there after 2 s. If a closed connection had cost one, they
    // would be the 62nd and 63rd, there after 3 s.
    let took = began.elapsed();
    assert!(took < SECOND * 5 / 2, "{took:?}");
    assert_eq!(server.terminate().await?.code(), Some(0));
    Ok(())
}
