//! The completions example as its users run it: real clients, over real connections.
#![cfg(all(feature = "axum", feature = "tracing", target_os = "linux"))]

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, BufReader},
    process::{Child, Command},
};

use common::{Result, Server, until};

/// A stream of a token in each hundredth of a second, for twenty seconds.
const LONG: &str = r#"{"max_tokens":2000,"tokens":2000,"stream":true,"pace_ms":10}"#;

/// `curl`, which has received the first event.
async fn curl(server: &Server) -> Result<Child> {
    let mut curl = Command::new("curl")
        .args(["--silent", "--no-buffer", "--noproxy", "*", "--json", LONG])
        .args(["--header", "authorization: Bearer sk_acme_ana"])
        .arg(format!("{}/v1/completions", server.address))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut first = [0; 6];
    BufReader::new(curl.stdout.as_mut().ok_or("it is piped")?).read_exact(&mut first).await?;
    assert_eq!(&first, b"data: ");
    Ok(curl)
}

async fn in_flight(server: &Server) -> Result<Value> {
    let url = format!("{}/v1/usage", server.address);
    let asked = reqwest::Client::builder().no_proxy().build()?.get(url);
    let usage: Value = asked.bearer_auth("sk_acme_ana").send().await?.json().await?;
    Ok(usage["streams"]["in_flight"].clone())
}

#[tokio::test]
async fn a_client_killed_in_mid_stream_frees_its_place() -> Result<()> {
    let server = Server::start("completions").await?;
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(curl(&server).await?);
    }
    assert_eq!(in_flight(&server).await?, 2);
    for left in [1, 0] {
        streams.pop().ok_or("one is left")?.kill().await?;
        until(async || Ok((in_flight(&server).await? == left).then_some(()))).await?;
    }
    assert_eq!(server.terminate().await?.code(), Some(0));
    Ok(())
}

/// Asks too often, and prints the first answer of a penalty: its status, header and problem.
const PYTHON: &str = r#"
import json, sys, urllib.error, urllib.request
body = json.dumps({"max_tokens": 1, "tokens": 1}).encode()
headers = {"Authorization": "Bearer sk_acme_python", "Content-Type": "application/json"}
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for _ in range(500):
    try:
        opener.open(urllib.request.Request(sys.argv[1], body, headers)).read()
    except urllib.error.HTTPError as error:
        problem = json.load(error)
        if problem.get("reason") == "penalty":
            print(json.dumps([error.code, error.headers["Retry-After"], problem]))
            break
"#;

const NODE: &str = r#"
const body = JSON.stringify({ max_tokens: 1, tokens: 1 });
const headers = { authorization: "Bearer sk_acme_node", "content-type": "application/json" };
(async () => {
  for (let nth = 0; nth < 500; nth++) {
    const response = await fetch(process.argv[1], { method: "POST", headers, body });
    const problem = await response.json();
    if (problem.reason === "penalty") {
      console.log(JSON.stringify([response.status, response.headers.get("retry-after"), problem]));
      break;
    }
  }
})();
"#;

#[tokio::test]
async fn clients_in_python_and_node_read_a_penalty() -> Result<()> {
    let server = Server::start("completions").await?;
    let url = format!("{}/v1/completions", server.address);
    for (program, option, script) in [("python3", "-c", PYTHON), ("node", "-e", NODE)] {
        let ran = Command::new(program).args([option, script, &url]).output().await?;
        let (status, wait, problem): (u16, String, Value) = serde_json::from_slice(&ran.stdout)
            .map_err(|error| format!("{program}: {error}: {ran:?}"))?;
        assert_eq!(status, 429, "{program}");
        // The block, or the rest of the minute if that is longer.
        assert!((5..=60).contains(&wait.parse::<u64>()?), "{wait}");
        assert_eq!(problem["violated-policies"], json!(["requests"]));
        assert!(problem["until"].is_u64(), "{problem}");
    }
    assert_eq!(server.terminate().await?.code(), Some(0));
    Ok(())
}
