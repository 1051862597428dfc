//! The usage page in a browser.
#![cfg(feature = "usage")]

use std::{
    net::SocketAddr,
    time::{Duration, UNIX_EPOCH},
};

use axum::{Router, http::header::AUTHORIZATION, routing::get};
use serde::Deserialize;
use thirtyfour::prelude::*;
use tokio::net::TcpListener;
use tower_quota::{
    Clock, Limiter, Policy, Quota, RateLimitLayer, key,
    usage::{MemoryLog, OperatorPage, RequestLog, UsagePage},
};

use super::{Browser, client};
use common::{PATIENCE, Result};

use crate::examples::jump_ehr;

/// 2024-01-16 13:10 UTC: the hour does not end while a test runs.
const START: Duration = Duration::from_secs(1_705_410_600);
const PATIENTS: &str = "/functions/v1/api-v1/patients";
const USAGE: &str = "/settings/api-keys/usage";
const MINE: &str = "pk_live_4f9a1c77b2e05d3388aa9f2c";
const OTHER: &str = "pk_live_00112233445566778899aabb";

/// Serves `app` as long as the test runs; returns its origin.
async fn serve(app: Router) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(origin)
}

/// The Jump EHR example, and a browser.
struct Stage {
    origin: String,
    browser: Browser,
    client: reqwest::Client,
}

/// The text of the page.
#[derive(Debug, Deserialize, PartialEq)]
struct Shown {
    key: String,
    quotas: Vec<String>,
    legend: String,
    entries: Vec<String>,
}

impl Stage {
    async fn set() -> Result<Self> {
        let limiter = jump_ehr::limiter(Clock::tokio(UNIX_EPOCH + START))?;
        let app = jump_ehr::app(limiter.clone(), jump_ehr::responses(limiter))?;
        let origin = serve(app).await?;
        Ok(Self { origin, browser: Browser::start().await?, client: client()? })
    }

    /// Calls the API `times` times.
    async fn call(&self, times: u32, path: &str, key: &str) -> Result<()> {
        for _ in 0..times {
            let request = self.client.get(format!("{}{PATIENTS}{path}", self.origin));
            request.bearer_auth(key).send().await?;
        }
        Ok(())
    }

    /// Opens the page and gives it the key, by keyboard.
    async fn open(&self, key: &str) -> Result<()> {
        self.browser.driver.goto(format!("{}{USAGE}", self.origin)).await?;
        self.browser.wait_for("#ask:not([hidden])").await?;
        let field = self.browser.driver.find(By::Id("credential")).await?;
        field.send_keys(key + Key::Enter).await?;
        self.browser.wait_for("#usage:not([hidden])").await
    }

    /// Waits until the page shows the text, without a reload.
    async fn shows(&self, text: &str) -> Result<()> {
        let (limit, interval) = (PATIENCE, Duration::from_millis(50));
        let page = format!("//main[contains(normalize-space(), '{text}')]");
        self.browser.driver.query(By::XPath(page)).wait(limit, interval).first().await?;
        Ok(())
    }

    async fn shown(&self) -> Result<Shown> {
        self.browser
            .evaluate(
                "const text = (node) => node.textContent.replace(/\\s+/g, ' ').trim();
                 const all = (css) => [...document.querySelectorAll(css)].map(text);
                 return { key: text(document.getElementById('key')),
                          quotas: all('#quotas .left'), legend: text(document.getElementById('legend')),
                          entries: [...document.querySelectorAll('#entries tr')].map((row) =>
                            text(row.cells[1]) + ' ' + (row.cells[2] ? text(row.cells[2]) : '')) };",
            )
            .await
    }

    /// How much of the bar is full, of a hundred.
    async fn bar(&self) -> Result<f64> {
        self.browser
            .evaluate(
                "const bar = document.querySelector('[role=meter]');
                 bar.firstChild.getAnimations().forEach((animation) => animation.finish());
                 return 100 * bar.firstChild.getBoundingClientRect().width
                     / bar.getBoundingClientRect().width",
            )
            .await
    }
}

