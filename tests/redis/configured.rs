//! The configured example on several servers, which share counts and overrides.
#![cfg(all(feature = "axum", feature = "config", feature = "describe", feature = "tracing"))]

use common::{PATIENCE, Result, Server, redis, until};
use serde_json::{Value, json};

const FREE: &str = "sk_live_free_acme";

async fn start(url: &str) -> Result<Server> {
    let set = |command: &mut tokio::process::Command| {
        command.env("REDIS_URL", url);
    };
    Server::start_with("configured", set).await
}

async fn call(
    server: &Server,
    method: &str,
    path: &str,
    key: &str,
    body: Value,
) -> Result<(u16, Value)> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let url = format!("{}{path}", server.address);
    let request = client.request(method.parse()?, url).bearer_auth(key).json(&body);
    let response = request.send().await?;
    Ok((response.status().as_u16(), response.json().await?))
}

async fn users(server: &Server) -> Result<u16> {
    Ok(call(server, "GET", "/v1/users", FREE, Value::Null).await?.0)
}

async fn until_users_get(server: &Server, status: u16) -> Result<()> {
    until(async || Ok((users(server).await? == status).then_some(()))).await
}

#[tokio::test]
async fn an_override_holds_on_every_server_and_after_a_restart() -> Result<()> {
    let redis = redis::Server::start();
    let (first, second) = (start(&redis.url()).await?, start(&redis.url()).await?);
    assert_eq!((users(&first).await?, users(&second).await?), (200, 200));
    let block = json!({ "key": FREE, "block": true, "seconds": 3_600, "reason": "scraping" });
    let set = call(&first, "POST", "/admin/overrides", "op_nora", block).await?;
    assert_eq!(set.0, 200, "{}", set.1);
    let refused = users(&first).await?;
    assert_ne!(refused, 200);
    until_users_get(&second, refused).await?;
    assert_eq!(first.terminate().await?.code(), Some(0));
    assert_eq!(second.terminate().await?.code(), Some(0));

    let third = start(&redis.url()).await?;
    until_users_get(&third, refused).await?;
    let (_, told) = call(&third, "GET", "/admin/overrides", "op_omar", Value::Null).await?;
    assert_eq!(
        (&told["overrides"][0]["reason"], &told["overrides"][0]["author"]),
        (&json!("scraping"), &json!("nora"))
    );
    let path = format!("/admin/overrides?key={FREE}");
    assert_eq!(call(&third, "DELETE", &path, "op_omar", Value::Null).await?.0, 200);
    assert_eq!(users(&third).await?, 200);
    assert_eq!(third.terminate().await?.code(), Some(0));
    Ok(())
}
