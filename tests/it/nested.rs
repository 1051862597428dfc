//! Quota headers of responses under several limits: layers around layers, and handlers that check a
//! quota themselves.
#![cfg(feature = "axum")]

use std::time::{Duration, UNIX_EPOCH};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Request, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use proptest::prelude::*;
use sfv::{List, ListEntry, Parser};
use tower::ServiceExt;
use tower_quota::{
    Clock, HeaderStyle, Limiter, LimiterBuilder, Policy, Quota, RateLimitLayer, Rejection,
    ResetFormat, response,
};

/// At 14:00:00 UTC.
fn builder() -> LimiterBuilder {
    Limiter::builder().clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_413_600)))
}

fn limiter(name: &str, units: u64) -> Limiter {
    builder().policy(Policy::fixed_window(name, Quota::per_hour(units)).global()).build().unwrap()
}

fn layer(name: &str, units: u64, styles: impl IntoIterator<Item = HeaderStyle>) -> RateLimitLayer {
    RateLimitLayer::builder(limiter(name, units)).headers(styles).build().unwrap()
}

const X: HeaderStyle = HeaderStyle::x_ratelimit();
const FIELDS: HeaderStyle = HeaderStyle::ratelimit();
const DICTIONARY: HeaderStyle = HeaderStyle::ratelimit_dictionary();
const LISTS: HeaderStyle = HeaderStyle::ratelimit_lists();

/// A route behind layers, the outermost first.
fn behind(
    layers: impl IntoIterator<Item = RateLimitLayer, IntoIter: DoubleEndedIterator>,
) -> Router {
    let route = Router::new().route("/", get(|| async { "handled" }));
    layers.into_iter().rev().fold(route, |app, layer| app.layer(layer))
}

/// The status, and all quota headers in the order of their names.
async fn answer(app: &Router) -> (u16, Vec<(String, String)>) {
    let response = app.clone().oneshot(Request::new(Body::empty())).await.unwrap();
    (response.status().as_u16(), lines(response.headers()))
}

fn lines(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut lines: Vec<_> = headers
        .iter()
        .filter(|(name, _)| name.as_str().contains("ratelimit") || *name == "retry-after")
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    lines.sort();
    lines
}

