//! The page on which callers see their own usage: [`UsagePage`].

mod summary;

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::get,
};
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
    request::Parts,
};

use self::summary::{log_json, since, summary_json};
use super::answer::{HtmlPage, UNREADABLE, json, problem, problem_with, read};
use crate::{error::BuildError, limiter::Limiter, usage::log::RequestLog};

/// How many entries of the log an answer has by default, and at most.
const DEFAULT_LIMIT: usize = 20;
const MAX_LIMIT: usize = 100;
const PAGE: HtmlPage = HtmlPage {
    html: include_str!("index.html"),
    script: concat!(include_str!("../common.js"), include_str!("script.js")),
};

/// Shows callers what is left of their quotas, and their own requests.
///
/// [`router`](Self::router) serves two paths below the one where it is mounted:
///
/// | path | answer |
/// |---|---|
/// | `/` | quotas, the sums of the last hour or day (`?span=day`), and the latest requests; as JSON, or to a browser as a page that draws it and updates itself |
/// | `/log` | the log, the newest entries first; `?limit=` says how many (default 20, at most 100), and `?before=` with the `next` of an answer continues it |
///
/// If the router is mounted at `/usage`, the page's address is `/usage`: axum does not route
/// `/usage/` to it.
///
/// The caller is the one that the [`RequestLog`] finds in the request. No parameter names another
/// caller, so no caller sees the usage of another. Mount the router outside of the
/// [`RateLimitLayer`](crate::RateLimitLayer): then its requests are not charged or logged.
///
/// In JSON, points in time are milliseconds since 1970 UTC. A quota has `policy`, `counted_by`,
/// `algorithm`, `limit`, `used`, `remaining` and `reset_seconds` as in
/// [`Outcome`](crate::Outcome), and its `units` per `window_seconds` (units in flight have neither reset nor window); and by the calendar, its `calendar`
/// in words. A minute has the numbers of requests that ended with `2xx`, `3xx`, `4xx` or `5xx`, were
/// `refused`, or got no response (`none`).
/// An entry of the log has the fields of [`Entry`](crate::usage::Entry), without the key.
///
/// The page has no inline script or style, and loads nothing from other hosts.
///
/// ```
/// use axum::{Router, http::header::AUTHORIZATION, routing::get};
/// use tower_quota::{
///     Limiter, Policy, Quota, RateLimitLayer, key,
///     usage::{MemoryLog, RequestLog, UsagePage},
/// };
///
/// let policy = Policy::fixed_window("hourly", Quota::per_hour(1_000)).key(key::bearer()).or_refuse();
/// let limiter = Limiter::builder().policy(policy).build()?;
/// let log = RequestLog::builder(key::bearer()).sink(MemoryLog::new()).build()?;
///
/// let usage = UsagePage::builder(limiter.clone(), log.clone())
///     .ask_for_key(AUTHORIZATION, "Bearer ")
///     .build()?;
/// let app: Router = Router::new()
///     .route("/things", get(|| async { "things" }))
///     .layer(RateLimitLayer::builder(limiter).observe(log).build()?)
///     .nest("/usage", usage.router());
/// # let _ = app;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct UsagePage(Arc<Settings>);

#[derive(Clone, Debug)]
struct Settings {
    limiter: Limiter,
    log: RequestLog,
    /// The header in which the page sends an API key, and what stands there before the key.
    key_header: Option<(HeaderName, &'static str)>,
}

impl UsagePage {
    /// A page for the layer that has this limiter and this log. It reads the
    /// [first sink](RequestLog::reader) that can be read.
    pub fn builder(limiter: Limiter, log: RequestLog) -> UsagePageBuilder {
        UsagePageBuilder(Settings { limiter, log, key_header: None })
    }

    /// The page as a router, for `Router::nest`.
    pub fn router<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        Router::new().route("/", get(overview)).route("/log", get(entries)).with_state(self)
    }
}

/// Collects what a [`UsagePage`] needs.
#[derive(Clone, Debug)]
#[must_use]
pub struct UsagePageBuilder(Settings);

impl UsagePageBuilder {
    /// Lets the page ask for an API key, and send it in this header, after `prefix`. The open page
    /// keeps the key in memory only. Default: the page does not ask. The browser's own credentials,
    /// such as a session cookie, then identify the caller.
    pub fn ask_for_key(mut self, header: HeaderName, prefix: &'static str) -> Self {
        self.0.key_header = Some((header, prefix));
        self
    }

