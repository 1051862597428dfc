//! The HelloJohn example as its users run it: a process, a port, and a signal that ends it.
//!
//! On Linux, where all of 127.0.0.0/8 are addresses of this machine.
#![cfg(all(feature = "axum", feature = "describe", feature = "tracing", target_os = "linux"))]

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use common::{PATIENCE, Result, Server};
use serde_json::{Value, json};

/// A client whose connections come from this address.
fn client(from: [u8; 4]) -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
    Ok(builder.local_address(IpAddr::from(from)).build()?)
}

/// A response, with its headers but the moment it was sent.
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Value,
}

impl Answer {
    async fn of(request: reqwest::RequestBuilder) -> Result<Self> {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let mut headers = BTreeMap::new();
        for (name, value) in response.headers() {
            headers.insert(name.to_string(), value.to_str()?.to_owned());
        }
        assert!(headers.remove("date").is_some());
        let body = response.bytes().await?;
        assert_eq!(headers.remove("content-length"), Some(body.len().to_string()));
        Ok(Self { status, headers, body: serde_json::from_slice(&body)? })
    }

    /// Removes a header, which is a whole number.
    fn take(&mut self, header: &str) -> Result<u64> {
        Ok(self.headers.remove(header).ok_or(header)?.parse()?)
    }
}

fn unix_now() -> Result<Duration> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

fn only_json() -> BTreeMap<String, String> {
    BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())])
}

/// Signs up once. All but the times is compared; the reset must be a minute after the calls that
/// were made since `began`.
async fn sign_up(server: &Server, client: &reqwest::Client, began: Duration) -> Result<Answer> {
    let url = format!("{}/v1/auth/sign-up", server.address);
    let mut answer = Answer::of(client.post(url).json(&json!({ "email": "a@b" }))).await?;
    assert_eq!(answer.take("x-ratelimit-limit")?, 5);
    let reset = answer.take("x-ratelimit-reset")?;
    let possible = began.as_secs() + 60..=unix_now()?.as_secs() + 61;
    assert!(possible.contains(&reset), "{reset} is not in {possible:?}");
    Ok(answer)
}

#[tokio::test]
async fn the_server_limits_each_address_and_stops_when_asked() -> Result<()> {
    let server = Server::start("hellojohn").await?;
    let began = unix_now()?;
    let home = client([127, 0, 0, 1])?;

    for remaining in (0..5).rev() {
        let mut answer = sign_up(&server, &home, began).await?;
        assert_eq!(answer.take("x-ratelimit-remaining")?, remaining);
        assert_eq!((answer.status, answer.body), (200, json!({ "ok": true })));
        assert_eq!(answer.headers, only_json());
    }

    let mut refused = sign_up(&server, &home, began).await?;
    assert_eq!(refused.take("x-ratelimit-remaining")?, 0);
    let retry_after = refused.take("retry-after")?;
    assert!((1..=60).contains(&retry_after), "{retry_after}");
    let body = json!({
        "error": "rate_limit_exceeded",
        "message": format!("Rate limit exceeded. Retry after {retry_after} seconds."),
        "retry_after": retry_after,
    });
    assert_eq!((refused.status, refused.body), (429, body));
    let mut expected = only_json();
    expected.insert("cache-control".into(), "no-store".into());
    // Its body was not read.
    expected.insert("connection".into(), "close".into());
    assert_eq!(refused.headers, expected);

    let office = client([127, 0, 0, 2])?;
    let mut other = sign_up(&server, &office, began).await?;
    assert_eq!((other.status, other.take("x-ratelimit-remaining")?), (200, 4));

    let health = Answer::of(home.get(format!("{}/health", server.address))).await?;
    assert_eq!((health.status, health.body), (200, json!({ "status": "ok" })));
    assert_eq!(health.headers, only_json(), "exempt");

    // The clients' idle connections do not keep it.
    let status = server.terminate().await?;
    assert_eq!(status.code(), Some(0));
    Ok(())
}