#[tokio::test]
async fn traffic_shows_by_itself_until_the_bar_is_empty_and_a_refusal_appears() -> Result<()> {
    let stage = Stage::set().await?;
    stage.call(1, "/id1", MINE).await?;
    stage.open(MINE).await?;
    let mut shown = stage.shown().await?;
    let expected = Shown {
        key: "pk_live_…9f2c".into(),
        quotas: vec!["999 of 1,000 left".into()],
        legend: "2xx 1per minute".into(),
        entries: vec![format!("GET {PATIENTS}/{{id}} 200")],
    };
    assert_eq!(shown, expected);
    assert!(stage.bar().await? > 99.0);
    // A reload would lose this.
    stage.browser.driver.execute("window.kept = 'kept'", []).await?;

    stage.call(599, "", MINE).await?;
    stage.shows("400 of 1,000 left").await?;
    assert!((39.0..41.0).contains(&stage.bar().await?));
    stage.call(400, "", MINE).await?;
    stage.shows("Used up: hourly").await?;
    assert_eq!(stage.shown().await?.quotas, ["0 of 1,000 left"]);
    assert_eq!(stage.bar().await?, 0.0);
    assert!(!stage.shown().await?.legend.contains("refused"));

    stage.call(2, "/id1", MINE).await?;
    stage.shows("refused by hourly").await?;
    shown = stage.shown().await?;
    assert_eq!(shown.entries[0], format!("GET {PATIENTS}/{{id}} 429refused by hourly"));
    assert_eq!(shown.legend, "2xx 1,000refused 2per minute");
    let refused = stage.browser.driver.find(By::Id("most-refused")).await?.text().await?;
    assert_eq!(refused, format!("GET {PATIENTS}/{{id}} 2 3"));
    let told = stage.browser.driver.find(By::Id("news")).await?.text().await?;
    assert_eq!(told, "Used up: hourly", "to screen readers");

    let kept: String = stage.browser.evaluate("return window.kept").await?;
    assert_eq!(kept, "kept");
    let elsewhere: Vec<String> = stage.browser.requests().await?;
    let own = |url: &String| url.starts_with(&format!("{}{USAGE}", stage.origin));
    assert!(elsewhere.iter().all(own), "{elsewhere:?}");
    stage.browser.stop().await
}

#[tokio::test]
async fn the_log_is_paged_and_the_day_shown_by_keyboard() -> Result<()> {
    let stage = Stage::set().await?;
    stage.call(75, "", MINE).await?;
    stage.open(MINE).await?;
    assert_eq!(stage.shown().await?.entries.len(), 20);
    for expected in [70, 75] {
        stage.browser.driver.find(By::Id("older")).await?.send_keys(Key::Enter + "").await?;
        stage.browser.wait_for(&format!("#entries tr:nth-child({expected})")).await?;
        assert_eq!(stage.shown().await?.entries.len(), expected);
    }
    assert!(!stage.browser.driver.find(By::Id("older")).await?.is_displayed().await?);
    stage.browser.driver.find(By::Id("newest")).await?.send_keys(Key::Enter + "").await?;
    stage.browser.wait_for("#entries tr:nth-child(20):last-child").await?;

    let hour = stage.browser.driver.find(By::Css("[value=hour]")).await?;
    hour.send_keys(Key::Right + "").await?;
    stage.shows("per 15 minutes").await?;
    assert!(stage.shown().await?.legend.starts_with("2xx 75"));
    stage.browser.driver.find(By::Css("summary")).await?.send_keys(Key::Enter + "").await?;
    let table = stage.browser.driver.find(By::Id("minutes")).await?;
    assert!(table.is_displayed().await? && table.text().await?.ends_with(" 75"));
    stage.browser.stop().await
}