    /// The page.
    ///
    /// # Errors
    /// The log cannot be read, or no header can have the prefix.
    pub fn build(self) -> Result<UsagePage, BuildError> {
        let Settings { log, key_header, .. } = &self.0;
        let fail = |problem: &str| Err(BuildError::new("usage page", problem));
        if log.reader().is_none() {
            return fail(UNREADABLE);
        }
        if key_header.as_ref().is_some_and(|(_, prefix)| HeaderValue::from_str(prefix).is_err()) {
            return fail("no header can have its key's prefix; write one like `Bearer `");
        }
        Ok(UsagePage(Arc::new(self.0)))
    }
}

type Answer = Result<Response, Response>;

/// The page and its parts are the same for all callers; its script asks for the data with a key.
async fn overview(State(UsagePage(page)): State<UsagePage>, request: Request) -> Answer {
    let request = request.into_parts().0;
    if let Some(page) = PAGE.answer(&request) {
        return Ok(page);
    }
    let span = parameter(&request, "span").unwrap_or_else(|| "hour".to_owned());
    let minutes = match &*span {
        "hour" => 60,
        "day" => 1_440,
        _ => return Err(problem(StatusCode::BAD_REQUEST, "`span` is `hour` or `day`.")),
    };
    let key = page.log.key_of(&request).ok_or_else(|| page.no_key())?;
    let decision = page.limiter.peek_request(&request).await;
    let (now, fingerprint) = (decision.decided_at(), key.fingerprint);
    let (sums, latest) = read(&page.log, move |log| {
        let sums = log.sums(fingerprint, since(now, minutes))?;
        Ok((sums, log.entries(fingerprint, None, DEFAULT_LIMIT)?))
    })
    .await?;
    let caller = page.limiter.overrides().by_fingerprint(fingerprint);
    let own = caller.map(|caller| caller.list()).unwrap_or_default();
    let blocked = own.into_iter().find(|own| own.policy().is_none());
    let blocked = blocked.map(|block| block.until.saturating_sub(now));
    Ok(json(&summary_json(&key, blocked, &decision, &span, &sums, &latest)))
}

async fn entries(State(UsagePage(page)): State<UsagePage>, request: Request) -> Answer {
    let request = request.into_parts().0;
    let (limit, before) = (parameter(&request, "limit"), parameter(&request, "before"));
    let limit = limit.map_or(Some(DEFAULT_LIMIT), |limit| limit.parse().ok());
    let before = before.map(|before| before.parse()).transpose();
    let (Some(limit @ 1..=MAX_LIMIT), Ok(before)) = (limit, before) else {
        let detail = "`limit` is a number from 1 to 100, `before` the `next` of another page.";
        return Err(problem(StatusCode::BAD_REQUEST, detail));
    };
    let key = page.log.key_of(&request).ok_or_else(|| page.no_key())?;
    let entries = read(&page.log, move |log| log.entries(key.fingerprint, before, limit));
    Ok(json(&log_json(&entries.await?)))
}

impl Settings {
    /// The page's script reads this answer, and asks its user for a key. A 401 needs a challenge (RFC
    /// 9110, section 15.5.2), which only `Authorization` has.
    fn no_key(&self) -> Response {
        let Some((name, prefix)) = &self.key_header else {
            let detail = "The request has no key by which its usage could be found.";
            return problem(StatusCode::FORBIDDEN, detail);
        };
        let scheme = HeaderValue::from_str(prefix.trim()).ok();
        let challenge = scheme.filter(|scheme| *name == AUTHORIZATION && !scheme.is_empty());
        let status = match challenge {
            Some(_) => StatusCode::UNAUTHORIZED,
            None => StatusCode::FORBIDDEN,
        };
        let detail = format!("Send your API key in the header `{name}`.");
        let members = [("header", name.as_str()), ("prefix", prefix)];
        let mut response = problem_with(status, &detail, members);
        response.headers_mut().extend(challenge.map(|scheme| (WWW_AUTHENTICATE, scheme)));
        response
    }
}

fn parameter(request: &Parts, name: &str) -> Option<String> {
    let pairs = form_urlencoded::parse(request.uri.query()?.as_bytes());
    pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
