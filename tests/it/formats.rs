//! Refusals in each format, whole headers and bodies, over the public API.

use std::{
    convert::Infallible,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    Clock, Limiter, Policy, Quota, RateLimitLayer, RateLimitLayerBuilder, Rejection, key,
    response::{self, Problem},
    warning::{Code, warnings},
};

type Body = Full<Bytes>;

/// Refuses a request whose quotas are both used up, without quota headers.
fn refused() -> Request<()> {
    request(&[("x-api-key", "k"), ("x-request-id", "req_01HX")])
}

fn request(headers: &[(&str, &str)]) -> Request<()> {
    let request = Request::get("/");
    headers.iter().fold(request, |r, (name, value)| r.header(*name, *value)).body(()).unwrap()
}

fn builder() -> RateLimitLayerBuilder {
    let policy =
        |name, quota| Policy::sliding_window(name, quota).key(key::header("x-api-key")).or_refuse();
    let limiter = Limiter::builder()
        .clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_413_600)))
        .policy(policy("credential", Quota::per_minute(1)))
        .policy(
            policy("tenant", Quota::per_hour(1))
                .cost(|request| if request.headers.contains_key("x-heavy") { 2 } else { 1 }),
        )
        .build()
        .unwrap();
    RateLimitLayer::builder(limiter).headers([])
}

async fn handler(_: Request<()>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::default()))
}

/// Status, headers and body of the second answer.
async fn answer(
    builder: RateLimitLayerBuilder,
    request: Request<()>,
) -> (u16, Vec<(String, String)>, String) {
    let layer = builder.build().unwrap();
    let service = || layer.layer(service_fn(handler));
    let mut first = Request::new(());
    *first.headers_mut() = request.headers().clone();
    first.headers_mut().remove("x-heavy");
    service().oneshot(first).await.unwrap();
    let response = service().oneshot(request).await.unwrap();
    let mut headers: Vec<_> = response
        .headers()
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, headers, String::from_utf8(body.to_vec()).unwrap())
}

/// These, and what every refusal has.
fn lines(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    let no_store = ("cache-control", "no-store");
    let lines = std::iter::once(&no_store).chain(headers);
    lines.map(|(name, value)| ((*name).into(), (*value).into())).collect()
}

fn gateway() -> Problem {
    Problem::new("https://gateway/errors/rate-limited")
        .title(|rejection| {
            format!("Rate-limit budget for purpose '{}' exhausted", rejection.policy())
        })
        .instance()
}

const PROBLEM: (&str, &str) = ("content-type", "application/problem+json");

#[tokio::test(start_paused = true)]
async fn a_problem_of_the_house() {
    let builder = builder().retry_after(false).on_rejection(gateway().renderer());
    assert_eq!(
        answer(builder, refused()).await,
        (
            429,
            lines(&[PROBLEM]),
            r#"{"type":"https://gateway/errors/rate-limited","title":"Rate-limit budget for purpose 'tenant' exhausted","status":429,"instance":"req_01HX"}"#.to_owned(),
        ),
    );
}

#[tokio::test(start_paused = true)]
async fn a_problem_without_title_or_request_id() {
    let problem = Problem::new("https://gateway/errors/rate-limited").instance();
    let request = request(&[("x-api-key", "k")]);
    assert_eq!(
        answer(builder().on_rejection(problem.renderer()), request).await,
        (
            429,
            lines(&[PROBLEM, ("retry-after", "3600")]),
            r#"{"type":"https://gateway/errors/rate-limited","title":"Too Many Requests","status":429}"#.to_owned(),
        ),
    );
}

