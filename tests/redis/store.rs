//! What the Redis store keeps, for which key, and on which server.
#![cfg(feature = "redis")]

use std::{collections::HashMap, time::Duration};

use common::redis::{APPEND_ONLY, Cluster, PATIENCE, Server};
use http::{Request, request::Parts};
use redis::Value;
use tower_quota::{
    Limiter, LimiterBuilder, Policy, Quota, Reason,
    key::header,
    store::{RedisStore, RedisStoreBuilder},
    warning::{Code, warnings},
};

use crate::outage::until;

const SECRET: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

/// On a busy machine, too.
fn patient(store: RedisStoreBuilder) -> RedisStoreBuilder {
    store.connect_timeout(PATIENCE).response_timeout(PATIENCE).decision_timeout(PATIENCE)
}

fn limiter(store: RedisStoreBuilder, policies: impl IntoIterator<Item = Policy>) -> Limiter {
    let store = patient(store).secret(SECRET).build().unwrap();
    let all = policies.into_iter().fold(Limiter::builder(), LimiterBuilder::policy);
    all.store(store).build().unwrap()
}

fn policy(name: &str, key: &str, quota: Quota) -> Policy {
    Policy::sliding_window(name, quota).key(header(key)).or_skip()
}

fn request(headers: &[(&str, &str)]) -> Parts {
    let all =
        headers.iter().fold(Request::get("/"), |all, (name, value)| all.header(*name, *value));
    all.body(()).unwrap().into_parts().0
}

#[test]
fn each_error_says_what_to_write() {
    let valid = || RedisStore::builder("redis://127.0.0.1/").secret(SECRET);
    let url = "its URL cannot be read; write one like `redis://:password@host:6379/0`, or with TLS \
               `rediss://:password@host:6379/0`";
    let tls_url = "its URL cannot be read; write one like `rediss://:password@host:6379/0`";
    let no_server = "it has no URL; write that of one server of the cluster at least";
    let differ = "its URLs differ in more than host and port; write the same scheme, user, password \
                  and database in each";
    for (builder, problem) in [
        (
            RedisStore::builder("redis://127.0.0.1/"),
            "it has no secret; add `.secret(…)`, the same for all replicas, as `openssl rand -hex 16` makes one",
        ),
        (RedisStore::builder("http://:pass@127.0.0.1/").secret(SECRET), url),
        (RedisStore::cluster_builder(["127.0.0.1:x"]).secret(SECRET), url),
        (RedisStore::cluster_builder(["redis://a/", "127.0.0.1:x"]).secret(SECRET), url),
        (RedisStore::cluster_builder([""; 0]).secret(SECRET), no_server),
        (RedisStore::cluster_builder(["redis://:a@a/", "redis://:b@b/"]).secret(SECRET), differ),
        (RedisStore::builder("rediss://127.0.0.1:x/").secret(SECRET), tls_url),
        (RedisStore::builder("rediss://").secret(SECRET), tls_url),
        (
            valid().prefix("{us}"),
            "its prefix has a brace, by which a cluster would place all keys; leave it out",
        ),
        (
            valid().connect_timeout(Duration::ZERO),
            "a time-out of 0 is over before it begins; write at least 1 ms",
        ),
        (
            valid().response_timeout(Duration::ZERO),
            "a time-out of 0 is over before it begins; write at least 1 ms",
        ),
        (
            valid().queue_timeout(Duration::ZERO),
            "a time-out of 0 is over before it begins; write at least 1 ms",
        ),
        (
            valid().decision_timeout(Duration::ZERO),
            "a time-out of 0 is over before it begins; write at least 1 ms",
        ),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert_eq!(error, format!("the Redis store: {problem}"));
    }
}

