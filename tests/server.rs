//! The HelloJohn example as its users run it: a process, a port, and a signal that ends it.
//!
//! On Linux, where all of 127.0.0.0/8 are addresses of this machine.
#![cfg(all(feature = "axum", feature = "tracing", target_os = "linux"))]

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    net::IpAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Long enough for a busy machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server; killed when dropped.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    async fn start() -> Result<Self> {
        let mut process = Command::new(build_example().await?)
            .env("PORT", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().ok_or("stdout is piped")?;
        let line = timeout(PATIENCE, BufReader::new(stdout).lines().next_line()).await??;
        let line = line.ok_or("the server ends without a word")?;
        let address = line.strip_prefix("listening on ").ok_or(line.clone())?.to_owned();
        let port = address.strip_prefix("http://127.0.0.1:").ok_or(line)?;
        assert_ne!(port.parse::<u16>()?, 0);
        Ok(Self { process, address })
    }

    /// Asks it to stop, as service managers do.
    async fn terminate(mut self) -> Result<ExitStatus> {
        let id = self.process.id().ok_or("it runs")?;
        let sent = std::process::Command::new("kill").args(["-TERM", &id.to_string()]).status()?;
        assert!(sent.success());
        Ok(timeout(PATIENCE, self.process.wait()).await??)
    }
}

/// Where the example is: `target/<profile>/examples`, while this test is in `target/<profile>/deps`.
///
/// Cargo has not always built it by now: with `--all-targets`, it makes a test of each example
/// instead, and a server built earlier may be an old one.
async fn build_example() -> Result<PathBuf> {
    let test = env::current_exe()?;
    let folder = test.ancestors().nth(2).ok_or("the test is in a folder of a profile")?;
    let target = folder.parent().ok_or("the profile is in a target folder")?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => return Err("the profile has a name".into()),
    };
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--example", "hellojohn", "--profile", profile])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .arg("--target-dir")
        .arg(target)
        .kill_on_drop(true)
        .status()
        .await?;
    assert!(built.success(), "the example does not build");
    Ok(folder.join("examples").join("hellojohn"))
}

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
    let server = Server::start().await?;
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
