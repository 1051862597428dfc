//! The page on which operators see the busiest keys, block a key, and change its quotas:
//! [`OperatorPage`].

mod change;
mod explain;

use std::{cmp::Reverse, fmt, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, Request, State},
    response::Response,
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE, request::Parts};
use serde_json::{Value, json};

use self::{
    change::{Change, ChangeHistory},
    explain::{Asked, Explainer},
};
use super::{
    answer::{HtmlPage, UNREADABLE, json, problem, read},
    quota_json::{quota_json, unix_millis},
};
use crate::{
    error::BuildError,
    key::{Caller, Fingerprint},
    layer::RateLimitLayer,
    limiter::{
        Limiter,
        overrides::{CallerOverrides, Override, OverrideError},
    },
    usage::log::{KeySum, RequestLog, known_keys::Quotas},
};

/// How many of the busiest, and of the most refused keys are shown.
const TOP: usize = 20;
const HOUR: Duration = Duration::from_secs(3_600);
/// The longest body of a change, in bytes.
const MAX_BODY: usize = 4_096;
/// The longest body of a request to be explained, in bytes.
const MAX_ASKED: usize = 65_536;

const PAGE: HtmlPage = HtmlPage {
    html: include_str!("index.html"),
    script: concat!(include_str!("../common.js"), include_str!("script.js")),
};

/// Returns the operator's name; `None` for anyone else.
type FindOperator = dyn Fn(&Parts) -> Option<String> + Send + Sync;

struct Guard(Arc<FindOperator>);

/// Shows operators the busiest and the most refused keys of the last hour, with the state of their
/// quotas. Operators can change a key's quotas for a time, reset them, or block the key.
///
/// The page always shows a key that makes more than 1/16 of all requests, or of all refused ones,
/// however many other keys there are. With a [`MemoryLog`](crate::usage::MemoryLog), its count may
/// be too low, by less than 1/129 of all requests.
///
/// Mount the [`router`](Self::router) with `Router::nest`, outside of the
/// [`RateLimitLayer`](crate::RateLimitLayer). `/` answers with JSON, or to a browser with a page. A
/// `POST` of JSON to `/keys/{fingerprint}` changes a key, from its next request on. If the router
/// is mounted at `/quotas`, the page's address is `/quotas`: axum does not route `/quotas/` to it.
///
/// | body | effect |
/// |---|---|
/// | `{"action": "reset"}` | the key has its whole quotas again |
/// | `{"action": "block", "seconds": 3600, "reason": "scraping"}` | its requests are refused with the reason [`Blocked`](crate::Reason::Blocked) |
/// | `{"action": "unblock"}` | its requests are not blocked any more, neither by an operator nor by a [penalty](crate::Penalty) |
/// | `{"action": "set_quota", "policy": "read", "units": 500, "seconds": 3600, "reason": "migration"}` | the key has this number of units in each window; units it has used count, and a burst that was set stays |
/// | `{"action": "restore_quota", "policy": "read"}` | the key has its plan's quota again |
///
/// A `POST` of JSON to `/explain` answers what would become of a request, and why, as `text` and as the
/// data `explanation` ([`LayerExplanation`](crate::LayerExplanation); without a
/// [layer](OperatorPageBuilder::layer), [`Explanation`](crate::explain::Explanation)): `{"method": "GET", "path":
/// "/v1/users/7", "headers": [["x-api-key", "…"]], "peer": "203.0.113.7"}`. It charges nothing. What is
/// sent there is neither kept nor logged, and no key is in the answer.
///
/// The page lists the latest changes. With the feature `tracing`, each is logged with the target
/// `tower_quota::operator`. Blocks and quotas are the limiter's [`Overrides`](crate::overrides::Overrides), with
/// the operator as their author. A reason is optional. Their reasons and authors are shown.
///
/// ```
/// use axum::Router;
/// use tower_quota::{
///     Limiter,
///     key::{self, Caller},
///     usage::{MemoryLog, OperatorPage, RequestLog},
/// };
///
/// /// What your own middleware leaves in the request of a signed-in operator.
/// #[derive(Clone)]
/// struct Operator(String);
///
/// let caller = Caller::new(key::bearer());
/// let limiter = Limiter::builder().caller(caller.clone()).build()?;
/// let log = RequestLog::builder(caller)
///     .sink(MemoryLog::new())
///     .remember_keys(10_000)
///     .build()?;
/// let operator = OperatorPage::builder(limiter, log)
///     .guard(|request| request.extensions.get().map(|operator: &Operator| operator.0.clone()))
///     .build()?;
/// let app: Router = Router::new().nest("/operator/quotas", operator.router());
/// # let _ = app;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct OperatorPage(Arc<Settings>);

