//! The contenders: this crate and other limiters, each behind the same two closures.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use aerorate::KeyedRateLimiter;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter};
use http::{Request, request::Parts};
use quota::{QuotaPolicy, QuotaPool, RefillRate};
use rate_net::{Eviction, RateLimiter};
use throttle_kit::InMemoryBackend;
use throttlecrab::AdaptiveStore;
use tower_quota::{Check, Clock, Limiter, Policy, Quota};
use trypema::{
    BucketSize, RateLimit, RateLimiterBuilder, WindowSize, local::LocalRateLimiterProvider,
};

use crate::common::{
    API_KEY, governors,
    keys::{key, write_key},
    limiter, now_or_never, room_for,
};

/// The path of the requests.
pub const PATH: &str = "/v1/things/7";

/// What is decided about: a bare key, or the head of a request that carries it.
pub trait Item: Send + Sync {
    /// With key number `n`.
    fn numbered(n: usize) -> Self;
    /// The same, with key number `n`.
    fn renumber(&mut self, n: usize);
}

impl Item for String {
    fn numbered(n: usize) -> Self {
        key(n)
    }

    fn renumber(&mut self, n: usize) {
        write_key(self, n);
    }
}

impl Item for Parts {
    fn numbered(n: usize) -> Self {
        let request = Request::get(PATH).header(&API_KEY, key(n)).body(());
        request.expect("a request").into_parts().0
    }

    fn renumber(&mut self, n: usize) {
        self.headers.insert(&API_KEY, key(n).try_into().expect("a header value"));
    }
}

/// Decides about a batch, and says how many were admitted.
pub type Pass<T> = Box<dyn Fn(&[T]) -> usize + Send>;

/// Charges one item for some units, and says whether that was admitted.
type Fill<T> = Box<dyn Fn(&T, u32) -> bool>;

/// A limiter under measurement.
pub struct Contender<T> {
    pub name: &'static str,
    pass: Box<dyn Fn() -> Pass<T>>,
    fill: Fill<T>,
    counts_for: Box<dyn Fn(usize) -> bool>,
}

impl<T> Contender<T> {
    fn new<L: Clone + Send + 'static>(
        name: &'static str,
        limiter: L,
        fill: impl Fn(&L, &T, u32) -> bool + 'static,
        decide: impl Fn(&L, &T) -> bool + Copy + Send + 'static,
        counts_for: impl Fn(&L, usize) -> bool + 'static,
    ) -> Self {
        let (filled, counting) = (limiter.clone(), limiter.clone());
        let pass = move || -> Pass<T> {
            let limiter = limiter.clone();
            Box::new(move |items| items.iter().filter(|item| decide(&limiter, item)).count())
        };
        Self {
            name,
            pass: Box::new(pass),
            fill: Box::new(move |item, units| fill(&filled, item, units)),
            counts_for: Box::new(move |keys| counts_for(&counting, keys)),
        }
    }

    /// With a clone of the limiter, for one thread.
    pub fn pass(&self) -> Pass<T> {
        (self.pass)()
    }

    /// Charges each key from 0 to `keys` for `units`.
    pub fn fill(&self, keys: usize, units: u32)
    where
        T: Item,
    {
        let mut item = T::numbered(0);
        for n in 0..keys {
            item.renumber(n);
            assert!((self.fill)(&item, units), "{} refused a fresh key", self.name);
        }
    }

    /// What has been measured is worth nothing if the keys were not there.
    pub fn assert_counts_for(&self, keys: usize) {
        assert!((self.counts_for)(keys), "{} does not count for {keys} keys", self.name);
    }
}

/// How many units each key has, and for how long.
#[derive(Clone, Copy)]
pub struct Budget {
    pub units: u32,
    pub window: Duration,
}

impl Budget {
    pub fn quota(self) -> Quota {
        Quota::per_window(self.units.into(), self.window)
    }
}

/// The name of the policy that is asked by key.
pub const POLICY: &str = "p";

/// Ours asked by key about one policy, of the name [`POLICY`], and answered at once.
pub fn by_key(policy: Policy, keys: usize) -> Contender<String> {
    by_key_of("tower-quota", limiter([policy], keys, Clock::system()))
}

fn by_key_of(name: &'static str, limiter: Limiter) -> Contender<String> {
    let is_admitted = |check: Check<'_>| check.at_once().is_ok_and(|made| made.is_allowed());
    Contender::new(
        name,
        limiter,
        move |limiter, key, units| is_admitted(limiter.check(POLICY, key).cost(units.into())),
        move |limiter: &Limiter, key| is_admitted(limiter.check(POLICY, key)),
        |limiter, keys| counts_for(limiter, POLICY, keys),
    )
}

