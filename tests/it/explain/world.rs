//! Random limiters and requests, from a seed.

use std::time::{Duration, UNIX_EPOCH};

use http::{HeaderMap, Method, Request, request::Parts};
use tower_quota::{
    Category, Clock, HeaderStyle, Limiter, LimiterBuilder, Matcher, Policy, Quota, RateLimitLayer,
    key::{self, ClientIp, KeyExtractor, PeerAddr},
    store::MemoryStore,
};

/// What a middleware leaves in a request.
#[derive(Clone)]
pub(crate) struct User(pub(crate) String);

/// A generator of random numbers (Steele, Lea and Flood, 2014: SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in `many`.
    fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize].clone()
    }
}

const PATTERNS: [&str; 9] =
    ["/a", "/a/{id}", "/a/{*rest}", "/a/b", "/b/{x}", "/b", "/{*rest}", "/a/{id}/c", "/{one}"];
const PATHS: [&str; 16] = [
    "/",
    "/a",
    "/a/7",
    "/a/b",
    "/a/7/c",
    "/b",
    "/b/7",
    "/c",
    "/a/",
    "/a//b",
    "/%61/b",
    "/a/x/../b",
    "/a%2Fb",
    "/b/./7",
    "//b",
    "/a/7/c/",
];
const ADDRESSES: [&str; 6] =
    ["192.0.2.1", "192.0.2.2", "10.0.0.9", "2001:db8::1", "unknown", "10.0.0.1, 192.0.2.9"];
pub(crate) const KEYS: [&str; 3] = ["k1", "k2", "k3"];

fn matcher(random: &mut Random) -> Matcher {
    let pattern = random.pick(&PATTERNS);
    match random.below(12) {
        0..5 => Matcher::get(pattern),
        5..8 => Matcher::path(pattern),
        8 => Matcher::post(pattern),
        9 => Matcher::from_fn(|request| request.headers.contains_key("x-flag")),
        10 => Matcher::client_ip(client_ip(random), ["192.0.2.2"]),
        _ => Matcher::key(key::header("x-key"), ["k3"]),
    }
}

fn client_ip(random: &mut Random) -> ClientIp {
    match random.below(3) {
        0 => ClientIp::new(),
        1 => ClientIp::new().trust_proxies(["10.0.0.0/8"]),
        _ => ClientIp::new().trust_hops(1).ipv6_prefix(48),
    }
}

fn quota(random: &mut Random) -> Quota {
    let window = random.pick(&[Duration::from_secs(1), Duration::from_secs(60)]);
    Quota::per_window(1 + random.below(4), window)
}

