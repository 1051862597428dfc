//! A browser for tests, with Debian's packages `chromium` and `chromium-driver`.
#![cfg(all(feature = "axum", feature = "describe", feature = "tracing", target_os = "linux"))]

mod rate_limits_page;
mod search_page;
mod socket_page;
mod streams_page;
mod usage_page;

use std::{process::Stdio, time::Duration};

use serde::de::DeserializeOwned;
use tempfile::TempDir;
use thirtyfour::{LoggingPrefsLogLevel, prelude::*};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::timeout,
};

use common::{PATIENCE, Result};

/// A headless browser with a new profile. When dropped, it is closed, then its driver killed.
pub struct Browser {
    pub driver: WebDriver,
    process: Child,
    _profile: TempDir,
}

impl Browser {
    pub async fn start() -> Result<Self> {
        let mut process = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().ok_or("stdout is piped")?;
        let port = timeout(PATIENCE, port(BufReader::new(stdout))).await??;
        let profile = TempDir::new()?;
        let mut wanted = DesiredCapabilities::chrome();
        for flag in [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={}", profile.path().display()),
        ] {
            wanted.add_arg(flag)?;
        }
        wanted.set_browser_log_level(LoggingPrefsLogLevel::All)?;
        let driver = WebDriver::builder(format!("http://127.0.0.1:{port}"), wanted)
            .client(client()?)
            .connect()
            .await?;
        Ok(Self { driver, process, _profile: profile })
    }

    pub async fn stop(mut self) -> Result<()> {
        self.driver.quit().await?;
        Ok(self.process.kill().await?)
    }

    /// Waits until there is such an element.
    pub async fn wait_for(&self, css: &str) -> Result<()> {
        let (limit, interval) = (PATIENCE, Duration::from_millis(20));
        self.driver.query(By::Css(css)).wait(limit, interval).first().await?;
        Ok(())
    }

    /// What a script returns that runs in the page.
    pub async fn evaluate<T: DeserializeOwned>(&self, script: &str) -> Result<T> {
        Ok(self.driver.execute(script, []).await?.convert()?)
    }

    /// The addresses that the page has asked for, since it was opened.
    pub async fn requests(&self) -> Result<Vec<String>> {
        self.evaluate("return performance.getEntriesByType('resource').map(entry => entry.name)")
            .await
    }
}

/// The port on which a driver says that it listens.
async fn port(stdout: impl AsyncBufReadExt + Unpin) -> Result<u16> {
    let mut lines = stdout.lines();
    while let Some(line) = lines.next_line().await? {
        if let Some((_, port)) = line.split_once("started successfully on port ") {
            return Ok(port.trim_end_matches('.').parse()?);
        }
    }
    Err("the driver ends without telling its port".into())
}

/// What calls an API beside the browser.
pub fn client() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?)
}