/// By each kind of builder. Otherwise, each request would fail later.
#[cfg(not(feature = "redis-tls"))]
#[test]
fn a_store_that_is_built_without_tls_says_so() {
    let tls = redis::ConnectionAddr::TcpTls {
        host: "127.0.0.1".into(),
        port: 6_379,
        insecure: false,
        tls_params: None,
    };
    for builder in [
        RedisStore::builder("rediss://:pass@127.0.0.1/3"),
        RedisStore::builder("REDISS://127.0.0.1/"),
        RedisStore::builder("valkeys://127.0.0.1:6380"),
        RedisStore::cluster_builder(["rediss://a/", "rediss://b/"]),
        RedisStore::client_builder(redis::Client::open(tls).unwrap()),
    ] {
        let error = builder.secret(SECRET).build().unwrap_err().to_string();
        let problem = "it asks for TLS, and is built without; add the feature `redis-tls` of \
                       `tower-quota`";
        assert_eq!(error, format!("the Redis store: {problem}"));
    }
}

#[test]
fn neither_password_nor_secret_is_shown() {
    let builder = RedisStore::builder("redis://:hunter2@127.0.0.1/").secret(SECRET);
    let shown = format!("{builder:?}");
    let shown = format!("{shown}{:?}", builder.build().unwrap());
    assert!(!shown.contains("hunter2") && !shown.contains("81985529216486895"), "{shown}");
}

#[tokio::test]
async fn no_key_is_kept_in_plain_form() {
    let server = Server::start_with(APPEND_ONLY);
    let policies = [
        policy("by key", "x-key", Quota::per_minute(9)),
        Policy::token_bucket("by both", Quota::per_minute(9))
            .key((header("x-key"), header("x-user")))
            .or_refuse(),
    ];
    let limiter = limiter(RedisStore::builder(server.url()), policies);
    let decision =
        limiter.decide(&request(&[("x-key", "sk_live_1"), ("x-user", "ann@a.org")])).await;
    assert!(decision.is_allowed() && decision.outcomes().len() == 2);
    let mut files = vec![server.folder().to_owned()];
    let (mut bytes, mut looked_at) = (Vec::new(), 0);
    while let Some(path) = files.pop() {
        match std::fs::read_dir(&path) {
            Ok(inside) => files.extend(inside.map(|entry| entry.unwrap().path())),
            Err(_) => {
                bytes.extend(std::fs::read(path).unwrap());
                looked_at += 1;
            }
        }
    }
    let kept = String::from_utf8_lossy(&bytes);
    assert!(looked_at > 1 && kept.contains("tower-quota:"), "the keys are there");
    for plain in ["sk_live_1", "ann@a.org", "by key"] {
        assert!(!kept.contains(plain), "{plain}");
    }
}

#[tokio::test]
async fn limiters_share_what_is_the_same_and_nothing_else() {
    let server = Server::start();
    let one = || policy("p", "x-key", Quota::per_hour(2));
    let url = || RedisStore::builder(server.url());
    let ask = async |limiter: &Limiter| {
        let decision = limiter.decide(&request(&[("x-key", "k")])).await;
        decision.outcomes().next().unwrap().remaining()
    };
    let (first, replica) = (limiter(url(), [one()]), limiter(url(), [one()]));
    assert_eq!((ask(&first).await, ask(&replica).await), (1, 0));

    let named = Policy::sliding_window("q", Quota::per_hour(2)).key(header("x-key")).or_skip();
    let counted = Policy::token_bucket("p", Quota::per_hour(2)).key(header("x-key")).or_skip();
    // The same, as it was or will be.
    let keyed = one().or_key(header("x-other"));
    let larger = policy("p", "x-key", Quota::per_hour(3));
    for (other, left) in [(named, 1), (counted, 1), (keyed, 0), (larger, 0)] {
        assert_eq!(ask(&limiter(url(), [other.clone()])).await, left, "{other:?}");
    }
    assert_eq!(ask(&limiter(url().prefix("other"), [one()])).await, 1);
    let secret = patient(RedisStore::builder(server.url())).secret(SECRET + 1).build().unwrap();
    let elsewhere = Limiter::builder().policy(one()).store(secret).build().unwrap();
    assert_eq!(ask(&elsewhere).await, 1, "another secret");
    assert_eq!(ask(&limiter(url(), [one()])).await, 0);
}

