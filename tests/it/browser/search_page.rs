//! The FHIR Directory's search page in a browser: served from one origin, it calls the API on
//! another.
use std::time::{Duration, SystemTime, SystemTimeError, UNIX_EPOCH};

use axum::{Json, Router, response::Html, routing::get};
use serde::Deserialize;
use serde_json::json;
use thirtyfour::prelude::*;
use tokio::net::TcpListener;

use super::{Browser, client};
use common::{PATIENCE, Result, Server};

const PAGE: &str = include_str!("../../../examples/fhir_directory/index.html");

/// A search was answered, with endpoints or without.
const ANSWERED: &str = "#status:not(:empty), #problem:not(:empty)";
const FOUND: &str = "#status:not(:empty)";

impl Browser {
    /// Types into the field with this label; whether without a pause in which the page would ask.
    async fn write(&self, label: &str, text: &str) -> Result<bool> {
        self.driver
            .execute("typed = []; oninput = (event) => typed.push(event.timeStamp)", [])
            .await?;
        let named = format!("//label[starts-with(normalize-space(), '{label}')]/@for");
        let field = self.driver.find(By::XPath(format!("//input[@id = {named}]"))).await?;
        field.send_keys(text).await?;
        let moments: Vec<f64> = self.evaluate("return typed").await?;
        assert_eq!(moments.len(), text.chars().count());
        Ok(moments.is_sorted_by(|earlier, later| later - earlier < 400.0))
    }

    /// Waits until the seconds of the wait are other ones.
    async fn counts_down(&self) -> Result<bool> {
        let told = self.driver.find(By::Id("wait")).await?.text().await?;
        let wait = self.driver.query(By::Id("wait")).without_text(told);
        Ok(wait.wait(PATIENCE, Duration::from_millis(20)).exists().await?)
    }

    /// What the page shows of the search that was answered last.
    async fn shown(&self) -> Result<Shown> {
        self.wait_for(ANSWERED).await?;
        self.evaluate(
            "const text = (id) => document.getElementById(id).innerText;
             const [left, reset, status, problem, wait] =
               ['left', 'reset', 'status', 'problem', 'wait'].map(text);
             const results = [...document.querySelectorAll('#results li')];
             return { left, reset, status, problem, wait,
                      results: results.map((result) => result.textContent) };",
        )
        .await
    }
}

/// The whole text of the page.
#[derive(Debug, Deserialize, PartialEq)]
struct Shown {
    left: String,
    reset: String,
    status: String,
    problem: String,
    wait: String,
    results: Vec<String>,
}

impl Shown {
    /// The seconds until the reset, taken out of what is shown.
    fn take_reset(&mut self) -> Option<u64> {
        let reset = std::mem::take(&mut self.reset);
        reset.strip_prefix("all again in ")?.strip_suffix(" s")?.parse().ok()
    }

    fn take_wait(&mut self) -> Option<u64> {
        let wait = std::mem::take(&mut self.wait);
        wait.strip_prefix("Searching again in ")?.strip_suffix(" s.")?.parse().ok()
    }
}

/// The API, and a browser.
struct Stage {
    api: Server,
    browser: Browser,
    client: reqwest::Client,
}

impl Stage {
    async fn set() -> Result<Self> {
        let api = Server::start("fhir_directory").await?;
        Ok(Self { api, browser: Browser::start().await?, client: client()? })
    }

    async fn clear(self) -> Result<()> {
        self.browser.stop().await?;
        assert!(self.api.terminate().await?.success());
        Ok(())
    }

    /// Opens the page from an origin of its own, which is returned.
    async fn open_elsewhere(&self) -> Result<String> {
        let origin = serve(Router::new().route("/", get(|| async { Html(PAGE) }))).await?;
        assert_ne!(origin, self.api.address);
        self.browser.driver.goto(format!("{origin}/?api={}", self.api.address)).await?;
        Ok(origin)
    }

    /// Calls the API from the address that the browser has too: what is left then, or `None` after
    /// a 429.
    async fn call(&self) -> Result<Option<u64>> {
        let url = format!("{}/api/v1/endpoints", self.api.address);
        let response = self.client.get(url).send().await?;
        if response.status() == 429 {
            return Ok(None);
        }
        let left = response.headers().get("ratelimit-remaining").ok_or("the quota is told")?;
        Ok(Some(left.to_str()?.parse()?))
    }

    async fn spend_all(&self) -> Result<()> {
        while self.call().await?.is_some() {}
        Ok(())
    }
}

/// Serves `app` as long as the test runs; returns its origin.
async fn serve(app: Router) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(origin)
}

fn unix_now() -> std::result::Result<Duration, SystemTimeError> {
    SystemTime::now().duration_since(UNIX_EPOCH)
}

/// Repeats `story` until a whole one fits into a minute of the clock, as windows do, and returns its
/// result. A story returns `None` if something else has disturbed it.
async fn undisturbed<T>(story: impl AsyncFn() -> Result<Option<T>>) -> Result<T> {
    let minute = || unix_now().map(|now| now.as_secs() / 60);
    for _ in 0..5 {
        let began = minute()?;
        let told = story().await?;
        match told {
            Some(told) if minute()? == began => return Ok(told),
            _ => {}
        }
    }
    Err("disturbed each time".into())
}