fn owned<const N: usize>(lines: [(&str, &str); N]) -> Vec<(String, String)> {
    lines.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

fn triple(limit: &str, remaining: &str) -> Vec<(String, String)> {
    owned([
        ("x-ratelimit-limit", limit),
        ("x-ratelimit-remaining", remaining),
        ("x-ratelimit-reset", "1705417200"),
    ])
}

fn refused(limit: &str) -> Vec<(String, String)> {
    let mut lines = triple(limit, "0");
    lines.insert(0, ("retry-after".to_owned(), "3600".to_owned()));
    lines
}

#[tokio::test(start_paused = true)]
async fn of_nested_layers_the_one_speaks_that_has_the_smaller_share_left() {
    let app = behind([layer("outer", 100, [X]), layer("inner", 4, [X])]);
    for remaining in ["3", "2", "1", "0"] {
        assert_eq!(answer(&app).await, (200, triple("4", remaining)));
    }
    assert_eq!(answer(&app).await, (429, refused("4")));

    let app = behind([layer("outer", 4, [X]), layer("inner", 100, [X])]);
    for remaining in ["3", "2", "1", "0"] {
        assert_eq!(answer(&app).await, (200, triple("4", remaining)));
    }
    assert_eq!(answer(&app).await, (429, refused("4")), "the inner ones are not asked");
}

#[tokio::test(start_paused = true)]
async fn it_is_so_for_three_layers_in_any_order_and_for_each_style_that_speaks_of_one() {
    for style in [X, FIELDS, DICTIONARY] {
        for order in [[9, 2, 5], [2, 5, 9], [5, 9, 2], [9, 5, 2], [2, 9, 5], [5, 2, 9]] {
            let app = behind(order.map(|units| layer("p", units, [style])));
            let (status, lines) = answer(&app).await;
            let expected = match style {
                X => triple("2", "1"),
                FIELDS => owned([
                    ("ratelimit-limit", "2"),
                    ("ratelimit-remaining", "1"),
                    ("ratelimit-reset", "3600"),
                ]),
                _ => owned([("ratelimit", "limit=2, remaining=1, reset=3600")]),
            };
            assert_eq!((status, lines), (200, expected), "{order:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lists_tell_of_the_policies_of_all_layers() {
    let app = behind([layer("a", 9, [LISTS]), layer("b", 2, [LISTS]), layer("c", 5, [LISTS])]);
    let response = app.clone().oneshot(Request::new(Body::empty())).await.unwrap();
    let members = |name: &str| {
        let mut list = List::new();
        for line in response.headers().get_all(name) {
            list.extend(Parser::new(line.as_bytes()).parse::<List>().unwrap());
        }
        let member = |entry: &ListEntry| match entry {
            ListEntry::Item(item) => item.bare_item.as_string().unwrap().as_str().to_owned(),
            ListEntry::InnerList(_) => panic!("no member is a list"),
        };
        let mut members: Vec<_> = list.iter().map(member).collect();
        members.sort();
        members
    };
    assert_eq!(members("ratelimit"), ["a", "b", "c"]);
    assert_eq!(members("ratelimit-policy"), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_two_layers_tell_of_is_told_once_with_the_fewest_units() {
    let shared = limiter("shared", 9);
    let layer = || RateLimitLayer::builder(shared.clone()).headers([LISTS]).build().unwrap();
    let (_, lines) = answer(&behind([layer(), layer()])).await;
    let expected = owned([
        ("ratelimit", r#""shared";r=7;t=3600"#),
        ("ratelimit-policy", r#""shared";q=9;w=3600"#),
    ]);
    assert_eq!(lines, expected);
}

/// A field that has a dictionary in it and a list beside it could not be read.
#[tokio::test(start_paused = true)]
async fn of_two_generations_of_one_field_only_the_tighter_stands() {
    let list = |units: u64| {
        let (limit, policy) =
            (format!(r#""p";r={};t=3600"#, units - 1), format!(r#""p";q={units};w=3600"#));
        owned([("ratelimit", &*limit), ("ratelimit-policy", &*policy)])
    };
    let dictionary = |units: u64| {
        owned([("ratelimit", &*format!("limit={units}, remaining={}, reset=3600", units - 1))])
    };
    for (layers, expected) in [
        ([(9, LISTS), (2, DICTIONARY)], dictionary(2)),
        ([(2, LISTS), (9, DICTIONARY)], list(2)),
        ([(9, DICTIONARY), (2, LISTS)], list(2)),
        ([(2, DICTIONARY), (9, LISTS)], dictionary(2)),
    ] {
        let app = behind(layers.map(|(units, style)| layer("p", units, [style])));
        assert_eq!(answer(&app).await, (200, expected), "{layers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn numbers_of_two_policies_are_never_mixed() {
    // If the headers are of the outer layer, the inner one's reset is missing; otherwise it is there.
    let omitted = X.reset(ResetFormat::Omitted);
    let app = behind([layer("outer", 2, [omitted]), layer("inner", 9, [X])]);
    assert_eq!(answer(&app).await, (200, triple("2", "1")[..2].to_vec()));
    let app = behind([layer("outer", 9, [omitted]), layer("inner", 2, [X])]);
    assert_eq!(answer(&app).await, (200, triple("2", "1")));
    // Headers of different styles are each of their own layer.
    let app = behind([layer("outer", 9, [FIELDS]), layer("inner", 2, [X])]);
    let mut both = owned([
        ("ratelimit-limit", "9"),
        ("ratelimit-remaining", "8"),
        ("ratelimit-reset", "3600"),
    ]);
    both.extend(triple("2", "1"));
    assert_eq!(answer(&app).await, (200, both));
    // One without headers says nothing, and is not spoken for.
    let app = behind([layer("outer", 9, [X]), layer("inner", 2, [])]);
    assert_eq!(answer(&app).await, (200, triple("9", "8")));
}

#[tokio::test(start_paused = true)]
async fn what_a_refusing_layer_says_is_all_that_is_said() {
    for (outer, inner, expected) in [
        (vec![X], vec![X], refused("1")),
        (vec![FIELDS], vec![X], refused("1")),
        (vec![LISTS, X], vec![], owned([("retry-after", "3600")])),
    ] {
        let app = behind([
            layer("outermost", 7, [X]),
            layer("outer", 9, outer),
            layer("inner", 1, inner),
        ]);
        answer(&app).await;
        assert_eq!(answer(&app).await, (429, expected));
    }
}

#[tokio::test(start_paused = true)]
async fn a_named_policy_speaks_whatever_an_inner_layer_has_left() {
    let outer = RateLimitLayer::builder(limiter("outer", 100)).header_policy("outer");
    let app = behind([outer.build().unwrap(), layer("inner", 4, [X])]);
    assert_eq!(answer(&app).await, (200, triple("100", "99")));
}

/// What a handler passes on of another server, or makes up.
#[tokio::test(start_paused = true)]
async fn numbers_that_a_handler_writes_are_weighed_as_those_of_a_layer() {
    for (limit, remaining, expected) in [
        ("100", "1", ("100", "1")),
        ("100", "99", ("10", "9")),
        ("100, 100;w=60", "1", ("100, 100;w=60", "1")),
        ("many", "1", ("10", "9")),
        ("100", "", ("10", "9")),
        ("0", "0", ("0", "0")),
        ("18446744073709551616", "1", ("10", "9")),
    ] {
        let handler = move || async move {
            [
                ("x-ratelimit-limit", limit),
                ("x-ratelimit-remaining", remaining),
                ("x-ratelimit-reset", "1705417200"),
            ]
        };
        let app = Router::new().route("/", get(handler)).layer(layer("p", 10, [X]));
        assert_eq!(
            answer(&app).await,
            (200, triple(expected.0, expected.1)),
            "{limit} {remaining}"
        );
    }
    for (limits, policies, stands) in [
        (r#""up";r=1;t=9"#, r#""up";q=50;w=60"#, true),
        (r#""u,p\"";r=1;t=9, "b";r=2"#, r#""u,p\"";q=50;w=60"#, true),
        ("limit=1, remaining=1, reset=1", "1;w=1", false),
        (r#""up;r=1"#, r#""up";q=1"#, false),
        ("seven", "", false),
    ] {
        let handler =
            move || async move { [("ratelimit", limits), ("ratelimit-policy", policies)] };
        let app = Router::new().route("/", get(handler)).layer(layer("p", 10, [LISTS]));
        let (_, lines) = answer(&app).await;
        let joined: Vec<_> = lines.iter().map(|(_, value)| value.as_str()).collect();
        let joined = joined.join(" | ");
        assert!(joined.contains(r#""p";r=9;t=3600"#), "{limits}: {joined}");
        assert_eq!(joined.contains(limits), stands, "{limits}: {joined}");
        for (_, line) in &lines {
            Parser::new(line.as_bytes()).parse::<List>().expect("each line is a list");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Where something is left, the next request is not refused, and no numbers are of two layers.
    #[test]
    fn no_request_is_refused_after_a_response_with_units_left(
        quotas in prop::collection::vec(1..12_u64, 1..4),
        requests in 1..14_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let layers: Vec<_> = quotas.iter().map(|units| layer("p", *units, [X])).collect();
            let app = behind(layers);
            let mut left = u64::MAX;
            for sent in 1..=requests as u64 {
                let (status, lines) = answer(&app).await;
                let number = |name: &str| -> u64 {
                    let (_, value) = lines.iter().find(|(told, _)| told == name).unwrap();
                    value.parse().unwrap()
                };
                let (limit, remaining) = (number("x-ratelimit-limit"), number("x-ratelimit-remaining"));
                prop_assert!(quotas.contains(&limit));
                if status == 200 {
                    prop_assert_eq!(limit - remaining, sent);
                    let smallest = quotas.iter().all(|units| {
                        (units - sent) * limit >= remaining * units
                    });
                    prop_assert!(smallest, "{} of {}", remaining, limit);
                } else {
                    prop_assert_eq!((left, remaining), (0, 0));
                    break;
                }
                left = remaining;
            }
            Ok(())
        })?;
    }
}

fn own() -> Limiter {
    builder().check_only(Policy::fixed_window("exports", Quota::per_hour(1))).build().unwrap()
}

/// A handler that asks by itself, and answers a rejection in some way.
fn asking(answer: impl Fn(Rejection) -> Response + Clone + Send + Sync + 'static) -> Router {
    let limiter = own();
    let handler = move || async move {
        let decision = limiter.check("exports", "tenant").await.unwrap();
        Rejection::of(&decision).map_or(StatusCode::OK.into_response(), answer)
    };
    Router::new().route("/", get(handler))
}

#[tokio::test(start_paused = true)]
async fn a_rejection_that_a_handler_answers_says_when_to_come_back() {
    let problem = response::Problem::quota_exceeded();
    for app in [
        asking(Rejection::into_response),
        asking(move |rejection| problem.respond(&rejection).map(Body::from)),
        asking(|rejection| response::json(Rejection::to_string)(&rejection).map(Body::from)),
        asking(|rejection| response::plain_text()(&rejection).map(Body::from)),
    ] {
        answer(&app).await;
        let response = app.clone().oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()["retry-after"], "3600");
        assert_eq!(response.headers()["cache-control"], "no-store");
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_around_tells_the_numbers_of_a_handlers_rejection_in_its_own_styles() {
    let app = asking(Rejection::into_response).layer(layer("outer", 100, [X]));
    assert_eq!(answer(&app).await, (200, triple("100", "99")));
    assert_eq!(answer(&app).await, (429, refused("1")));

    let app = asking(Rejection::into_response)
        .layer(layer("inner", 100, [LISTS.partition_key()]))
        .layer(layer("outer", 9, [X, LISTS]));
    answer(&app).await;
    let expected = owned([
        ("ratelimit", r#""exports";r=0;t=3600"#),
        ("ratelimit-policy", r#""exports";q=1;w=3600"#),
        ("retry-after", "3600"),
    ]);
    assert_eq!(answer(&app).await, (429, expected), "and layers further out leave it");
}

/// The layer has not read this policy's name, which a list cannot carry.
#[tokio::test(start_paused = true)]
async fn a_foreign_name_that_a_list_cannot_carry_is_left_out() {
    let limiter = builder().check_only(Policy::fixed_window("größe", Quota::per_hour(1)));
    let limiter = limiter.build().unwrap();
    let handler = move || async move {
        let decision = limiter.check("größe", "tenant").cost(2).await.unwrap();
        Rejection::of(&decision).unwrap()
    };
    let app = Router::new().route("/", get(handler)).layer(layer("outer", 9, [LISTS]));
    assert_eq!(answer(&app).await, (429, vec![]));
}