#[tokio::test]
async fn replicas_tell_a_key_by_the_same_name() {
    let server = Server::start();
    let told = async || {
        let policies = [policy("p", "x-key", Quota::per_hour(2))];
        let limiter = limiter(RedisStore::builder(server.url()), policies);
        let layer = tower_quota::RateLimitLayer::builder(limiter)
            .headers([tower_quota::HeaderStyle::ratelimit_lists().partition_key()]);
        let service = tower::ServiceBuilder::new().layer(layer.build().unwrap());
        let service = service.service_fn(async |_: Request<()>| -> Result<_, ()> {
            Ok(http::Response::new(http_body_util::Full::<bytes::Bytes>::default()))
        });
        let request = Request::from_parts(request(&[("x-key", "k")]), ());
        let response = tower::ServiceExt::oneshot(service, request).await.unwrap();
        response.headers()["ratelimit-policy"].clone()
    };
    assert_eq!(told().await, told().await);
}

/// Requests whose policies count by two keys, which a cluster keeps on two servers.
fn by_two_keys(cluster: &Cluster, user: Policy) -> Limiter {
    let tenant = policy("tenant", "x-tenant", Quota::per_hour(50));
    limiter(RedisStore::cluster_builder(cluster.urls()), [tenant, user])
}

fn calls(cluster: &Cluster) -> u64 {
    let calls = |name| move |server: &Server| server.calls(name);
    let nodes = || cluster.nodes().iter();
    nodes().map(calls("evalsha")).sum::<u64>() + nodes().map(calls("eval")).sum::<u64>()
}