#[tokio::test]
async fn no_address_shows_another_keys_usage() -> Result<()> {
    let stage = Stage::set().await?;
    // The only one who asked for one patient.
    stage.call(3, "/id1", OTHER).await?;
    stage.call(1, "", MINE).await?;
    for query in ["", "?key=pk_live_00112233445566778899aabb", "?key=pk_live_%E2%80%A6aabb#aabb"] {
        let page = format!("{}{USAGE}{query}", stage.origin);
        stage.browser.driver.goto(page).await?;
        stage.browser.wait_for("#ask:not([hidden])").await?;
        stage.browser.driver.find(By::Id("credential")).await?.send_keys(MINE + Key::Enter).await?;
        stage.browser.wait_for("#usage:not([hidden])").await?;
        let shown = stage.shown().await?;
        assert_eq!((&*shown.key, shown.entries.len()), ("pk_live_…9f2c", 1), "{query}");
    }
    let answers: Vec<String> = stage
        .browser
        .driver
        .execute_async(
            "const [origin, own, done] = arguments;
             const paths = ['', '?key=OTHER', '?fingerprint=OTHER', '?span=day&key=OTHER',
                 '/log', '/log?before=1000', '/log?before=2&limit=100&key=OTHER', '/log?key=OTHER',
                 '/OTHER', '/log/OTHER', '/../usage/log?caller=OTHER', '//log'];
             Promise.all(paths.map(async (path) => {
               const url = origin + path.replace('OTHER', 'pk_live_00112233445566778899aabb');
               const headers = { accept: 'application/json', authorization: 'Bearer ' + own };
               return (await fetch(url, { headers })).text();
             })).then(done);",
            vec![format!("{}{USAGE}", stage.origin).into(), MINE.into()],
        )
        .await?
        .convert()?;
    assert_eq!(answers.len(), 12);
    assert!(answers[0].contains(PATIENTS) && answers[4].contains(PATIENTS), "its own is shown");
    for answer in answers {
        assert!(!answer.contains("{id}") && !answer.contains("aabb"), "{answer}");
    }
    stage.browser.stop().await
}

#[tokio::test]
async fn markup_in_a_route_a_policy_or_a_label_is_shown_as_text() -> Result<()> {
    const SCRIPT: &str = "<script>document.title='run'</script>";
    const IMAGE: &str = "<img src=x onerror=\"document.title='run'\">";
    let policy = Policy::token_bucket(IMAGE, Quota::per_hour(1)).key(key::bearer()).or_refuse();
    let limiter = Limiter::builder().policy(policy).build()?;
    let log = RequestLog::builder(key::bearer())
        .label(|_| SCRIPT.into())
        .sink(MemoryLog::new())
        .build()?;
    let usage = UsagePage::builder(limiter.clone(), log.clone())
        .ask_for_key(AUTHORIZATION, "Bearer ")
        .build()?;
    // A pattern that any path matches.
    let path = "/{*<script>document.title='run'}";
    let app = Router::new()
        .route(path, get(|| async { "hello" }))
        .layer(RateLimitLayer::builder(limiter).observe(log).build()?)
        .nest(USAGE, usage.router());
    let origin = serve(app).await?;
    let stage = Stage { origin, browser: Browser::start().await?, client: client()? };
    for _ in 0..2 {
        let url = format!("{}/<script>document.title='run'</script>", stage.origin);
        let answer = stage.client.get(url).bearer_auth(MINE).send().await?;
        assert!([200, 429].contains(&answer.status().as_u16()), "{}", answer.status());
    }
    stage.open(MINE).await?;
    let shown = stage.shown().await?;
    assert_eq!(shown.key, SCRIPT);
    assert_eq!(shown.entries[0], format!("GET {path} 429refused by {IMAGE}"));
    let policy = stage.browser.driver.find(By::Css("#quotas h3")).await?.text().await?;
    assert_eq!(policy, IMAGE);
    let foreign: u64 =
        stage.browser.evaluate("return document.images.length + document.scripts.length").await?;
    assert_eq!((foreign, &*stage.browser.driver.title().await?), (1, "API usage"));

    // Should markup get in nevertheless, the browser does not run it.
    let inserted = "const script = document.createElement('script');
        script.textContent = \"document.title = 'run'\"; document.body.append(script);
        document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title = 1\">')";
    stage.browser.driver.execute(inserted, []).await?;
    assert_eq!(&*stage.browser.driver.title().await?, "API usage");
    stage.browser.stop().await
}

