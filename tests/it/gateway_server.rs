//! The gateway example as its users run it: callers held over real connections.
//!
//! No time has an upper bound here, because the machine may be busy. `gateway.rs` tests the exact
//! times on a paused clock.
#![cfg(all(feature = "axum", feature = "describe", target_os = "linux"))]

use std::time::{Duration, Instant};

use common::{PATIENCE, Result, Server};
use tokio::time::timeout;

/// Asks over a connection of its own, which closes when this is dropped.
async fn ask(url: &str, credential: &str) -> Result<u16> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    Ok(client.get(url).bearer_auth(credential).send().await?.status().as_u16())
}

#[tokio::test]
async fn a_caller_who_asks_one_at_a_time_is_slowed_and_never_refused() -> Result<()> {
    let server = Server::start("gateway").await?;
    let url = format!("{}/v1/sites", server.address);
    let began = Instant::now();
    for credential in ["gw_acme_nightly", "gw_acme_desk"].into_iter().cycle().take(63) {
        assert_eq!(ask(&url, credential).await?, 200);
    }
    // The tenant has 60 units at once, and then one a second.
    assert!(began.elapsed() >= Duration::from_millis(2_990), "{:?}", began.elapsed());
    assert_eq!(server.terminate().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn held_connections_that_close_give_their_places_up() -> Result<()> {
    let server = Server::start("gateway").await?;
    let url = format!("{}/v1/sites", server.address);
    for _ in 0..60 {
        assert_eq!(ask(&url, "gw_acme_nightly").await?, 200);
    }
    // More callers than the line has room for hang up, one after the other.
    for _ in 0..10 {
        let _hung_up = timeout(Duration::from_millis(100), ask(&url, "gw_acme_nightly")).await;
    }
    // The server notices within a few requests. If they stayed in the queue, it would be full until
    // there are tokens for all of them: thousands of requests later.
    let served = async {
        let mut refused = 0;
        while ask(&url, "gw_acme_nightly").await? != 200 {
            refused += 1;
        }
        Result::Ok(refused)
    };
    let refused = timeout(PATIENCE, served).await??;
    assert!(refused < 50, "{refused} refused");
    assert_eq!(server.terminate().await?.code(), Some(0));
    Ok(())
}