#[tokio::test]
async fn a_cluster_charges_what_is_in_one_shard_at_once_and_else_all_or_nothing() {
    let cluster = Cluster::start();
    let user = || policy("user", "x-user", Quota::per_hour(1));
    let sharded = by_two_keys(&cluster, user().shard(header("x-tenant")));
    let both = |user: usize| {
        let user = user.to_string();
        request(&[("x-tenant", "t"), ("x-user", &user)])
    };
    for warm_up in 0..2 {
        assert!(sharded.decide(&both(warm_up)).await.is_allowed());
    }
    let before = calls(&cluster);
    for user in 2..12 {
        assert!(sharded.decide(&both(user)).await.is_allowed());
    }
    assert_eq!(calls(&cluster) - before, 10, "one run of the script each");

    // Each user somewhere else: what the tenant was charged first is given back.
    let scattered = by_two_keys(&cluster, user());
    for user in 100..110 {
        let (first, second) =
            (scattered.decide(&both(user)).await, scattered.decide(&both(user)).await);
        assert!(first.is_allowed());
        assert_eq!(second.reason(), Some(Reason::QuotaExceeded));
        assert_eq!(second.tightest().unwrap().policy(), "user");
    }
    let left = scattered.peek("tenant", "t").await.unwrap().outcomes().next().unwrap().remaining();
    assert_eq!(left, 50 - 22, "the refused ones cost the tenant nothing");
    for server in cluster.nodes() {
        assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn parts_of_one_key_are_in_its_shard() {
    let cluster = Cluster::start();
    let parts = Policy::sliding_window("user", Quota::per_hour(9));
    let limiter =
        by_two_keys(&cluster, parts.key((header("x-tenant"), header("x-user"))).or_skip());
    let of_user = |user: usize| {
        let user = user.to_string();
        request(&[("x-tenant", "t"), ("x-user", &user)])
    };
    for warm_up in 0..2 {
        let _ = limiter.decide(&of_user(warm_up)).await;
    }
    let before = calls(&cluster);
    for user in 2..12 {
        assert_eq!(limiter.decide(&of_user(user)).await.outcomes().len(), 2);
    }
    assert_eq!(calls(&cluster) - before, 10);
}

#[tokio::test]
async fn a_flood_costs_the_server_nothing() {
    let server = Server::start();
    let store = patient(RedisStore::builder(server.url())).secret(SECRET).build().unwrap();
    let policies = [
        policy("window", "x-key", Quota::per_hour(3)),
        Policy::token_bucket("bucket", Quota::per_hour(1_000)).key(header("x-key")).or_skip(),
    ];
    let limiter = policies.into_iter().fold(Limiter::builder(), LimiterBuilder::policy);
    let limiter = limiter.store(store.clone()).build().unwrap();
    let flood = request(&[("x-key", "k")]);
    for _ in 0..4 {
        let _ = limiter.decide(&flood).await;
    }
    let before = server.calls("evalsha");
    for _ in 0..1_000 {
        let decision = limiter.decide(&flood).await;
        assert_eq!(decision.reason(), Some(Reason::QuotaExceeded));
        let told: Vec<_> = decision.outcomes().map(|outcome| outcome.policy()).collect();
        assert_eq!(told, ["window"], "of the other nothing is known");
    }
    assert_eq!(server.calls("evalsha"), before);
    assert_eq!(store.denied_from_cache(), 1_000);
    // A key that is not refused is asked for.
    assert!(limiter.decide(&request(&[("x-key", "other")])).await.is_allowed());
    assert_eq!(
        limiter.peek("bucket", "k").await.unwrap().outcomes().next().unwrap().remaining(),
        997
    );
}

/// Whoever varies what a request costs is refused without the server, too.
#[tokio::test]
async fn a_flood_of_many_costs_is_remembered() {
    let server = Server::start();
    let cost =
        |request: &Parts| -> u64 { request.headers["x-cost"].to_str().unwrap().parse().unwrap() };
    let policies = [
        Policy::token_bucket("bucket", Quota::per_hour(20)),
        Policy::fixed_window("fixed", Quota::per_hour(20)),
        Policy::sliding_window("sliding", Quota::per_hour(20)),
    ];
    for policy in policies {
        let name = policy.name().to_owned();
        let policy = policy.key(header("x-key")).or_skip().cost(cost);
        let limiter = limiter(RedisStore::builder(server.url()), [policy]);
        let decide = async |cost: usize| {
            let request = request(&[("x-key", "k"), ("x-cost", &cost.to_string())]);
            limiter.decide(&request).await
        };
        assert!(decide(20).await.is_allowed());
        let before = server.calls("evalsha");
        for nth in 0..1_000 {
            let decision = decide(1 + nth * 3 % 5).await;
            assert_eq!(decision.reason(), Some(Reason::QuotaExceeded));
        }
        let asked = server.calls("evalsha") - before;
        assert!(asked <= 6, "{name}: asked {asked} times");
    }
}

#[tokio::test]
async fn requests_are_held_on_each_replica_and_pass_as_fast_as_all_may() {
    let server = Server::start();
    let twenty_a_second = || {
        Policy::token_bucket("p", Quota::per_second(20).burst(1))
            .key(header("x-key"))
            .or_skip()
            .hold(Duration::from_secs(30))
    };
    let replica = || limiter(RedisStore::builder(server.url()), [twenty_a_second()]);
    let mut asking = tokio::task::JoinSet::new();
    let replicas = [replica(), replica()];
    for limiter in &replicas {
        for _ in 0..8 {
            let limiter = limiter.clone();
            asking.spawn(async move { limiter.decide(&request(&[("x-key", "k")])).await });
        }
    }
    while server.calls("evalsha") < 16 {
        tokio::task::yield_now().await;
    }
    // One that leaves while it is held has used nothing.
    let leaves = request(&[("x-key", "k")]);
    let leaves = replicas[0].decide(&leaves);
    assert!(tokio::time::timeout(Duration::from_millis(60), leaves).await.is_err());

    let decisions = asking.join_all().await;
    let mut passed: Vec<_> = decisions.iter().map(|decision| decision.decided_at()).collect();
    assert!(decisions.iter().all(|decision| decision.is_allowed()));
    passed.sort();
    let unit = Duration::from_millis(50);
    assert!(passed.windows(2).all(|two| two[1] - two[0] >= unit), "{passed:?}");
    assert_eq!(decisions.iter().filter(|decision| !decision.held().is_zero()).count(), 15);
}

#[tokio::test]
async fn a_response_settles_what_the_server_counts() {
    let server = Server::start();
    let failures = policy("failures", "x-key", Quota::per_hour(3))
        .settle(|response| Some(u64::from(response.status == http::StatusCode::UNAUTHORIZED)));
    let limiter = limiter(RedisStore::builder(server.url()), [failures]);
    let layer = tower_quota::RateLimitLayer::new(limiter);
    let service = tower::ServiceBuilder::new().layer(layer);
    let service = service.service_fn(async |request: Request<()>| -> Result<_, ()> {
        let fails = request.headers().contains_key("x-wrong");
        let status = if fails { 401 } else { 200 };
        let response = http::Response::builder().status(status);
        Ok(response.body(http_body_util::Full::<bytes::Bytes>::default()).unwrap())
    });
    let ask = async |headers: &[(&str, &str)]| {
        let request = Request::from_parts(request(headers), ());
        let response = tower::ServiceExt::oneshot(service.clone(), request).await.unwrap();
        let left = &response.headers()["x-ratelimit-remaining"];
        (response.status().as_u16(), left.to_str().unwrap().to_owned())
    };
    for _ in 0..9 {
        assert_eq!(ask(&[("x-key", "k")]).await, (200, "3".to_owned()));
    }
    let wrong = [("x-key", "k"), ("x-wrong", "1")];
    for left in ["2", "1", "0"] {
        assert_eq!(ask(&wrong).await, (401, left.to_owned()));
    }
    assert_eq!(ask(&wrong).await, (429, "0".to_owned()));
}

#[tokio::test]
async fn nothing_is_kept_for_ever_or_lost_where_a_command_is_not_allowed() {
    let users = "--user writes on nopass ~* +@all -pexpire --user replica on nopass ~* +@all \
                 --user blind on nopass ~* +@all -hmget";
    let server = Server::start_with(&users.split_whitespace().collect::<Vec<_>>());
    let of_user = |user: &str| {
        let url = format!("redis://{user}:any@127.0.0.1:{}/", server.port());
        let counted = policy("p", "x-key", Quota::per_hour(9));
        let store = patient(RedisStore::builder(url)).secret(SECRET).build().unwrap();
        let policy = counted.on_store_failure(tower_quota::OnStoreFailure::Refuse);
        Limiter::builder().policy(policy).store(store).build().unwrap()
    };
    let one = request(&[("x-key", "k")]);
    let decision = of_user("writes").decide(&one).await;
    assert_eq!(decision.reason(), Some(Reason::StoreUnavailable));
    assert_eq!(server.keys(), Vec::<String>::new());

    assert!(of_user("replica").decide(&one).await.is_allowed());
    let decision = of_user("blind").decide(&one).await;
    assert_eq!(decision.reason(), Some(Reason::StoreUnavailable));
    assert_eq!(of_user("replica").decide(&one).await.outcomes().next().unwrap().remaining(), 7);
}

/// The list of servers is in one file, for `tests/on_redis_servers`; Debian's is beside it.
#[test]
fn the_documentation_names_each_server_that_tests_run_on() {
    let list = include_str!("../redis_servers.txt").lines().skip(1);
    let named = list.map(|line| line.split('.').take(2).collect::<Vec<_>>().join("."));
    let (mut redis, valkey): (Vec<_>, Vec<_>) =
        (named.chain(["redis-7.0".to_owned()])).partition(|server| server.starts_with("redis-"));
    redis.sort();
    let versions = |servers: &[String]| {
        let all: Vec<_> = servers.iter().filter_map(|name| Some(name.split_once('-')?.1)).collect();
        let (last, others) = all.split_last().unwrap();
        format!("{} and {last}", others.join(", "))
    };
    let sentence =
        format!("Tested with Redis {}, and Valkey {}.", versions(&redis), versions(&valkey));
    for text in [include_str!("../../src/store/redis/mod.rs"), include_str!("../../README.md")] {
        let text = text.replace("\n/// ", " ").replace('\n', " ");
        assert!(text.contains(&sentence), "{sentence}");
    }
}

/// The rules of the user that the documentation of [`RedisStore`] creates.
pub(crate) fn documented_rules() -> Vec<&'static str> {
    let docs = include_str!("../../src/store/redis/mod.rs");
    let mut lines = docs.lines().filter_map(|line| line.strip_prefix("/// ACL SETUSER "));
    lines.next().expect("there is a user").split(' ').collect()
}

const KEYS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Whatever this store does, and what the server has refused of it.
async fn refused(store: RedisStoreBuilder, servers: &[Server], moment: impl AsyncFnOnce(&Limiter)) {
    let refusing = tower_quota::OnStoreFailure::Refuse;
    let policies = [
        Policy::token_bucket("bucket", Quota::per_hour(9)).lease(2),
        Policy::fixed_window("fixed", Quota::per_hour(9)),
        Policy::sliding_window("sliding", Quota::per_hour(9)),
    ];
    let policies = policies.map(|policy| policy.key(header("x-key")).or_skip());
    let names = policies.each_ref().map(|policy| policy.name().to_owned());
    let limiter = limiter(store, policies.map(|policy| policy.on_store_failure(refusing)));
    let decide = async |name: &str| limiter.decide(&request(&[("x-key", name)])).await;
    for key in KEYS {
        for _ in 0..9 {
            assert_ne!(decide(key).await.reason(), Some(Reason::StoreUnavailable));
        }
        for name in &names {
            for decision in [limiter.check(name, key).await, limiter.give_back(name, key, 2).await]
            {
                assert_ne!(decision.unwrap().reason(), Some(Reason::StoreUnavailable));
            }
            let _ = limiter.reset(name, key).await.unwrap();
        }
    }
    moment(&limiter).await;
    let all = servers.iter().map(|server| server.calls("set")).sum::<u64>();
    assert!(all >= 3, "each policy is announced");
    for server in servers {
        let log: Vec<HashMap<String, Value>> = server.ask(redis::cmd("ACL").arg("LOG")).unwrap();
        // The redis crate sends its name, and goes on if that is forbidden. Redis 6.2 names no subcommand.
        let own_name = ["client|setinfo", "client"].map(|name| Value::BulkString(name.into()));
        let log: Vec<_> =
            log.into_iter().filter(|entry| !own_name.contains(&entry["object"])).collect();
        assert!(log.is_empty(), "{log:?}");
    }
}

#[tokio::test]
async fn the_documented_user_may_do_all_that_is_done() {
    let user = documented_rules();
    let mut options = vec!["--user"];
    options.extend(&user);
    let server = Server::start_with(&options);
    let url = format!("redis://quota:password@127.0.0.1:{}/3", server.port());
    let servers = [server];
    let eviction = async |_: &Limiter| {
        while servers[0].calls("info") < 2 {
            tokio::task::yield_now().await;
        }
    };
    refused(RedisStore::builder(url), &servers, eviction).await;
    assert_eq!(servers[0].keys(), Vec::<String>::new(), "it is in database 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_user_may_do_all_that_is_done_in_a_cluster() {
    let cluster = Cluster::start();
    for node in cluster.nodes() {
        node.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg(documented_rules())).unwrap();
    }
    let urls = cluster.urls();
    let urls = urls.iter().map(|url| url.replace("//", "//quota:password@"));
    let moves = async |limiter: &Limiter| {
        let mut keys = cluster.nodes().iter().flat_map(Server::keys);
        let key = keys.find(|key| !key.contains("{AAAAAAAAAAA}")).unwrap();
        let runtime = tokio::runtime::Handle::current();
        // Each key was reset, which the server remembers. One of them is in the slot that moves.
        let decided = || {
            for key in KEYS {
                let decision = runtime.block_on(limiter.decide(&request(&[("x-key", key)])));
                assert_ne!(decision.reason(), Some(Reason::StoreUnavailable));
            }
        };
        tokio::task::block_in_place(|| cluster.move_slot_of(&key, decided));
        assert!(cluster.nodes().iter().any(|node| node.calls("asking") > 0));
    };
    refused(RedisStore::cluster_builder(urls), cluster.nodes(), moves).await;
}

fn warned_of(policy: &str) -> Option<String> {
    let given = warnings();
    let mut given = given.iter().filter(|given| given.code() == Code::PolicyDiffers);
    given.find(|given| given.culprit() == policy).map(ToString::to_string)
}

#[tokio::test]
async fn services_that_count_together_and_differ_are_warned_of() {
    let server = Server::start();
    let named = |name, quota| Policy::sliding_window(name, quota).key(header("x-key")).or_skip();
    let (slow, fast) = (Quota::per_minute(10), Quota::per_minute(20));
    let url = || RedisStore::builder(server.url());
    let mut announced = 0;
    let mut start = async |store: RedisStoreBuilder, policies: [Policy; 2]| {
        let limiter = limiter(store, policies);
        for _ in 0..3 {
            let _ = limiter.decide(&request(&[("x-key", "k")])).await;
        }
        // Two policies and the secret.
        announced += 3;
        while server.calls("set") < announced {
            tokio::task::yield_now().await;
        }
        limiter
    };
    let _first = start(url(), [named("changes", slow), named("stays", slow)]).await;
    let _other = start(url().prefix("other"), [named("changes", fast), named("stays", fast)]).await;
    let _replica = start(url(), [named("changes", slow), named("stays", slow)]).await;
    assert_eq!(["changes", "stays"].map(warned_of), [None, None]);
    let _next = start(url(), [named("changes", fast), named("stays", slow)]).await;
    let began = std::time::Instant::now();
    let sentence = loop {
        match warned_of("changes") {
            Some(sentence) => break sentence,
            None => assert!(began.elapsed() < PATIENCE, "no warning is given"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(
        sentence,
        "policy `changes` counts together with one of the same name in the same Redis that is \
         `10 per minute, by x-key`, and here it is `20 per minute, by x-key`; while a release \
         changes it that is right, or else give each service a prefix: \
         `RedisStore::builder(…).prefix(…)`"
    );
    assert_eq!(warned_of("stays"), None);
    assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
}

/// It may be another server.
#[tokio::test]
async fn a_server_that_restarts_gets_the_settings_of_policies_again() {
    let server = Server::start();
    let policy = policy("restarts", "x-key", Quota::per_minute(10));
    let limiter = limiter(RedisStore::builder(server.url()), [policy]);
    for _ in 0..2 {
        until("the server to have the settings", async || {
            let _ = limiter.decide(&request(&[("x-key", "k")])).await;
            server.calls("set") > 0
        })
        .await;
        server.restart();
    }
}

/// Tokens, credits and then an overdraft of two units each, in a server or a cluster.
fn waterfall(store: RedisStore, keys: [&'static str; 3]) -> Limiter {
    let next = |name, key| policy(name, key, Quota::per_hour(2));
    let [first, second, third] = keys;
    let tokens = next("tokens", first).or_else(next("credits", second));
    let all = policy("all", first, Quota::per_hour(9));
    let limiter = Limiter::builder().policy(tokens.or_else(next("overdraft", third))).policy(all);
    limiter.store(store).build().unwrap()
}

#[tokio::test]
async fn a_waterfall_is_drawn_on_in_order_and_the_refusal_of_all_is_remembered() {
    let server = Server::start();
    let store = patient(RedisStore::builder(server.url())).secret(SECRET).build().unwrap();
    let limiter = waterfall(store.clone(), ["x-a"; 3]);
    let mut drawn = Vec::new();
    for _ in 0..7 {
        let decision = limiter.decide(&request(&[("x-a", "a")])).await;
        let outcomes = decision.outcomes().filter(|outcome| outcome.is_drawn_on());
        drawn.push(outcomes.map(|outcome| outcome.policy().to_owned()).next());
        let all = decision.outcome("all").unwrap().remaining();
        assert_eq!(all, 9 - drawn.len().min(6) as u64, "all or nothing");
    }
    let expected = ["tokens", "tokens", "credits", "credits", "overdraft", "overdraft", "all"];
    assert_eq!(drawn, expected.map(|name| Some(name.to_owned())));
    assert_eq!(store.denied_from_cache(), 0, "what one of them refuses refuses nothing");
    let refused = limiter.decide(&request(&[("x-a", "a")])).await;
    assert!(!refused.is_allowed() && refused.retry_after().is_some());
    assert_eq!(store.denied_from_cache(), 1);
    assert!(limiter.decide(&request(&[("x-a", "b")])).await.is_allowed());
    assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
}

#[tokio::test]
async fn a_waterfall_may_be_on_several_servers_of_a_cluster() {
    let cluster = Cluster::start();
    let store = patient(RedisStore::cluster_builder(cluster.urls())).secret(SECRET);
    let limiter = waterfall(store.build().unwrap(), ["x-a", "x-b", "x-c"]);
    for caller in ["1", "2", "3"] {
        let headers = [("x-a", caller), ("x-b", caller), ("x-c", caller)];
        let mut left = Vec::new();
        for _ in 0..7 {
            let decision = limiter.decide(&request(&headers)).await;
            let outcome = |name| decision.outcome(name).map_or(u64::MAX, |known| known.remaining());
            left.push((decision.is_allowed(), ["tokens", "credits", "overdraft"].map(outcome)));
        }
        let expected = [[1, 2, 2], [0, 2, 2], [0, 1, 2], [0, 0, 2], [0, 0, 1], [0, 0, 0]];
        assert_eq!(left[..6], expected.map(|left| (true, left)));
        assert!(!left[6].0);
        // What the refused request was charged on other servers is back.
        let left = limiter.peek("all", caller).await.unwrap().remaining();
        assert_eq!(left, 3);
    }
}

#[tokio::test]
async fn replicas_with_different_secrets_are_warned_of() {
    let server = Server::start();
    let policy =
        || Policy::sliding_window("secret", Quota::per_minute(10)).key(header("x-key")).or_skip();
    let warned = |prefix: &str| {
        let given = warnings();
        given.iter().any(|given| given.code() == Code::SecretDiffers && given.culprit() == prefix)
    };
    let mut announced = 0;
    let mut start = async |prefix: &str, secret| {
        let store =
            RedisStore::builder(server.url()).prefix(prefix).secret(secret).build().unwrap();
        let limiter = Limiter::builder().store(store).policy(policy()).build().unwrap();
        let _ = limiter.decide(&request(&[("x-key", "k")])).await;
        // The policy and the secret.
        announced += 2;
        while server.calls("set") < announced {
            let _ = limiter.decide(&request(&[("x-key", "k")])).await;
        }
        limiter
    };
    let _first = start("secret-a", 1).await;
    let _same = start("secret-a", 1).await;
    let _other_prefix = start("secret-b", 2).await;
    assert!(!warned("secret-a") && !warned("secret-b"));
    let _differs = start("secret-a", 2).await;
    let began = std::time::Instant::now();
    while !warned("secret-a") {
        assert!(began.elapsed() < PATIENCE, "no warning is given");
        tokio::task::yield_now().await;
    }
    let text = server.keys().join(" ");
    assert!(text.contains("secret-a:{AAAAAAAAAAA}secret"), "{text}");
}
