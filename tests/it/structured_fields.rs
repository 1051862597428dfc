//! The headers of the drafts, read by another crate's parser of RFC 9651.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::Full;
use proptest::prelude::*;
use sfv::{BareItem, Dictionary, Item, List, ListEntry, Parser};
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{HeaderStyle, Limiter, Policy, Quota, RateLimitLayer, key};

/// The largest integer of a structured field (RFC 9651, section 3.3.1).
const MAX: u64 = 999_999_999_999_999;

/// The headers of a first request under these policies.
fn headers_of(policies: Vec<Policy>, style: HeaderStyle) -> HeaderMap {
    let limiter = policies.into_iter().fold(Limiter::builder(), |limiter, policy| {
        limiter.policy(policy.key(key::header("x-api-key")).or_refuse())
    });
    let layer = RateLimitLayer::builder(limiter.build().unwrap()).headers([style]).build().unwrap();
    let service = layer.layer(service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let request = Request::get("/").header("x-api-key", "k").body(()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let response = runtime.block_on(service.oneshot(request)).unwrap();
    response.headers().clone()
}

fn list(value: &HeaderValue) -> Vec<Item> {
    let list: List = Parser::new(value.as_bytes()).parse().unwrap();
    let item = |entry| match entry {
        ListEntry::Item(item) => item,
        ListEntry::InnerList(_) => panic!("no member is a list"),
    };
    list.into_iter().map(item).collect()
}

fn text(item: &BareItem) -> &str {
    item.as_string().unwrap().as_str()
}

fn number(item: &BareItem) -> u64 {
    item.as_integer().unwrap().try_into().unwrap()
}

fn a_policy() -> impl Strategy<Value = (String, u64, u64, u64)> {
    let number = || prop_oneof![1..=100_u64, Just(MAX), 1..=MAX];
    let window = prop_oneof![1..=100_000_u64, Just(3_000_000_000_000)];
    ("[ -~]{0,20}", number(), window, number())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_lists_read_as_they_were_meant(
        policies in prop::collection::vec(a_policy(), 1..4),
    ) {
        // Names are unique.
        let policies: Vec<_> = policies
            .into_iter()
            .enumerate()
            .map(|(index, (name, units, millis, burst))| {
                // It fills within a hundred years.
                let most = u128::from(units) * 100 * 365 * 86_400_000 / u128::from(millis);
                let burst = burst.min(u64::try_from(most).unwrap_or(MAX));
                (format!("{index}{name}"), units, Duration::from_millis(millis), burst)
            })
            .collect();
        let buckets = policies.iter().map(|(name, units, window, burst)| {
            Policy::token_bucket(name, Quota::per_window(*units, *window).burst(*burst))
        });
        let headers = headers_of(buckets.collect(), HeaderStyle::ratelimit_lists().partition_key());
        let (told, limits) = (list(&headers["ratelimit-policy"]), list(&headers["ratelimit"]));
        prop_assert_eq!((told.len(), limits.len()), (policies.len(), policies.len()));
        for ((name, units, window, burst), (told, limit)) in
            policies.iter().zip(told.iter().zip(&limits))
        {
            prop_assert_eq!((text(&told.bare_item), text(&limit.bare_item)), (&**name, &**name));
            let keys = |item: &Item| -> Vec<_> {
                item.params.keys().map(|key| key.as_str().to_owned()).collect()
            };
            prop_assert_eq!((keys(told).join(" "), keys(limit).join(" ")), ("q w pk".into(), "r t pk".into()));
            prop_assert_eq!(number(&told.params["q"]), *burst);
            prop_assert_eq!(number(&limit.params["r"]), burst - 1);
            let refill = window.as_nanos() * u128::from(*burst) / u128::from(*units);
            let seconds = u128::from(number(&told.params["w"]));
            prop_assert!(seconds * 1_000_000_000 >= refill || seconds == u128::from(MAX));
            prop_assert_eq!(told.params["pk"].as_byte_sequence().unwrap().len(), 8);
            prop_assert_eq!(&told.params["pk"], &limit.params["pk"]);
        }
    }
}

#[test]
fn the_dictionary_reads_as_it_was_meant() {
    let policy = Policy::fixed_window("p", Quota::per_hour(100));
    let headers = headers_of(vec![policy], HeaderStyle::ratelimit_dictionary());
    let fields: Dictionary = Parser::new(headers["ratelimit"].as_bytes()).parse().unwrap();
    let fields: Vec<_> = fields
        .iter()
        .map(|(key, entry)| match entry {
            ListEntry::Item(item) => (key.as_str(), number(&item.bare_item)),
            ListEntry::InnerList(_) => panic!("no member is a list"),
        })
        .collect();
    assert_eq!(fields[..2], [("limit", 100), ("remaining", 99)]);
    assert_eq!(fields[2].0, "reset");
    assert!((1..=3_600).contains(&fields[2].1));
}
