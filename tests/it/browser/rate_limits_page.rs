//! The page at `/rate-limits` in a browser.
use axum::Router;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_quota::{Category, Limiter, Matcher, Policy, Quota, RateLimitLayer, key};

use super::{Browser, client};
use common::{Result, Server};

const HOSTILE: &str = "<script>alert(1)</script>";
/// As long as a path may be, and without a character where a line may break.
const LONG: &str = "/0123456789012345678901234567890123456789012345678901234567890123456789";

/// Serves a page with a hostile name wherever there may be one; returns its address.
async fn hostile_page() -> Result<String> {
    let policy = Policy::fixed_window(HOSTILE, Quota::per_minute(1))
        .key(key::from_fn(HOSTILE, |_| None))
        .or_refuse()
        .plans([(HOSTILE, Quota::per_minute(2))], |_| None);
    let category = Category::new(HOSTILE)
        .on(Matcher::get(&format!("/{HOSTILE}")))
        .on(Matcher::post(LONG))
        .policy(policy);
    let exempt = Matcher::key(key::from_fn(HOSTILE, |_| None), ["x"]);
    let limiter = Limiter::builder().category(category).exempt(exempt).build()?;
    let layer = RateLimitLayer::builder(limiter)
        .on_rejection(|_| http::Response::new(format!("</pre>{HOSTILE}")))
        .build()?;
    let route = layer.describe().title(HOSTILE).route();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let page = format!("http://{}/rate-limits", listener.local_addr()?);
    let app: Router = Router::new().route("/rate-limits", route);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(page)
}

/// How the page is looked at.
#[derive(Clone, Copy, Debug)]
struct View {
    scheme: &'static str,
    width: u32,
}

const VIEWS: [View; 4] = [
    View { scheme: "light", width: 1_200 },
    View { scheme: "dark", width: 1_200 },
    View { scheme: "light", width: 360 },
    View { scheme: "dark", width: 360 },
];

impl View {
    async fn open(self, browser: &Browser, page: &str) -> Result<()> {
        let devtools = browser.driver.cdp();
        let phone = self.width < 500;
        let metrics = json!({
            "width": self.width, "height": 800, "deviceScaleFactor": 1, "mobile": phone,
        });
        devtools.send_raw("Emulation.setDeviceMetricsOverride", metrics).await?;
        let scheme = json!({ "name": "prefers-color-scheme", "value": self.scheme });
        devtools.send_raw("Emulation.setEmulatedMedia", json!({ "features": [scheme] })).await?;
        Ok(browser.driver.goto(page).await?)
    }
}

/// Texts that stand out from what is behind them by less than 4.5 to 1 (WCAG 2.2, 1.4.3), and how
/// many were looked at.
const FAINT: &str = "
    const channels = (color) => color.match(/[\\d.]+/g).map(Number);
    const luminance = (color) => {
      const [r, g, b] = channels(color)
        .map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
      const color = getComputedStyle(element).backgroundColor;
      return channels(color)[3] === 0 ? behind(element.parentElement) : color;
    };
    const faint = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let seen = 0;
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.data.trim()) continue;
      seen += 1;
      const pair = [getComputedStyle(element).color, behind(element)].map(luminance);
      const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
      if (ratio < 4.5) faint.push([walker.currentNode.data, ratio]);
    }
    return [seen, faint];";

/// What a screen reader has to know of a table, where one lacks it.
const UNNAMED: &str = "
    return [...document.querySelectorAll('table')].filter((table) =>
      !table.caption?.textContent
      || [...table.querySelectorAll('th')].some((th) => !th.scope)
      || [...table.rows].some((row) => row.cells[0].tagName !== 'TH')).length;";

#[tokio::test]
async fn the_page_is_readable_in_light_and_dark_and_on_a_phone() -> Result<()> {
    let server = Server::start("hellojohn").await?;
    let browser = Browser::start().await?;
    let hostile = hostile_page().await?;
    let served = format!("{}/rate-limits", server.address);
    let mut grounds = Vec::new();
    for page in [&served, &hostile] {
        for view in VIEWS {
            view.open(&browser, page).await?;
            let ground = "return getComputedStyle(document.body).backgroundColor";
            grounds.push(browser.evaluate::<String>(ground).await?);
            let (seen, faint): (u32, Vec<(String, f64)>) = browser.evaluate(FAINT).await?;
            assert!(seen > 40 && faint.is_empty(), "{view:?} {seen} {faint:?}");
            let too_wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
            assert_eq!(browser.evaluate::<i32>(too_wide).await?, 0, "{view:?} {page}");
            assert_eq!(browser.evaluate::<u32>(UNNAMED).await?, 0);
        }
    }
    assert_eq!(grounds[0], grounds[2]);
    assert_ne!(grounds[0], grounds[1], "light and dark");
    browser.stop().await?;
    assert!(server.terminate().await?.success());
    Ok(())
}

#[tokio::test]
async fn a_hostile_name_stays_text_and_the_page_asks_for_nothing() -> Result<()> {
    let page = hostile_page().await?;
    let browser = Browser::start().await?;
    browser.driver.goto(&page).await?;
    assert_eq!(browser.driver.title().await?, HOSTILE);
    let shown: Vec<String> = browser
        .evaluate("return ['h1', 'tbody strong', 'tbody th[scope=row]', 'ul:last-of-type li', 'pre'].map((css) => document.querySelector(css).innerText)")
        .await?;
    assert!(shown.iter().all(|text| text.contains(HOSTILE)), "{shown:?}");
    let scripts: u32 = browser.evaluate("return document.scripts.length").await?;
    assert_eq!((scripts, browser.requests().await?), (0, Vec::new()));
    // An alert would be there, a broken rule of the policy or a missing icon would be logged.
    assert!(browser.driver.get_alert_text().await.is_err());
    let logged = browser.driver.browser_log().await?;
    assert!(logged.is_empty(), "{logged:?}");
    browser.stop().await
}

/// Beside the page's own style, the policy lets nothing in.
#[tokio::test]
async fn the_policy_of_the_page_keeps_scripts_out() -> Result<()> {
    let page = hostile_page().await?;
    let head = client()?.get(&page).send().await?;
    let policy = head.headers()["content-security-policy"].to_str()?.to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    let browser = Browser::start().await?;
    browser.driver.goto(&page).await?;
    let ran: Value = browser
        .evaluate(
            "const script = document.createElement('script');
             script.textContent = 'window.ran = true';
             document.body.append(script);
             const style = document.createElement('style');
             style.textContent = 'body { display: none }';
             document.body.append(style);
             return [window.ran ?? false, getComputedStyle(document.body).display]",
        )
        .await?;
    assert_eq!(ran, json!([false, "block"]));
    browser.stop().await
}
