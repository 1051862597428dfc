//! The configured example as its users run it: its file of limits changes while it serves.
#![cfg(all(
    feature = "axum",
    feature = "config",
    feature = "describe",
    feature = "redis",
    feature = "tracing",
    unix
))]

use std::fs;

use common::{PATIENCE, Result, Server, until};

/// The limit of a new caller's reads.
async fn limit(server: &Server) -> Result<String> {
    let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let url = format!("{}/v1/users", server.address);
    let response = client.get(url).bearer_auth("sk_live_free_acme").send().await?;
    Ok(response.headers()["x-ratelimit-limit"].to_str()?.to_owned())
}

async fn becomes(server: &Server, expected: &str) -> Result<()> {
    until(async || Ok((limit(server).await? == expected).then_some(()))).await
}

#[tokio::test]
async fn a_file_that_changes_is_applied_and_a_bad_one_changes_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (file, log) = (folder.path().join("limits.toml"), folder.path().join("log"));
    let original = include_str!("../../examples/configured/limits.toml");
    let with_limit =
        |limit: &str| original.replace("free = \"100 per", &format!("free = \"{limit} per"));
    fs::write(&file, original)?;
    let stderr = fs::File::create(&log)?;
    let server = Server::start_with("configured", |command| {
        command.env("LIMITS", &file).stderr(stderr);
    })
    .await?;
    assert_eq!(limit(&server).await?, "100");

    fs::write(&file, with_limit("70"))?;
    becomes(&server, "70").await?;
    // A signal applies it at once. This file has two problems.
    let bad = with_limit("0").replace("10 per minute", "10 per minuet");
    fs::write(&file, bad)?;
    server.signal("HUP")?;
    let logged = async || {
        let log = fs::read_to_string(&log)?;
        let lines: Vec<_> = log.lines().filter(|line| line.contains("ERROR")).collect();
        Ok(if let [line] = lines[..] { Some(line.to_owned()) } else { None })
    };
    let line = until(logged).await?;
    assert!(line.contains("`minuet` is no unit of time"), "{line}");
    assert!(line.contains("a quota of 0 units refuses every request"), "{line}");
    assert_eq!(limit(&server).await?, "70");

    fs::write(&file, with_limit("60"))?;
    server.signal("HUP")?;
    becomes(&server, "60").await?;
    assert_eq!(server.terminate().await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_server_does_not_start_with_a_bad_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("limits.toml");
    fs::write(&file, "every_request = [\"raed\"]")?;
    let started = Server::start_with("configured", |command| {
        command.env("LIMITS", &file);
    })
    .await;
    assert!(started.is_err(), "it has no limits to serve with");
    Ok(())
}