/// The same, awaited one after another in one future.
pub fn by_key_awaited(policy: Policy, keys: usize) -> Contender<String> {
    let limiter = limiter([policy], keys, Clock::system());
    let contender = by_key_of("tower-quota, awaited", limiter.clone());
    let pass = move || -> Pass<String> {
        let limiter = limiter.clone();
        Box::new(move |keys| now_or_never(count_admitted(&limiter, keys)))
    };
    Contender { pass: Box::new(pass), ..contender }
}

async fn count_admitted(limiter: &Limiter, keys: &[String]) -> usize {
    let mut admitted = 0;
    for key in keys {
        let made = limiter.check(POLICY, key).await;
        admitted += usize::from(made.is_ok_and(|decision| decision.is_allowed()));
    }
    admitted
}

/// Ours asked with the head of a request, about all of `policies`.
pub fn by_request(policies: Vec<Policy>, keys: usize) -> Contender<Parts> {
    let first = policies[0].name().to_owned();
    of_requests(limiter(policies, keys, Clock::system()), &first)
}

/// The limiter asked with the head of a request, in which `policy` counts by the header.
pub fn of_requests(limiter: Limiter, policy: &str) -> Contender<Parts> {
    let policy = policy.to_owned();
    let decide =
        |limiter: &Limiter, request: &Parts| now_or_never(limiter.decide(request)).is_allowed();
    Contender::new(
        "tower-quota",
        limiter,
        // A request costs one unit.
        move |limiter, request, _| decide(limiter, request),
        decide,
        move |limiter, keys| counts_for(limiter, &policy, keys),
    )
}

/// Whether some of the keys, all over, have less than their whole quota.
fn counts_for(limiter: &Limiter, policy: &str, keys: usize) -> bool {
    (0..keys).step_by(997).all(|n| {
        let decision = limiter.peek(policy, key(n)).at_once().expect("the policy's name");
        decision.tightest().is_some_and(|outcome| outcome.remaining() < outcome.limit())
    })
}

type Governor = Arc<DefaultKeyedRateLimiter<String>>;

fn governor(budget: Budget) -> Governor {
    Arc::new(DefaultKeyedRateLimiter::keyed(governors(budget.units, budget.window)))
}

pub fn governor_by_key(budget: Budget) -> Contender<String> {
    Contender::new(
        "governor",
        governor(budget),
        |governor, key, units| {
            let units = NonZeroU32::new(units).expect("at least one unit");
            governor.check_key_n(key, units).is_ok_and(|admitted| admitted.is_ok())
        },
        |governor: &Governor, key| governor.check_key(key).is_ok(),
        |governor, keys| governor.len() == keys,
    )
}

/// governor as a middleware would ask it: it needs a key of its own, out of the header.
pub fn governor_by_request(budget: Budget) -> Contender<Parts> {
    let decide = |governor: &Governor, request: &Parts| {
        let key = request.headers[&API_KEY].to_str().expect("text").to_owned();
        governor.check_key(&key).is_ok()
    };
    Contender::new(
        "governor",
        governor(budget),
        move |governor, request, _| decide(governor, request),
        decide,
        |governor, keys| governor.len() == keys,
    )
}

/// rate-net, bounded as ours is; `check_bytes` saves it the copy of the key.
pub fn rate_net(budget: Budget, keys: usize) -> Contender<String> {
    let limiter = RateLimiter::builder()
        .quota(budget.units, budget.window)
        .eviction(Eviction::capacity(room_for(keys)))
        .try_build()
        .expect("settings that work");
    Contender::new(
        "rate-net",
        Arc::new(limiter),
        |limiter, key, units| limiter.check_n_bytes(key, units).is_allow(),
        |limiter: &Arc<RateLimiter>, key| limiter.check_bytes(key).is_allow(),
        |limiter, keys| limiter.tracked_keys() == keys,
    )
}

pub fn aerorate(budget: Budget) -> Contender<String> {
    let quota = aerorate::Quota::with_period(budget.units, budget.window);
    Contender::new(
        "aerorate",
        KeyedRateLimiter::<String>::new(quota),
        |limiter, key, units| limiter.check_n(key, units).is_allowed(),
        |limiter: &KeyedRateLimiter<String>, key| limiter.check(key).is_allowed(),
        |limiter, keys| limiter.len() == keys,
    )
}