#[derive(Debug)]
struct Settings {
    limiter: Limiter,
    log: RequestLog,
    guard: Guard,
    changes: ChangeHistory,
    explainer: Explainer,
}

impl OperatorPage {
    /// A page for the layer that has this limiter and this log. It reads the
    /// [first sink](RequestLog::reader) that can be read.
    pub fn builder(limiter: Limiter, log: RequestLog) -> OperatorPageBuilder {
        let explainer = Explainer { limiter: limiter.clone(), layer: None, complete: None };
        OperatorPageBuilder { limiter, log, guard: None, explainer }
    }

    /// The page as a router, for `Router::nest`.
    pub fn router<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        Router::new()
            .route("/", get(overview))
            .route("/keys/{fingerprint}", post(change))
            .route("/explain", post(explain))
            .with_state(self)
    }
}

/// Collects what an [`OperatorPage`] needs.
#[derive(Debug)]
#[must_use]
pub struct OperatorPageBuilder {
    limiter: Limiter,
    log: RequestLog,
    guard: Option<Guard>,
    explainer: Explainer,
}

impl OperatorPageBuilder {
    /// Sets a function that says who may use the page. It returns the operator's name, for the list
    /// of changes, or `None` for anyone else, who gets a 403. It is required.
    pub fn guard(
        mut self,
        operator: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.guard = Some(Guard(Arc::new(operator)));
        self
    }

    /// Sets the layer whose answers are shown where an operator has a request explained. Default: none,
    /// only what the limiter decides.
    pub fn layer(mut self, layer: RateLimitLayer) -> Self {
        self.explainer.layer = Some(layer);
        self
    }

    /// Sets a function that adds to a request to be explained what your middlewares would leave in it,
    /// such as the extension of a user. Default: none, so that such keys are missing.
    ///
    /// ```
    /// # use tower_quota::{Limiter, key::{self, Caller}, usage::{MemoryLog, OperatorPage, RequestLog}};
    /// # #[derive(Clone)]
    /// # struct Tenant(String);
    /// # let caller = Caller::new(key::bearer());
    /// # let limiter = Limiter::builder().caller(caller.clone()).build()?;
    /// # let log = RequestLog::builder(caller).sink(MemoryLog::new()).remember_keys(9).build()?;
    /// let page = OperatorPage::builder(limiter, log).complete(|head| {
    ///     if let Some(tenant) = head.headers.get("x-tenant").and_then(|name| name.to_str().ok()) {
    ///         head.extensions.insert(Tenant(tenant.to_owned()));
    ///     }
    /// });
    /// # let _ = page;
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    pub fn complete(mut self, complete: impl Fn(&mut Parts) + Send + Sync + 'static) -> Self {
        self.explainer.complete = Some(Arc::new(complete));
        self
    }

    /// The page.
    ///
    /// # Errors
    /// There is no guard; the log remembers no keys, or cannot be read; or the limiter does not have
    /// the log's [`Caller`](crate::key::Caller).
    pub fn build(self) -> Result<OperatorPage, BuildError> {
        let fail = |problem: &str| Err(BuildError::new("operator page", problem));
        let Some(guard) = self.guard else {
            return fail("anybody could use it; add `.guard(…)`");
        };
        if self.log.known_keys().is_none() {
            return fail(
                "its log remembers no keys; add `.remember_keys(10_000)` to the `RequestLog`",
            );
        }
        let is_same = |caller: &Caller| caller.is_same(self.log.caller());
        if !self.limiter.caller().is_some_and(is_same) {
            return fail(
                "the limiter does not know callers as the log does; give a clone of one `Caller` to `LimiterBuilder::caller` and to `RequestLog::builder`",
            );
        }
        if self.log.reader().is_none() {
            return fail(UNREADABLE);
        }
        let Self { limiter, log, explainer, .. } = self;
        let changes = ChangeHistory::default();
        Ok(OperatorPage(Arc::new(Settings { limiter, log, guard, changes, explainer })))
    }
}

type Answer = Result<Response, Response>;

