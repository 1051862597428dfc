//! The completions example on several servers, which share all that it counts.
#![cfg(all(feature = "axum", feature = "tracing"))]

use common::{PATIENCE, Result, Server, redis, until};
use reqwest::Response;
use serde_json::{Value, json};

async fn start(url: &str) -> Result<Server> {
    let set = |command: &mut tokio::process::Command| {
        command.env("REDIS_URL", url);
    };
    Server::start_with("completions", set).await
}

/// Asks for a stream of 1,000 tokens, one in each 50 milliseconds.
async fn stream(server: &Server) -> Result<Response> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let body = json!({ "max_tokens": 1_000, "tokens": 1_000, "stream": true, "pace_ms": 50 });
    let request = client.post(format!("{}/v1/completions", server.address)).json(&body);
    Ok(request.bearer_auth("sk_acme_ana").send().await?)
}

/// Waits until so many streams are under way, whichever server is asked.
async fn until_in_flight(server: &Server, number: u64) -> Result<()> {
    let is = async || Ok((usage(server, "streams", "in_flight").await? == number).then_some(()));
    until(is).await
}

async fn streams(server: &Server, number: usize) -> Result<Vec<Response>> {
    let mut streams = Vec::new();
    for _ in 0..number {
        let stream = stream(server).await?;
        assert_eq!(stream.status(), 200);
        streams.push(stream);
    }
    Ok(streams)
}

async fn usage(server: &Server, unit: &str, name: &str) -> Result<Value> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let request = client.get(format!("{}/v1/usage", server.address)).bearer_auth("sk_acme_ana");
    Ok(request.send().await?.json::<Value>().await?[unit][name].take())
}

#[tokio::test]
async fn servers_share_what_is_counted_and_units_of_a_killed_one_come_back() -> Result<()> {
    let redis = redis::Server::start();
    let (first, second) = (start(&redis.url()).await?, start(&redis.url()).await?);
    let mut streams = streams(&first, 4).await?;
    assert_eq!(usage(&second, "streams", "in_flight").await?, 4);
    assert_eq!(usage(&second, "tokens", "remaining").await?, 6_000);
    let refused = stream(&second).await?;
    assert_eq!((refused.status().as_u16(), refused.headers().get("retry-after")), (429, None));
    assert_eq!(refused.json::<Value>().await?["violated-policies"][0], "streams");

    // The second server has a place as soon as a caller of the first one hangs up.
    drop(streams.pop());
    until_in_flight(&second, 3).await?;
    // What was not made has come back with it.
    let left = usage(&second, "tokens", "remaining").await?.as_u64().ok_or("a number")?;
    assert!((6_001..=7_000).contains(&left), "{left}");

    first.signal("KILL")?;
    // The sheet gives it 15 seconds; on a busy machine, this test gives it more.
    until_in_flight(&second, 0).await?;
    let own = stream(&second).await?;
    assert_eq!(own.status(), 200);
    drop(own);
    assert_eq!(second.terminate().await?.code(), Some(0));
    Ok(())
}

/// The excess of a paused server is what it held, and nothing is lost.
#[tokio::test]
async fn a_paused_server_gives_its_units_up_and_counts_again_when_it_goes_on() -> Result<()> {
    let redis = redis::Server::start();
    let (first, second) = (start(&redis.url()).await?, start(&redis.url()).await?);
    let of_first = streams(&first, 3).await?;
    let of_second = streams(&second, 1).await?;
    assert_eq!(stream(&second).await?.status(), 429);
    first.signal("STOP")?;
    until_in_flight(&second, 1).await?;
    let more = streams(&second, 3).await?;
    assert_eq!(stream(&second).await?.status(), 429, "four, and the three of the paused server");
    first.signal("CONT")?;
    drop(of_second);
    // Six, which is more than the usage has numbers for, once the first server has said what it holds.
    until_in_flight(&second, 4).await?;
    drop(of_first);
    until_in_flight(&second, 3).await?;
    drop(more);
    until_in_flight(&second, 0).await?;
    assert_eq!(first.terminate().await?.code(), Some(0));
    assert_eq!(second.terminate().await?.code(), Some(0));
    Ok(())
}

/// As in a fail-over to a server that has nothing.
#[tokio::test]
async fn what_a_server_has_lost_is_counted_again() -> Result<()> {
    let redis = redis::Server::start();
    let (first, second) = (start(&redis.url()).await?, start(&redis.url()).await?);
    let (of_first, of_second) = (streams(&first, 2).await?, streams(&second, 2).await?);
    redis.connection().send_packed_command(&::redis::cmd("FLUSHALL").get_packed_command())?;
    until_in_flight(&second, 4).await?;
    assert_eq!(stream(&first).await?.status(), 429);
    drop(of_first);
    until_in_flight(&second, 2).await?;
    drop(of_second);
    until_in_flight(&first, 0).await?;
    assert_eq!(first.terminate().await?.code(), Some(0));
    assert_eq!(second.terminate().await?.code(), Some(0));
    Ok(())
}