#[tokio::test(start_paused = true)]
async fn the_quota_exceeded_problem_names_all_that_refuse() {
    let builder = builder().on_rejection(Problem::quota_exceeded().renderer());
    assert_eq!(
        answer(builder, refused()).await,
        (
            429,
            lines(&[PROBLEM, ("retry-after", "3600")]),
            r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota exceeded","status":429,"detail":"Quota of policy `tenant` is used up (1 per 3600s). Retry after 3600 seconds.","violated-policies":["tenant","credential"]}"#.to_owned(),
        ),
    );
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_is_a_bad_request_and_no_quota_problem() {
    for problem in [gateway(), Problem::quota_exceeded().instance()] {
        let builder = builder().on_rejection(problem.renderer());
        assert_eq!(
            answer(builder, request(&[("x-request-id", "req_01HX")])).await,
            (
                400,
                lines(&[PROBLEM]),
                r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"Policy `tenant` counts by x-api-key, which the request does not tell.","instance":"req_01HX"}"#.to_owned(),
            ),
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_key_is_a_bad_request_in_each_format() {
    const MESSAGE: &str = "Policy `tenant` counts by x-api-key, which cannot be read: the request has it twice, or is malformed.";
    let twice = || request(&[("x-api-key", "a"), ("x-api-key", "b"), ("x-request-id", "req_01HX")]);
    for problem in [gateway(), Problem::quota_exceeded().instance()] {
        let body = format!(
            r#"{{"type":"about:blank","title":"Bad Request","status":400,"detail":"{MESSAGE}","instance":"req_01HX"}}"#
        );
        assert_eq!(
            answer(builder().on_rejection(problem.renderer()), twice()).await,
            (400, lines(&[PROBLEM]), body)
        );
    }
    let body = format!(
        r#"{{"error":"unreadable_key","message":"{MESSAGE}","policy":"tenant","request_id":"req_01HX"}}"#
    );
    let json = lines(&[("content-type", "application/json")]);
    assert_eq!(answer(builder(), twice()).await, (400, json, body));
    let text = lines(&[("content-type", "text/plain; charset=utf-8")]);
    let plain = builder().on_rejection(response::plain_text());
    assert_eq!(answer(plain, twice()).await, (400, text, MESSAGE.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_house_may_add_the_message_as_detail_and_any_id_as_a_uri_reference() {
    let problem = Problem::new("https://gateway/errors/rate-limited").detail().instance();
    let request = request(&[("x-api-key", "k"), ("x-request-id", "a b:\"c\"")]);
    assert_eq!(
        answer(builder().on_rejection(problem.renderer()), request).await.2,
        r#"{"type":"https://gateway/errors/rate-limited","title":"Too Many Requests","status":429,"detail":"Quota of policy `tenant` is used up (1 per 3600s). Retry after 3600 seconds.","instance":"a%20b%3A%22c%22"}"#,
    );
}

#[tokio::test(start_paused = true)]
async fn json_of_the_house() {
    let builder = builder().on_rejection(response::json(|rejection| {
        let seconds = rejection.retry_after_seconds();
        json!({ "error": "rate_limit_exceeded", "retry_after": seconds })
    }));
    assert_eq!(
        answer(builder, refused()).await,
        (
            429,
            lines(&[("content-type", "application/json"), ("retry-after", "3600")]),
            r#"{"error":"rate_limit_exceeded","retry_after":3600}"#.to_owned(),
        ),
    );
}

#[tokio::test(start_paused = true)]
async fn json_that_cannot_be_written_gives_way_to_the_default() {
    let unwritable = response::json(|_| std::collections::HashMap::from([((1, 2), 3)]));
    let default = answer(builder().on_rejection(Rejection::to_response), refused()).await;
    assert_eq!(answer(builder().on_rejection(unwritable), refused()).await, default);
}

#[tokio::test(start_paused = true)]
async fn json_by_default() {
    assert_eq!(
        answer(builder(), refused()).await,
        (
            429,
            lines(&[("content-type", "application/json"), ("retry-after", "3600")]),
            r#"{"error":"rate_limit_exceeded","message":"Quota of policy `tenant` is used up (1 per 3600s). Retry after 3600 seconds.","policy":"tenant","limit":1,"remaining":0,"retry_after":3600,"request_id":"req_01HX"}"#.to_owned(),
        ),
    );
}

#[tokio::test(start_paused = true)]
async fn plain_text() {
    const TEXT: (&str, &str) = ("content-type", "text/plain; charset=utf-8");
    let plain = || builder().on_rejection(response::plain_text());
    assert_eq!(
        answer(plain(), refused()).await,
        (
            429,
            lines(&[TEXT, ("retry-after", "3600")]),
            "Quota of policy `tenant` is used up (1 per 3600s). Retry after 3600 seconds.".into(),
        ),
    );
    // Waiting does not help: no Retry-After.
    assert_eq!(
        answer(plain(), request(&[("x-api-key", "k"), ("x-heavy", "")])).await,
        (
            429,
            lines(&[TEXT]),
            "The request costs more than the whole quota of policy `tenant` (1 per 3600s).".into(),
        ),
    );
}

#[tokio::test(start_paused = true)]
async fn a_renderer_may_say_how_its_response_is_cached() {
    let builder = builder().retry_after(false).on_rejection(|rejection| {
        let response = Response::builder().status(rejection.status());
        response.header("cache-control", "private, max-age=1").body("later").unwrap()
    });
    assert_eq!(
        answer(builder, refused()).await,
        (429, vec![("cache-control".into(), "private, max-age=1".into())], "later".into()),
    );
}

#[tokio::test(start_paused = true)]
async fn a_problem_has_a_detail_and_members_of_its_own() {
    let problem = || {
        Problem::quota_exceeded()
            .detail_by(|rejection| {
                format!("Wait {:?} s.", rejection.retry_after_seconds().unwrap_or(0))
            })
            .instance()
            .member("code", |_| 4290)
            .member("a \"b\"", |rejection| json!({ "policies": [rejection.policy()] }))
            .member("absent", |_| None::<u64>)
    };
    assert_eq!(
        answer(builder().on_rejection(problem().renderer()), refused()).await.2,
        r#"{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Quota exceeded","status":429,"detail":"Wait 3600 s.","instance":"req_01HX","violated-policies":["tenant","credential"],"code":4290,"a \"b\"":{"policies":["tenant"]}}"#,
    );
    // Also where no quota is exceeded.
    assert_eq!(
        answer(builder().on_rejection(problem().renderer()), request(&[])).await.2,
        r#"{"type":"about:blank","title":"Bad Request","status":400,"detail":"Wait 0 s.","code":4290,"a \"b\"":{"policies":["tenant"]}}"#,
    );
}

#[tokio::test(start_paused = true)]
async fn a_member_of_its_own_replaces_that_of_the_problem() {
    let all = ["type", "title", "status", "detail", "instance", "violated-policies"];
    let own = |names: &[&'static str]| {
        names.iter().fold(Problem::quota_exceeded().instance(), |problem, name| {
            problem.member(*name, |_| "first").member(*name, |_| "own")
        })
    };
    let answered = async |problem: Problem| {
        let builder = builder().on_rejection(problem.renderer());
        answer(builder, refused()).await.2
    };
    let standard = answered(own(&[])).await;
    for name in all {
        assert!(standard.contains(&format!("\"{name}\":")), "{standard}");
        let body = answered(own(&[name])).await;
        assert_eq!(body.matches(&format!("\"{name}\":")).count(), 1, "{body}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap()[name], "own");
    }
    let expected = all.map(|name| format!("\"{name}\":\"own\"")).join(",");
    assert_eq!(answered(own(&all)).await, format!("{{{expected}}}"));
}

// --- The renderer that sees the request -------------------------------------------------------

/// A body of these frames; the last one may be none that can be sent.
#[derive(Default)]
struct Frames(std::collections::VecDeque<Frame>);

enum Frame {
    Data(Vec<u8>),
    Trailers,
    Fails,
    Later,
}

impl http_body::Body for Frames {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, &'static str>>> {
        use std::task::Poll::{Pending, Ready};
        Ready(match self.0.pop_front() {
            None => None,
            Some(Frame::Data(data)) => Some(Ok(http_body::Frame::data(data.into()))),
            Some(Frame::Trailers) => Some(Ok(http_body::Frame::trailers(http::HeaderMap::new()))),
            Some(Frame::Fails) => Some(Err("fails")),
            Some(Frame::Later) => return Pending,
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_renderer_sees_the_request_and_returns_any_whole_body() {
    let builder = builder().on_rejection_of(|request, rejection| {
        let (head, tail) = (request.headers["x-api-key"].as_bytes(), rejection.policy().as_bytes());
        let frames = [head, b" ", tail].map(|data| Frame::Data(data.to_vec()));
        let response = Response::builder().status(rejection.status()).header("x-own", "1");
        response.body(Frames(frames.into())).unwrap()
    });
    assert_eq!(
        answer(builder, refused()).await,
        (429, lines(&[("retry-after", "3600"), ("x-own", "1")]), "k tenant".to_owned()),
    );
}

#[cfg(feature = "axum")]
#[tokio::test(start_paused = true)]
async fn a_renderer_returns_what_axum_makes() {
    use axum::{Json, response::IntoResponse};

    let builder = builder().on_rejection_of(|request, rejection| {
        (rejection.status(), Json(json!({ "path": request.uri.path() }))).into_response()
    });
    let json = lines(&[("content-type", "application/json"), ("retry-after", "3600")]);
    assert_eq!(answer(builder, refused()).await, (429, json, r#"{"path":"/"}"#.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_cannot_be_sent_gives_way_to_the_default() {
    type Made = fn() -> Vec<Frame>;

    let default = answer(builder(), refused()).await;
    let rendered = async |frames: Made| {
        let render = move |_: &_, _: &Rejection| Response::new(Frames(frames().into()));
        answer(builder().on_rejection_of(render), refused()).await
    };
    let whole: [(Made, usize); 4] = [
        (Vec::new, 0),
        (|| vec![Frame::Data(vec![])], 0),
        (|| vec![Frame::Data(vec![b'x'; 1024 * 1024])], 1024 * 1024),
        (|| (0..3).map(|_| Frame::Data(vec![b'x'; 5])).collect(), 15),
    ];
    for (frames, length) in whole {
        let (status, _, body) = rendered(frames).await;
        assert_eq!((status, body.len()), (200, length));
    }
    let unsent: [Made; 6] = [
        || vec![Frame::Later],
        || vec![Frame::Fails],
        || vec![Frame::Data(b"a".to_vec()), Frame::Later],
        || vec![Frame::Data(b"a".to_vec()), Frame::Trailers],
        || vec![Frame::Data(vec![b'x'; 1024 * 1024 + 1])],
        || (0..3).map(|_| Frame::Data(vec![b'x'; 400_000])).collect(),
    ];
    for frames in unsent {
        assert_eq!(rendered(frames).await, default);
    }
    let given = warnings().into_iter().find(|given| given.code() == Code::RefusalBody);
    assert!(given.unwrap().to_string().contains("`.on_rejection_of(…)`"));
}

#[test]
fn the_last_renderer_holds() {
    let own = |text: &'static str| move |_: &Rejection| Response::new(text);
    let of = |text: &'static str| {
        move |_: &http::request::Parts, _: &Rejection| Response::new(text.to_owned())
    };
    let body = |layer: RateLimitLayerBuilder| {
        let service = layer.build().unwrap().layer(service_fn(handler));
        let request = Request::get("/").body(()).unwrap();
        let response = futures_util::FutureExt::now_or_never(service.oneshot(request)).unwrap();
        let body = response.unwrap().into_body().collect();
        futures_util::FutureExt::now_or_never(body).unwrap().unwrap().to_bytes()
    };
    assert_eq!(body(builder().on_rejection(own("a")).on_rejection_of(of("b"))), "b");
    assert_eq!(body(builder().on_rejection_of(of("b")).on_rejection(own("a"))), "a");
}