async fn overview(State(OperatorPage(page)): State<OperatorPage>, request: Request) -> Answer {
    let request = request.into_parts().0;
    page.operator_of(&request)?;
    if let Some(page) = PAGE.answer(&request) {
        return Ok(page);
    }
    let now = page.limiter.now().unix();
    let mut keys = read(&page.log, move |log| log.keys(now - HOUR.min(now))).await?;
    keys.sort_by_key(|key| (Reverse(key.requests), key.key.fingerprint));
    let busiest = page.summaries(&keys[..keys.len().min(TOP)]).await;
    keys.retain(|key| key.refused > 0);
    keys.sort_by_key(|key| (Reverse(key.refused), key.key.fingerprint));
    let most_refused = page.summaries(&keys[..keys.len().min(TOP)]).await;
    Ok(json(&json!({
        "at": unix_millis(now),
        "busiest": busiest,
        "most_refused": most_refused,
        "changes": page.changes.to_json(),
        "lints": page.explainer.lints(),
    })))
}

async fn change(
    State(OperatorPage(page)): State<OperatorPage>,
    Path(fingerprint): Path<String>,
    request: Request,
) -> Answer {
    let (operator, body) = page.read_json(request, MAX_BODY).await?;
    let change: Change =
        serde_json::from_slice(&body).map_err(|error| refuse(&error.to_string()))?;
    let key = Fingerprint::from_hex(&fingerprint);
    let key = key.ok_or_else(|| refuse("A fingerprint has 32 hexadecimal digits."))?;
    change.make(&page, key, &operator).await.map_err(|detail| refuse(&detail))?;
    let at = unix_millis(page.limiter.now().unix());
    page.changes.add(at, &operator, &fingerprint, &change.to_string());
    Ok(json(&json!({})))
}

async fn explain(State(OperatorPage(page)): State<OperatorPage>, request: Request) -> Answer {
    let (_, body) = page.read_json(request, MAX_ASKED).await?;
    let explained = match Asked::parse(&body) {
        Ok(asked) => page.explainer.explain(asked).await,
        Err(detail) => Err(detail),
    };
    explained.map(|explained| json(&explained)).map_err(|detail| refuse(&detail))
}

fn refuse(detail: &str) -> Response {
    problem(StatusCode::BAD_REQUEST, detail)
}

impl Settings {
    /// The operator's name, and a body of JSON.
    async fn read_json(&self, request: Request, max: usize) -> Result<(String, Bytes), Response> {
        let (request, body) = request.into_parts();
        let operator = self.operator_of(&request)?;
        // A form of another site cannot send this type, so a browser's cookies alone change nothing.
        if !is_json(&request.headers) {
            return Err(problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send `application/json`."));
        }
        let body = axum::body::to_bytes(body, max).await;
        let body = body.map_err(|_| refuse("The body is too long, or did not come."))?;
        Ok((operator, body))
    }

    #[expect(clippy::result_large_err, reason = "the response is returned as it is")]
    fn operator_of(&self, request: &Parts) -> Result<String, Response> {
        let forbidden = || problem(StatusCode::FORBIDDEN, "This page is the operator's.");
        (self.guard.0)(request).ok_or_else(forbidden)
    }

    fn quotas(&self, key: Fingerprint) -> Quotas {
        self.log.known_keys().map(|known| known.of(key)).unwrap_or_default()
    }

    /// The overrides of a caller. `build()` has checked that the limiter has a caller.
    fn overrides(&self, key: Fingerprint) -> Result<CallerOverrides, OverrideError> {
        self.limiter.overrides().by_fingerprint(key)
    }

    async fn summaries(&self, keys: &[KeySum]) -> Vec<Value> {
        let mut summaries = Vec::new();
        for KeySum { key, requests, refused } in keys {
            let drawn = self.quotas(key.fingerprint);
            let decision = self.limiter.peek_quotas(&drawn, Some(key.fingerprint)).await;
            let now = self.limiter.now().unix();
            let own = self.overrides(key.fingerprint).map(|caller| caller.list());
            let own = own.unwrap_or_default();
            let of_policy = |policy| own.iter().find(|own| own.policy() == policy);
            let quotas = decision.outcomes().map(|outcome| {
                let mut quota = quota_json(outcome);
                // The key has this quota instead of its plan's.
                quota["changed"] = override_json(of_policy(Some(outcome.policy())), now);
                quota
            });
            summaries.push(json!({
                "fingerprint": key.fingerprint.to_string(),
                "label": &*key.label,
                "requests": requests,
                "refused": refused,
                "blocked": override_json(of_policy(None), now),
                "quotas": quotas.collect::<Vec<_>>(),
            }));
        }
        summaries
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// An override beside the key or the quota that it changes; null if there is none.
fn override_json(own: Option<&Override>, now: Duration) -> Value {
    let shown = |own: &Override| {
        json!({
            "seconds": own.until.saturating_sub(now).as_secs_f64(),
            "since": unix_millis(own.since),
            "reason": own.reason,
            "author": own.author,
        })
    };
    own.map_or(Value::Null, shown)
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard(..)")
    }
}