#[tokio::test]
async fn a_word_typed_quickly_on_another_origin_is_one_request_and_shows_the_quota() -> Result<()> {
    let stage = Stage::set().await?;
    let (before, mut shown, requests, pause, after) = undisturbed(async || {
        stage.open_elsewhere().await?;
        let before = stage.call().await?;
        let quickly = stage.browser.write("Search by name", "lakeside cl").await?;
        let shown = stage.browser.shown().await?;
        let requests = stage.browser.requests().await?;
        let asked = "performance.getEntriesByType('resource')[0].startTime";
        let pause: f64 = stage.browser.evaluate(&format!("return {asked} - typed.at(-1)")).await?;
        let told = (before, shown, requests, pause, stage.call().await?);
        Ok(quickly.then_some(told))
    })
    .await?;
    let before = before.ok_or("there is enough for a test")?;
    assert_eq!(after, Some(before - 2), "the page's one request, and this one");
    assert_eq!(requests, [format!("{}/api/v1/endpoints?query=lakeside+cl", stage.api.address)]);
    assert!(pause >= 399.0, "asked {pause} ms after the last key, by a clock that rounds");
    let reset = shown.take_reset().ok_or("the reset is shown")?;
    assert!((1..=60).contains(&reset), "{reset}");
    let expected = Shown {
        left: format!("{} of 60 requests left", before - 1),
        reset: String::new(),
        status: "1 endpoint".into(),
        problem: String::new(),
        wait: String::new(),
        results: vec!["Lakeside ClinicDemo Charts".into()],
    };
    assert_eq!(shown, expected);
    stage.clear().await
}

#[tokio::test]
async fn a_page_on_another_origin_reads_a_429_and_a_key_helps_at_once() -> Result<()> {
    let stage = Stage::set().await?;
    let (mut refused, mut keyed, requests) = undisturbed(async || {
        stage.open_elsewhere().await?;
        stage.spend_all().await?;
        let mut quickly = stage.browser.write("Search by name", "lakeside").await?;
        let refused = stage.browser.shown().await?;
        // More than a second of the wait: time to ask again, had it not to wait.
        for _ in 0..2 {
            quickly &= stage.browser.counts_down().await?;
        }
        // Of a tenant that no story had before.
        let tenant = unix_now()?.as_nanos();
        quickly &= stage.browser.write("API key", &format!("fd_free_{tenant}")).await?;
        stage.browser.wait_for(FOUND).await?;
        let keyed = stage.browser.shown().await?;
        Ok(quickly.then_some((refused, keyed, stage.browser.requests().await?.len())))
    })
    .await?;
    for seconds in [refused.take_reset(), refused.take_wait(), keyed.take_reset()] {
        let seconds = seconds.ok_or("the time is shown")?;
        assert!((1..=60).contains(&seconds), "{seconds}");
    }
    let expected = Shown {
        left: "0 of 60 requests left".into(),
        reset: String::new(),
        status: String::new(),
        problem: "Rate limit exceeded. Authenticate with an API key for higher limits.".into(),
        wait: String::new(),
        results: Vec::new(),
    };
    assert_eq!(refused, expected);
    assert_eq!((&*keyed.left, keyed.results.len()), ("119 of 120 requests left", 10));
    assert_eq!((&*keyed.problem, &*keyed.wait), ("", ""));
    assert_eq!(requests, 2, "refused, it did not ask again until it had the key");
    stage.clear().await
}

#[tokio::test]
async fn the_api_serves_the_page_which_costs_nothing_and_asks_no_one_else() -> Result<()> {
    let stage = Stage::set().await?;
    let (before, after, shown, requests) = undisturbed(async || {
        let before = stage.call().await?;
        for _ in 0..3 {
            stage.browser.driver.goto(format!("{}/", stage.api.address)).await?;
        }
        let after = stage.call().await?;
        let quickly = stage.browser.write("Search by name", "<i>").await?;
        let shown = stage.browser.shown().await?;
        let told = (before, after, shown, stage.browser.requests().await?);
        Ok(quickly.then_some(told))
    })
    .await?;
    assert_eq!(after, before.map(|left| left - 1));
    assert_eq!(requests, [format!("{}/api/v1/endpoints?query=%3Ci%3E", stage.api.address)]);
    assert_eq!(shown.status, "Nothing is called “<i>”.");
    stage.clear().await
}

#[tokio::test]
async fn markup_in_an_answer_is_shown_as_text() -> Result<()> {
    let markup = "<img src=x onerror='document.title = 1'>";
    let endpoint = json!({ "id": 1, "organizationName": markup, "vendorName": markup });
    let answer = json!({ "success": true, "data": [endpoint] });
    let hostile = Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/api/v1/endpoints", get(|| async { Json(answer) }));
    let origin = serve(hostile).await?;
    let browser = Browser::start().await?;
    browser.driver.goto(origin).await?;
    browser.write("Search by name", "any").await?;
    assert_eq!(browser.shown().await?.results, [format!("{markup}{markup}")]);
    let images: u64 = browser.evaluate("return document.images.length").await?;
    assert_eq!((images, &*browser.driver.title().await?), (0, "FHIR Directory"));
    browser.stop().await
}
