//! Settings from random bytes: `build()` fails and names the culprit, or the limiter decides without a
//! panic and admits no more than its quotas.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant, UNIX_EPOCH},
};

use http::{Method, Request, request::Parts};
use tower_quota::{
    Algorithm, BuildError, Category, Clock, Decision, HeaderStyle, Limiter, Matcher,
    OnStoreFailure, Policy, Quota, RateLimitLayer, Rejection, ResetFormat,
    key::{self, ClientIp, PeerAddr},
    store::MemoryStore,
};

const NAMES: [&str; 6] = ["read", "write", "", "größe", "a b", "blocked"];
const PATHS: [&str; 8] = ["/", "/a", "/a/{id}", "/{*rest}", "/a/{*rest}", "a", "/{id}/b", "/{id"];
const SENT_PATHS: [&str; 4] = ["/", "/a", "/a/7", "/b/a/7"];
const PLANS: [&str; 3] = ["free", "pro", "typo"];
const KEYS: [&str; 3] = ["k1", "k2", ""];

/// Panics where the settings or the requests that `data` says break a promise.
pub fn settings(data: &[u8]) {
    let mut data = Data(data);
    let mut policies = BTreeMap::new();
    let begun = Instant::now();
    let limiter = match limiter(&mut data, &mut policies) {
        Ok(limiter) => limiter,
        Err(error) => return assert_names_a_culprit(&error),
    };
    match layer(&mut data, &limiter) {
        Ok(layer) => drop(layer.describe().to_json()),
        Err(error) => assert_names_a_culprit(&error),
    }
    let mut used: BTreeMap<(String, String, String), u128> = BTreeMap::new();
    for _ in 0..50 {
        let request = request(&mut data);
        let Poll::Ready(decision) = poll(limiter.decide(&request)) else {
            panic!("nothing is waited for without a runtime");
        };
        look_at(&decision);
        for outcome in decision.outcomes().filter(|_| decision.is_allowed()) {
            let id = match outcome.key_kind() {
                "x-key" => request.headers["x-key"].to_str().unwrap().to_owned(),
                _ => String::new(),
            };
            let owner = (outcome.policy().to_owned(), outcome.key_kind().to_owned(), id);
            let cost = policies.get(outcome.policy()).map_or(1, |limits: &Limits| limits.cost);
            *used.entry(owner).or_default() += u128::from(cost);
        }
    }
    let time = begun.elapsed() + Duration::from_millis(1);
    for ((policy, kind, _), used) in used {
        let most = policies[&policy].most_in(time);
        assert!(used <= most, "policy `{policy}` admits {used} and not {most} by {kind}");
    }
}

/// What a policy may admit.
struct Limits {
    algorithm: Algorithm,
    quotas: Vec<Quota>,
    cost: u64,
}

impl Limits {
    fn most_in(&self, time: Duration) -> u128 {
        let quotas = self.quotas.iter().filter(|quota| !quota.is_unlimited());
        quotas.map(|quota| self.most_of(quota, time.as_nanos())).fold(0, u128::saturating_add)
    }

    fn most_of(&self, quota: &Quota, nanos: u128) -> u128 {
        let (units, window) = (u128::from(quota.units()), quota.window().as_nanos().max(1));
        match self.algorithm {
            Algorithm::TokenBucket => {
                u128::from(quota.capacity()) + nanos.saturating_mul(units) / window + 1
            }
            _ => units.saturating_mul(nanos / window + 2),
        }
    }
}

fn assert_names_a_culprit(error: &BuildError) {
    let text = error.to_string();
    let (culprit, problem) = text.split_once(": ").unwrap_or_else(|| panic!("no culprit: {text}"));
    let begins = [
        "policy `",
        "a policy without a name",
        "category `",
        "a category without a name",
        "an exemption",
        "every request",
        "jitter of",
        "header style `",
        "header policy `",
    ];
    assert!(begins.iter().any(|begin| culprit.starts_with(begin)), "no culprit: {text}");
    let says_what = ["; ", " leave ", "write "].iter().any(|words| problem.contains(words));
    assert!(says_what, "nothing to write: {text}");
}

/// Each decision becomes a response without a panic, and a refusal is no success.
fn look_at(decision: &Decision) {
    drop(format!("{decision:?}{:?}", decision.tightest()));
    match Rejection::of(decision) {
        None => assert!(decision.is_allowed()),
        Some(rejection) => {
            let status = rejection.to_response().status();
            assert!(status.is_client_error() || status.is_server_error(), "{status}");
            drop(format!("{rejection}{:?}", rejection.resets_at_seconds()));
        }
    }
    for outcome in decision.outcomes() {
        assert!(outcome.remaining() <= outcome.limit(), "{outcome:?}");
    }
}

fn limiter(
    data: &mut Data<'_>,
    policies: &mut BTreeMap<String, Limits>,
) -> Result<Limiter, BuildError> {
    let mut builder = Limiter::builder()
        .clock(Clock::tokio(UNIX_EPOCH + data.time().min(Duration::from_secs(1 << 33))));
    if data.flag() {
        builder = builder.store(MemoryStore::with_max_keys(usize::from(data.byte())));
    }
    for _ in 0..data.byte() % 3 {
        builder = builder.policy(policy(data, policies));
    }
    for _ in 0..data.byte() % 3 {
        let mut category = Category::new(data.one_of(&NAMES)).hold(data.time());
        for _ in 0..data.byte() % 3 {
            category = category.on(matcher(data));
        }
        for _ in 0..data.byte() % 3 {
            category = category.policy(policy(data, policies));
        }
        builder = builder.category(category);
    }
    if data.flag() {
        builder = builder.exempt(matcher(data));
    }
    if data.flag() {
        builder = builder.check_only(policy(data, policies));
    }
    if data.flag() {
        builder = builder.max_held(data.number() as usize).max_held_per_key(data.number() as usize);
    }
    builder.build()
}