/// throttlecrab behind a mutex, as its documentation says for threads. It never counts a burst of one
/// unit: instead it has two units in twice the time, and uses both before the measurement.
pub fn throttlecrab(budget: Budget, keys: usize) -> Contender<String> {
    let limiter = throttlecrab::RateLimiter::new(AdaptiveStore::builder().capacity(keys).build());
    let (units, seconds) = (i64::from(budget.units), budget.window.as_secs() as i64);
    let (burst, seconds) = if units == 1 { (2, 2 * seconds) } else { (units, seconds) };
    type Shared = Arc<Mutex<throttlecrab::RateLimiter<AdaptiveStore>>>;
    let charge = move |limiter: &Shared, key: &str, units: i64| {
        let mut limiter = limiter.lock().expect("no panic");
        limiter.rate_limit(key, burst, burst, seconds, units, SystemTime::now()).expect("it can be")
    };
    Contender::new(
        "throttlecrab",
        Arc::new(Mutex::new(limiter)),
        move |limiter, key: &String, used| charge(limiter, key, burst - units + i64::from(used)).0,
        move |limiter: &Shared, key| charge(limiter, key, 1).0,
        move |limiter, keys| {
            (0..keys).step_by(997).all(|n| charge(limiter, &key(n), 0).1.remaining < burst)
        },
    )
}

/// throttle-kit, which charges one unit at a time: a key has used one before it is measured.
pub fn throttle_kit(budget: Budget) -> Contender<String> {
    let quota = throttle_kit::Quota::from_parts(budget.window / budget.units, budget.units);
    type Kit = throttle_kit::RateLimiter<InMemoryBackend>;
    Contender::new(
        "throttle-kit",
        throttle_kit::RateLimiter::new(quota, InMemoryBackend::new()),
        |limiter: &Kit, key: &String, _| now_or_never(limiter.check(key)).allowed,
        |limiter: &Kit, key| now_or_never(limiter.check(key)).allowed,
        |limiter, keys| {
            let used = |n| {
                let asked = now_or_never(limiter.check(&key(n)));
                !asked.allowed || asked.remaining + 1 < asked.limit
            };
            (0..keys).step_by(997).all(used)
        },
    )
}

pub fn quota(budget: Budget, keys: usize) -> Contender<String> {
    let rate = RefillRate::per_sec(f64::from(budget.units) / budget.window.as_secs_f64());
    let policy = QuotaPolicy::new().set_capacity(budget.units.into()).set_refill_rate(rate);
    let pool: QuotaPool<String> = QuotaPool::with_capacity(policy, budget.units.into(), keys);
    Contender::new(
        "quota",
        Arc::new(pool),
        |pool, key: &String, units| pool.check(key.as_str(), units.into()),
        |pool: &Arc<QuotaPool<String>>, key| pool.check(key.as_str(), 1),
        |pool, keys| pool.len() == keys,
    )
}

/// The window of [`trypema`]: it has a month at most, and none is used up while it is measured.
pub const HOUR: Duration = Duration::from_secs(3_600);

/// trypema's sliding window, of 60 steps as ours.
pub fn trypema(units: u32) -> Contender<String> {
    let provider = LocalRateLimiterProvider::builder()
        .window_size(WindowSize::hours_or_panic(1))
        .bucket_size(BucketSize::minutes_or_panic(1))
        .disable_cleanup()
        .build()
        .expect("settings that work");
    // It rounds down.
    let rate = RateLimit::per_hour_or_panic(f64::from(units) + 0.5);
    let charge = move |provider: &LocalRateLimiterProvider, key: &str, units: u32| {
        let decision = provider.absolute().inc(key, &rate, units.into());
        matches!(decision, trypema::RateLimitDecision::Allowed)
    };
    Contender::new(
        "trypema",
        provider,
        move |provider, key: &String, units| charge(provider, key, units),
        move |provider: &Arc<LocalRateLimiterProvider>, key| charge(provider, key, 1),
        |provider, keys| (0..keys).step_by(997).all(|n| provider.absolute().get(&key(n)) > 0),
    )
}

/// governor without keys, which a middleware would call for each request.
pub fn governor_for_all(budget: Budget) -> Contender<Parts> {
    let quota = governors(budget.units, budget.window);
    Contender::new(
        "governor",
        Arc::new(DefaultDirectRateLimiter::direct(quota)),
        |governor, _: &Parts, _| governor.check().is_ok(),
        |governor: &Arc<DefaultDirectRateLimiter>, _| governor.check().is_ok(),
        |_, _| true,
    )
}

/// Ours with one policy for all callers.
pub fn for_all(budget: Budget) -> Contender<Parts> {
    let policy = Policy::token_bucket(POLICY, budget.quota()).global();
    let limiter = Limiter::builder().policy(policy).build().expect("settings that work");
    of_requests(limiter, POLICY)
}