fn with_key(policy: Policy, random: &mut Random) -> Policy {
    fn add(policy: Policy, is_first: bool, key: impl KeyExtractor) -> Policy {
        if is_first { policy.key(key) } else { policy.or_key(key) }
    }
    if random.one_in(6) {
        return policy.global();
    }
    let mut kinds = [0, 1, 2, 3, 4, 5, 6, 7, 8];
    (1..kinds.len()).for_each(|at| kinds.swap(at, random.below(at as u64 + 1) as usize));
    let count = 1 + random.below(2) as usize;
    let keys = kinds[..count].iter().enumerate();
    let policy = keys.fold(policy, |policy, (index, kind)| {
        let is_first = index == 0;
        match kind {
            0 => add(policy, is_first, key::header("x-key")),
            1 => add(policy, is_first, client_ip(random)),
            2 => add(policy, is_first, key::query("user")),
            3 => add(policy, is_first, key::bearer()),
            4 => add(policy, is_first, key::path_param("/a/{id}", "id")),
            5 => add(policy, is_first, key::extension("user", |user: &User| (&user.0).into())),
            6 => add(policy, is_first, key::body_field("email")),
            7 => add(policy, is_first, key::cookie("session")),
            _ => add(policy, is_first, (key::header("x-key"), key::query("user"))),
        }
    });
    let policy = if random.one_in(2) { policy.or_skip() } else { policy.or_refuse() };
    if random.one_in(4) { policy.unreadable_as_missing() } else { policy }
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn policy(name: String, random: &mut Random) -> Policy {
    let (first, plan) = (quota(random), quota(random));
    let mut policy = match random.below(3) {
        0 => Policy::token_bucket(name, if random.one_in(2) { first.burst(2) } else { first }),
        1 => Policy::fixed_window(name, first),
        _ => Policy::sliding_window(name, first),
    };
    policy = with_key(policy, random);
    if random.one_in(4) {
        policy = policy.cost(|request| number(&request.headers, "x-cost").unwrap_or(1));
    }
    if random.one_in(4) {
        let table = [("free", plan), ("pro", Quota::unlimited())];
        policy = policy.plans(table, |request| request.headers.get("x-plan")?.to_str().ok());
    }
    if random.one_in(6) {
        policy = policy.quota_by(move |request| {
            let units = number(&request.headers, "x-units")?;
            // 7 stands for a quota that cannot be.
            let window = if units == 7 { Duration::ZERO } else { Duration::from_secs(9) };
            Some(Quota::per_window(units, window))
        });
    }
    if random.one_in(5) {
        policy = policy.dry_run();
    }
    if random.one_in(4) {
        policy = policy.hold(Duration::from_millis(1 + random.below(3_000)));
    }
    policy
}

fn builder(random: &mut Random) -> LimiterBuilder {
    let midnight =
        UNIX_EPOCH + Duration::from_secs(86_400) + Duration::from_millis(random.below(9_000));
    let mut builder =
        Limiter::builder().clock(Clock::tokio(midnight)).store(MemoryStore::with_max_keys(1_000));
    builder = match random.below(4) {
        0 => builder,
        1 => builder.caller(client_ip(random)),
        _ => builder.caller(key::header("x-key")),
    };
    if random.one_in(3) {
        builder = builder.exempt(matcher(random));
    }
    for index in 0..random.below(3) {
        builder = builder.policy(policy(format!("every {index}"), random));
    }
    // So many categories that paths are looked up, and not compared with each.
    let others = if random.one_in(2) { 10 } else { 0 };
    for category in 0..others {
        let matcher = Matcher::path(&format!("/others/{category}"));
        builder = builder.category(Category::new(format!("other {category}")).on(matcher));
    }
    for category in 0..random.below(4) {
        let mut added = Category::new(format!("category {category}")).on(matcher(random));
        if random.one_in(3) {
            added = added.on(matcher(random));
        }
        for index in 0..=random.below(2) {
            added = added.policy(policy(format!("of {category}, {index}"), random));
        }
        builder = builder.category(added);
    }
    builder.max_held_per_key(1 + random.below(2) as usize)
}

/// A layer around a random limiter. Settings that `build()` refuses are thrown away.
pub(crate) fn layer(random: &mut Random) -> (Limiter, RateLimitLayer) {
    let limiter = loop {
        if let Ok(limiter) = builder(random).build() {
            break limiter;
        }
    };
    let styles = match random.below(3) {
        0 => vec![HeaderStyle::x_ratelimit()],
        1 => vec![HeaderStyle::ratelimit()],
        _ => vec![HeaderStyle::ratelimit_lists(), HeaderStyle::x_ratelimit()],
    };
    let layer = RateLimitLayer::builder(limiter.clone())
        .headers(styles)
        .jitter_retry_after(Duration::from_millis(random.below(2) * 7_000));
    (limiter, layer.build().expect("the settings are right"))
}

/// Sometimes lets a caller have an override.
pub(crate) fn set_override(limiter: &Limiter, random: &mut Random) {
    let callers = [KEYS[0], KEYS[1], "192.0.2.1", "2001:db8::1"];
    // A limiter without a caller, and an unfit key, are refused.
    let Ok(caller) = limiter.overrides().caller(random.pick(&callers)) else { return };
    let time = Duration::from_secs(1 + random.below(60));
    match random.below(3) {
        0 => drop(caller.block(time).at_once().expect("there is room")),
        _ => {
            let _ = caller.set_quota("every 0", quota(random), time).at_once();
            let _ = caller.set_quota("of 0, 0", quota(random), time).at_once();
        }
    }
}

pub(crate) fn request(random: &mut Random) -> Parts {
    let methods = [Method::GET, Method::GET, Method::GET, Method::POST, Method::HEAD];
    let query = if random.one_in(2) { "?user=k1" } else { random.pick(&["", "?user=k2&user=k1"]) };
    let mut request = Request::builder()
        .method(random.pick(&methods))
        .uri(format!("{}{query}", random.pick(&PATHS)));
    let headers: [(&str, &[&str]); 7] = [
        ("x-key", &KEYS),
        ("authorization", &["Bearer k1", "Bearer k2", "Bearer", "Bearerk1", "Basic k1"]),
        ("x-plan", &["free", "pro", "none"]),
        ("x-units", &["0", "1", "3", "7"]),
        ("x-cost", &["0", "1", "2", "5", "99"]),
        ("x-forwarded-for", &ADDRESSES),
        ("x-flag", &["yes"]),
    ];
    for (name, values) in headers {
        if random.one_in(2) {
            request = request.header(name, random.pick(values));
        }
        if random.one_in(24) {
            request = request.header(name, random.pick(values));
        }
    }
    if random.one_in(3) {
        request = request.extension(User(random.pick(&KEYS).to_owned()));
    }
    if !random.one_in(8) {
        let peer: std::net::IpAddr =
            random.pick(&["10.0.0.1", "192.0.2.1", "2001:db8::1"]).parse().unwrap();
        request = request.extension(PeerAddr((peer, 443).into()));
    }
    request.body(()).unwrap().into_parts().0
}
