//! An example as its users run it: a process, a port, and a signal that ends it.

use std::{
    env,
    error::Error,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

pub type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Long enough for a busy machine; nothing waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running server; killed when dropped.
pub struct Server {
    process: Child,
    pub address: String,
}

impl Server {
    pub async fn start(example: &str) -> Result<Self> {
        Self::start_with(example, |_| {}).await
    }

    /// With what `set` adds to the command: the environment, or where its log goes.
    pub async fn start_with(example: &str, set: impl FnOnce(&mut Command)) -> Result<Self> {
        let mut command = Command::new(build_example(example).await?);
        command.env("PORT", "0").stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        set(&mut command);
        let mut process = command.spawn()?;
        let stdout = process.stdout.take().ok_or("stdout is piped")?;
        let line = timeout(PATIENCE, BufReader::new(stdout).lines().next_line()).await??;
        let line = line.ok_or("the server ends without a word")?;
        let address = line.strip_prefix("listening on ").ok_or(line.clone())?.to_owned();
        let port = address.strip_prefix("http://127.0.0.1:").ok_or(line)?;
        assert_ne!(port.parse::<u16>()?, 0);
        Ok(Self { process, address })
    }

    /// Sends it a signal, such as `HUP`.
    pub fn signal(&self, name: &str) -> Result<()> {
        let id = self.process.id().ok_or("it runs")?.to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &id]).status()?;
        assert!(sent.success());
        Ok(())
    }

    /// Asks it to stop, as service managers do.
    pub async fn terminate(mut self) -> Result<ExitStatus> {
        self.signal("TERM")?;
        Ok(timeout(PATIENCE, self.process.wait()).await??)
    }
}

/// Where the example is: `target/<profile>/examples`, while this test is in `target/<profile>/deps`.
///
/// Cargo has not always built it by now: with `--all-targets`, it makes a test of each example
/// instead, and a server built earlier may be an old one.
async fn build_example(example: &str) -> Result<PathBuf> {
    let test = env::current_exe()?;
    let folder = test.ancestors().nth(2).ok_or("the test is in a folder of a profile")?;
    let target = folder.parent().ok_or("the profile is in a target folder")?;
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => return Err("the profile has a name".into()),
    };
    let built = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--quiet", "--example", example, "--profile", profile, "--all-features"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")])
        .arg("--target-dir")
        .arg(target)
        .kill_on_drop(true)
        .status()
        .await?;
    assert!(built.success(), "the example does not build");
    Ok(folder.join("examples").join(example))
}

/// Asks until there is an answer, within [`PATIENCE`].
pub async fn until<T>(mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let answered = async {
        loop {
            if let Some(answer) = ask().await? {
                return Ok(answer);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await?
}