fn layer(data: &mut Data<'_>, limiter: &Limiter) -> Result<RateLimitLayer, BuildError> {
    let mut styles = Vec::new();
    for _ in 0..data.byte() % 4 {
        let mut style = match data.byte() % 4 {
            0 => HeaderStyle::x_ratelimit(),
            1 => HeaderStyle::ratelimit(),
            2 => HeaderStyle::ratelimit_dictionary(),
            _ => HeaderStyle::ratelimit_lists(),
        };
        if data.flag() {
            style = style.partition_key();
        }
        if data.flag() {
            style = style.reset(ResetFormat::Seconds);
        }
        styles.push(style);
    }
    let mut builder = RateLimitLayer::builder(limiter.clone())
        .headers(styles)
        .retry_after(data.flag())
        .jitter_retry_after(data.time());
    if data.flag() {
        builder = builder.header_policy(data.one_of(&NAMES));
    }
    builder.build()
}

fn policy(data: &mut Data<'_>, policies: &mut BTreeMap<String, Limits>) -> Policy {
    let (name, own) = (data.one_of(&NAMES), data.quota());
    let mut policy = match data.byte() % 3 {
        0 => Policy::token_bucket(name, own),
        1 => Policy::fixed_window(name, own),
        _ => Policy::sliding_window(name, own),
    };
    let mut limits = Limits { algorithm: policy.algorithm(), quotas: vec![own], cost: 1 };
    // Mostly one that can be, or hardly anything else would be tried.
    if data.flag() {
        policy = policy.key(key::header("x-key")).or_refuse();
    }
    for _ in 0..data.byte() % 8 {
        policy = match data.byte() % 20 {
            0 => policy.key(key::header("x-key")),
            1 => policy.or_key(ClientIp::new()),
            2 => policy.or_skip(),
            3 => policy.or_refuse(),
            4 => policy.global(),
            5 => policy.key(key::path_param(data.one_of(&PATHS), "id")),
            6 => policy.unreadable_as_missing(),
            7 => policy.hold(data.time()),
            8 => policy.dry_run(),
            9 => policy.lease(data.number() as u32),
            10 => {
                let replicas = data.number() as u32;
                policy.on_store_failure(OnStoreFailure::CountLocally { replicas })
            }
            11 => {
                let units = data.number();
                policy.settle(move |_| Some(units))
            }
            12 | 13 => {
                limits.cost = data.number();
                let cost = limits.cost;
                policy.cost(move |_| cost)
            }
            14 | 15 => {
                let quota = data.quota();
                limits.quotas.push(quota);
                policy.quota_by(move |request| {
                    request.headers.contains_key("x-plan").then_some(quota)
                })
            }
            _ => {
                let known = data.byte() % 3;
                let quotas: Vec<_> =
                    PLANS.iter().take(known.into()).map(|plan| (*plan, data.quota())).collect();
                limits.quotas.extend(quotas.iter().map(|(_, quota)| *quota));
                policy.plans(quotas, |request| request.headers.get("x-plan")?.to_str().ok())
            }
        };
    }
    policies.insert(name.to_owned(), limits);
    policy
}

fn matcher(data: &mut Data<'_>) -> Matcher {
    match data.byte() % 5 {
        0 => Matcher::get(data.one_of(&PATHS)),
        1 => Matcher::methods([Method::POST], data.one_of(&PATHS)),
        2 => Matcher::path(data.one_of(&PATHS)),
        3 => Matcher::client_ip(ClientIp::new(), [data.one_of(&["10.0.0.0/8", "::/0", "x"])]),
        _ => Matcher::key(key::header("x-key"), ["k1"]),
    }
}

fn request(data: &mut Data<'_>) -> Parts {
    let method = data.one_of(&["GET", "POST"]);
    let mut request = Request::builder().method(method).uri(data.one_of(&SENT_PATHS));
    if !data.flag() {
        request = request.header("x-key", data.one_of(&KEYS));
    }
    if data.flag() {
        request = request.header("x-plan", data.one_of(&PLANS));
    }
    let mut request = request.body(()).unwrap().into_parts().0;
    request.extensions.insert(PeerAddr(([10, 0, 0, 1], 80).into()));
    request
}

fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Bytes that are read one after another; zeros after the last.
struct Data<'a>(&'a [u8]);

impl Data<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[usize::from(self.byte()) % all.len()]
    }

    /// Small ones as often as large ones, and those at the edges.
    fn number(&mut self) -> u64 {
        match self.byte() {
            kind @ 0..=100 => u64::from(kind),
            101 => u64::MAX,
            102 => u64::MAX - 1,
            103 => 999_999_999_999_999,
            kind => {
                let bytes = std::array::from_fn(|_| self.byte());
                u64::from_le_bytes(bytes) >> (kind % 64)
            }
        }
    }

    fn time(&mut self) -> Duration {
        match self.byte() {
            0 => Duration::ZERO,
            1 => Duration::MAX,
            kind @ 2..=100 => Duration::from_secs(kind.into()),
            _ => Duration::from_nanos(self.number()),
        }
    }

    fn quota(&mut self) -> Quota {
        let quota = match self.byte() % 8 {
            0 => Quota::unlimited(),
            1 => Quota::per_second(self.number()),
            2 => Quota::per_day(self.number()),
            3 => Quota::per_window(self.number(), self.time()),
            _ => Quota::per_minute(u64::from(self.byte()) + 1),
        };
        match self.byte() % 4 {
            0 => quota.burst(self.number()),
            _ => quota,
        }
    }
}