#[tokio::test]
async fn an_operator_blocks_raises_and_resets_a_key_on_a_page() -> Result<()> {
    const LABEL: &str = "<img src=x onerror=\"document.title='run'\">";
    let policy = Policy::fixed_window("read", Quota::per_day(3)).key(key::bearer()).or_refuse();
    let clock = Clock::tokio(UNIX_EPOCH + START);
    let caller = key::Caller::new(key::bearer());
    let limiter = Limiter::builder().clock(clock).policy(policy).caller(caller.clone()).build()?;
    let log = RequestLog::builder(caller).label(|_| LABEL.into()).sink(MemoryLog::new());
    let log = log.remember_keys(100).build()?;
    let operator = OperatorPage::builder(limiter.clone(), log.clone());
    let layer = RateLimitLayer::builder(limiter).observe(log).build()?;
    let operator = operator.layer(layer.clone()).guard(|_| Some("nora".into())).build()?;
    let app = Router::new()
        .route(PATIENTS, get(|| async { "hello" }))
        .layer(layer)
        .nest("/operator", operator.router());
    let origin = serve(app).await?;
    let stage = Stage { origin, browser: Browser::start().await?, client: client()? };
    let status = async || -> Result<u16> {
        let url = format!("{}{PATIENTS}", stage.origin);
        Ok(stage.client.get(url).bearer_auth(MINE).send().await?.status().as_u16())
    };
    stage.call(4, "", MINE).await?;
    stage.browser.driver.goto(format!("{}/operator", stage.origin)).await?;
    stage.shows("4 requests, 1 refused").await?;
    stage.shows("would refuse").await?;
    let label = stage.browser.driver.find(By::Css("#keys h3 .endpoint")).await?.text().await?;
    assert_eq!(label, LABEL);

    let write = async |name: &str, text: String| -> Result<()> {
        let field = By::Css(format!("#explain [name={name}]"));
        Ok(stage.browser.driver.find(field).await?.send_keys(text).await?)
    };
    write("headers", format!("authorization: Bearer {MINE}")).await?;
    write("path", format!("{PATIENTS}{}", Key::Enter + "")).await?;
    stage.shows("The request is refused by policy `read`: too few units are left.").await?;
    stage.shows("The response: 429").await?;

    let press = async |name: &str| -> Result<()> {
        let button = By::XPath(format!("//button[normalize-space() = '{name}']"));
        Ok(stage.browser.driver.find(button).await?.send_keys(Key::Enter + "").await?)
    };
    press("Reset all").await?;
    stage.shows("reset all quotas").await?;
    assert_eq!(status().await?, 200);
    press("Block").await?;
    stage.shows("Blocked for").await?;
    assert_eq!(status().await?, 429);
    press("Unblock").await?;
    stage.shows("unblocked").await?;
    assert_eq!(status().await?, 200);

    let units = stage.browser.driver.find(By::Css("#keys input")).await?;
    units.send_keys(Key::Control + "a").await?;
    units.send_keys("50" + Key::Enter).await?;
    stage.shows("48 of 50 left").await?;
    stage.shows("50 units of policy `read` for 3600 s").await?;
    assert_eq!(&*stage.browser.driver.title().await?, "Keys and quotas");
    stage.browser.stop().await
}
