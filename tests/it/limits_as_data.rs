//! Limits as data: what is written is read, editors know the same format, and no text makes it panic.
#![cfg(all(feature = "calendar", feature = "config", feature = "describe"))]

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use http::Method;
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};
use tower_quota::{
    Algorithm, OnStoreFailure, Quota, ResetFormat,
    calendar::{Anchor, Period},
    config::{
        Category, ClientIp, HeaderStyle, Key, KnownKeys, Layer, Limits, OnRejection, Override,
        PathParam, Penalty, Plans, Policy, Prefixes, Problem, Registry, Requests, Schedule,
        StyleName, WithoutKey,
    },
    key, response,
};

const KEYS: [&str; 5] = ["tenant", "api key", "credential", "user", "unknown key"];
const FUNCTION: &str = "the program's";

/// With all functions that the limits of these tests and of the examples name.
fn registry() -> Registry {
    let registry = KEYS
        .into_iter()
        .fold(Registry::new(), |registry, name| registry.key(name, key::from_fn(name, |_| None)));
    let contracts = ["auth by contract", "read by contract", "write by contract", FUNCTION];
    let quota_by = |registry: Registry, name| registry.quota_by(name, |_| None);
    contracts
        .into_iter()
        .fold(registry, quota_by)
        .matcher(FUNCTION, |_| false)
        .plan(FUNCTION, |_| None)
        .plan("plan of the key", |_| None)
        .cost(FUNCTION, |_| 1)
        .settle(FUNCTION, |_| None)
        .on_rejection(FUNCTION, response::plain_text())
        .on_rejection("the page's 429", response::plain_text())
}

fn function() -> impl Strategy<Value = Option<String>> {
    option::of(Just(FUNCTION.to_owned()))
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (0..100_000_u64).prop_map(Duration::from_secs),
        any::<u64>().prop_map(Duration::from_nanos),
        Just(Duration::MAX),
    ]
}

fn quota(algorithm: Algorithm) -> impl Strategy<Value = Quota> {
    let burst = option::of(1..1_000_u64);
    let window = prop_oneof![
        (1..100_000_u64).prop_map(Duration::from_secs),
        (1..3_000_000_000_000_000_000_u64).prop_map(Duration::from_nanos),
    ];
    let limited = (1..1_000_000_u64, window, burst).prop_map(move |(units, window, burst)| {
        let quota = Quota::per_window(units, window);
        match burst.filter(|_| algorithm == Algorithm::TokenBucket) {
            Some(burst) if u128::from(burst) * window.as_nanos() < 3_000_000_000_000_000_000 => {
                quota.burst(burst)
            }
            _ => quota,
        }
    });
    let calendar = select(vec![
        (Period::Day, Anchor::Time { hour: 6, minute: 30 }),
        (Period::Week, "Su".parse().unwrap()),
        (Period::Month, Anchor::MonthDay(31)),
        (Period::Month, Anchor::MonthDay(1)),
        (Period::Year, Anchor::YearDay { month: 4, day: 1 }),
    ]);
    let zone = select(vec!["UTC", "Asia/Shanghai", "America/Argentina/Buenos_Aires", "Etc/GMT+5"]);
    let of_calendar =
        (1..1_000_000_u64, calendar, zone).prop_map(|(units, (period, anchor), zone)| {
            Quota::per_calendar(units, period).anchor(anchor).in_zone(zone)
        });
    (limited, of_calendar, 0..10).prop_map(move |(limited, of_calendar, kind)| match kind {
        0 => Quota::unlimited(),
        1..=3 if algorithm == Algorithm::FixedWindow => of_calendar,
        _ => limited,
    })
}

/// Keys of several kinds; each of them at most once.
fn keys() -> impl Strategy<Value = Vec<Key>> {
    let prefixes = |ipv4_prefix| {
        let mut prefixes = Prefixes::default();
        prefixes.ipv4_prefix = ipv4_prefix;
        prefixes
    };
    let path_param = || {
        let mut param = PathParam::default();
        (param.path, param.name) = ("/{*rest}".to_owned(), "rest".to_owned());
        Key::PathParam(param)
    };
    let all = vec![
        Key::Ip(prefixes(None)),
        Key::Ip(prefixes(Some(24))),
        Key::Bearer,
        Key::Header("x-api-key".to_owned()),
        Key::Cookie("session".to_owned()),
        Key::Query("api \"key\"".to_owned()),
        path_param(),
        Key::BodyField("user.id".to_owned()),
        Key::Registered(KEYS[0].to_owned()),
        Key::Together(vec![Key::Registered(KEYS[1].to_owned()), Key::Ip(prefixes(None))]),
        Key::Together(vec![Key::Bearer, Key::Header("x-a".to_owned()), path_param(), Key::Bearer]),
    ];
    let most = all.len();
    prop::sample::subsequence(all, 1..=most).prop_shuffle()
}

fn policy() -> impl Strategy<Value = Policy> {
    let algorithms = vec![Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];
    select(algorithms).prop_flat_map(|algorithm| {
        let plans = prop::collection::btree_map(NAME, quota(algorithm), 1..4);
        let whose = (option::of(keys()), any::<bool>(), any::<bool>());
        let costs = (option::of(plans), function(), function(), function(), 0..4_u32);
        let on_store_failure = prop_oneof![
            Just(OnStoreFailure::Allow),
            Just(OnStoreFailure::Refuse),
            (1..9_u32).prop_map(|replicas| OnStoreFailure::CountLocally { replicas }),
        ];
        let rest = (option::of(time()), option::of(NAME), any::<bool>(), on_store_failure);
        (quota(algorithm), whose, costs, rest).prop_map(move |(quota, whose, costs, rest)| {
            let mut policy = Policy::new(algorithm, quota);
            let (keys, skips, unreadable_as_missing) = whose;
            if let Some(keys) = keys {
                policy.keys = keys;
                policy.without_key =
                    Some(if skips { WithoutKey::Skip } else { WithoutKey::Refuse });
                policy.unreadable_as_missing = unreadable_as_missing;
                policy.shard = skips.then_some(Key::Bearer);
            } else {
                policy.global = true;
            }
            let (plans, quota_by, cost, settle, lease) = costs;
            policy.plan = plans.as_ref().map(|_| FUNCTION.to_owned());
            policy.plans = Plans::new(plans.into_iter().flatten());
            (policy.quota_by, policy.cost, policy.settle) = (quota_by, cost, settle);
            if lease == 2 {
                policy.schedules = vec![
                    Schedule::new("Mo-Fr 08:00-18:00", "Europe/Berlin", quota),
                    Schedule::new("Sa 22:00-06:00", "UTC", Quota::unlimited()),
                ];
            }
            policy.settle_at_end = lease == 3;
            let is_settled = policy.settle.is_some() || policy.settle_at_end;
            policy.lease = if is_settled { 0 } else { lease };
            let counts =
                !quota.is_unlimited() || policy.quota_by.is_some() || policy.plan.is_some();
            if policy.lease == 0 && !policy.global && (counts || !policy.schedules.is_empty()) {
                let minute = Duration::from_secs(60);
                let mut penalty = Penalty::new(5, [minute, 90 * minute]);
                match policy.settle.is_some() {
                    true => penalty.failures_within = Some(minute),
                    false => penalty.refusals_within = Some(Duration::from_millis(1_500)),
                }
                penalty.forget_after = policy.dry_run.then_some(24 * 60 * minute);
                policy.penalty = Some(penalty);
            }
            (policy.hold, policy.unit, policy.dry_run, policy.on_store_failure) = rest;
            policy
        })
    })
}

const NAME: &str = "[a-z \"'\\\\.#=\\[é-]{1,6}";

/// Requests to paths that no other index has.
fn requests(index: usize) -> impl Strategy<Value = Requests> {
    let methods = prop::sample::subsequence(vec![Method::PUT, Method::POST, Method::GET], 0..=3);
    let endpoint = methods.prop_map(move |methods| Requests::Endpoint {
        methods,
        path: format!("/{index}/{{id}}/{{*rest}}"),
    });
    prop_oneof![
        endpoint,
        Just(Requests::Function(FUNCTION.to_owned())),
        Just(Requests::ClientIp(vec!["10.0.0.0/8".to_owned(), "::1".to_owned()])),
        NAME.prop_map(|value| Requests::Key(KnownKeys::new(Key::Bearer, vec![value]))),
    ]
}

fn layer() -> impl Strategy<Value = Layer> {
    let reset = option::of(select(vec![
        ResetFormat::UnixSeconds,
        ResetFormat::Seconds,
        ResetFormat::Omitted,
    ]));
    let styles = (reset, any::<bool>(), any::<u8>()).prop_map(|(reset, partition_key, which)| {
        let mut one = HeaderStyle::new(StyleName::XRateLimit);
        one.reset = reset;
        let mut other = match which % 3 {
            0 => HeaderStyle::new(StyleName::Lists),
            1 => HeaderStyle::new(StyleName::Dictionary),
            _ => HeaderStyle::new(StyleName::RateLimit),
        };
        other.partition_key = partition_key && other.name == StyleName::Lists;
        [one, other].into_iter().take(usize::from(which / 3 % 3)).collect()
    });
    let problem = (option::of(NAME), option::of(NAME), any::<bool>(), any::<bool>()).prop_map(
        |(kind, title, detail, instance)| {
            let mut problem = Problem::default();
            (problem.kind, problem.title) = (kind, title);
            (problem.detail, problem.instance) = (detail, instance);
            OnRejection::Problem(problem)
        },
    );
    let on_rejection = prop_oneof![
        Just(OnRejection::Json),
        Just(OnRejection::PlainText),
        Just(OnRejection::Function(FUNCTION.to_owned())),
        problem,
    ];
    (option::of(styles), option::of(any::<bool>()), time(), on_rejection, any::<bool>()).prop_map(
        |(headers, retry_after, jitter, on_rejection, expose_decision)| {
            let mut layer = Layer::default();
            (layer.headers, layer.retry_after, layer.jitter_retry_after) =
                (headers, retry_after, jitter.min(Duration::from_secs(86_400)));
            (layer.on_rejection, layer.expose_decision) = (on_rejection, expose_decision);
            layer
        },
    )
}

/// Limits of which a limiter and a layer can be built.
fn limits() -> impl Strategy<Value = Limits> {
    let policies = vec(policy(), 1..6);
    let category = |index| {
        let of = vec(requests(index), 1..3);
        (of, option::of(time())).prop_map(move |(requests, hold)| {
            let mut category = Category::default();
            (category.name, category.requests) = (format!("category {index}"), requests);
            category.hold = hold.unwrap_or_default();
            category
        })
    };
    let categories = (category(0), category(1), category(2));
    let client_ip = option::of(select(vec![Some("forwarded"), Some("x-real-ip"), None]));
    let held = option::of(0..1_000_usize);
    let ends = vec((0..1_700_000_000_000_u64).prop_map(Duration::from_millis), 0..3);
    (policies, categories, layer(), client_ip, held, option::of(keys()), ends).prop_map(
        |(policies, (a, b, c), layer, client_ip, held, caller, ends)| {
            let mut limits = Limits::default();
            limits.categories = vec![a, b, c];
            for (index, mut policy) in policies.into_iter().enumerate() {
                // One policy of a request may be fair.
                let holds = policy.hold.is_some_and(|hold| !hold.is_zero()) && !policy.dry_run;
                if index == 0 && policy.global && holds {
                    policy.fair_by = Some(Key::Header("x-tenant".into()));
                    if policy.plan.is_some() {
                        policy.fair_weights =
                            [("free".to_owned(), 1), ("pro plus".to_owned(), 5)].into();
                    }
                }
                // A non-ASCII name is one that lists cannot have.
                let name = format!("policy.{index} \"a\"");
                match index {
                    0 => limits.every_request.push(name.clone()),
                    1 => {
                        // A check has neither a request nor a response.
                        policy.penalty = policy.penalty.filter(|one| one.failures_within.is_none());
                        (policy.cost, policy.settle) = (None, None);
                        limits.check_only.push(name.clone());
                    }
                    _ => limits.categories[index % 3].policies.push(name.clone()),
                }
                limits.policies.insert(name, policy);
            }
            // Lists can have no unit that is not ASCII.
            let is_ascii = |unit: &String| unit.is_ascii();
            for policy in limits.policies.values_mut() {
                policy.unit = policy.unit.take().filter(is_ascii);
            }
            limits.layer = layer;
            if let Some(header) = client_ip {
                let mut client_ip = ClientIp::default();
                client_ip.trust_proxies = Some(vec!["10.0.0.0/8".to_owned(), "unix:".to_owned()]);
                client_ip.header = header.map(str::to_owned);
                client_ip.ipv6_prefix = Some(56);
                limits.client_ip = client_ip;
            }
            (limits.max_held, limits.max_held_per_key) = (held, held.map(|held| held / 2));
            limits.caller = caller.and_then(|keys| keys.into_iter().next());
            limits.overrides = overrides(&limits, ends);
            limits.exempt = vec![
                Requests::Endpoint { methods: vec![Method::GET], path: "/health".to_owned() },
                Requests::Function(FUNCTION.to_owned()),
            ];
            limits
        },
    )
}

/// As many as there are ends: a block, and a quota of the same caller.
fn overrides(limits: &Limits, ends: Vec<Duration>) -> Vec<Override> {
    let Some(caller) = &limits.caller else { return Vec::new() };
    let part = |key: &Key| match key {
        Key::Ip(_) => "2001:db8::7",
        _ => "sk_\"live\"",
    };
    let key: Vec<_> = match caller {
        Key::Together(keys) => keys.iter().map(part).collect(),
        key => vec![part(key)],
    };
    let (name, policy) = limits.policies.first_key_value().unwrap();
    let make = |(index, until)| match index {
        0 => {
            let mut block = Override::block(key.clone(), until);
            block.reason = Some("a \"reason\"".to_owned());
            block
        }
        _ => Override::quota(key.clone(), name, policy.quota, until),
    };
    ends.into_iter().enumerate().map(make).collect()
}

fn description(limits: &Limits) -> Value {
    let registry = registry();
    let limiter = limits.builder(&registry).unwrap_or_else(|error| panic!("{error}\n{limits:#?}"));
    let layer = limits.layer(limiter.build().unwrap(), &registry).unwrap().build().unwrap();
    let mut description: Value = serde_json::from_str(&layer.describe().to_json()).unwrap();
    // The example of a refusal depends on the time, and its jitter on a random secret.
    description["responses"].as_object_mut().unwrap().remove("refusal");
    description
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn what_is_written_is_read(limits in limits()) {
        let written = limits.to_toml();
        let read = Limits::from_toml(&written, &registry());
        let read = read.unwrap_or_else(|error| panic!("{error}\n{written}"));
        prop_assert_eq!(&read, &limits, "{}", written);
        prop_assert_eq!(read.to_toml(), &*written);
        let json = serde_json::to_string(&limits).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Limits>(&json).unwrap(), &limits, "{}", json);
        prop_assert_eq!(description(&read), description(&limits));
        let schema = schema();
        let problems: Vec<_> = schema.iter_errors(&as_json(&written)).map(|e| e.to_string()).collect();
        prop_assert!(problems.is_empty(), "{:?}\n{}", problems, written);
    }

    /// A good file, of which some bytes are changed, is read or has problems with places in it.
    #[test]
    fn no_text_makes_it_panic(
        nth in 0..5_usize,
        changes in vec((any::<prop::sample::Index>(), 0..30_usize, "[\\[\\]{}\"=.,#a-z0-9 \n]{0,6}"), 1..6),
    ) {
        let mut text = examples()[nth].1.clone().into_bytes();
        for (at, length, put) in changes {
            let at = at.index(text.len().max(1)).min(text.len());
            let end = (at + length).min(text.len());
            text.splice(at..end, put.bytes());
        }
        let text = String::from_utf8_lossy(&text);
        if let Err(error) = Limits::from_toml(&text, &registry()) {
            prop_assert!(!error.problems().is_empty());
            for problem in error.problems() {
                let line = problem.line().unwrap_or(1);
                prop_assert!((1..=text.lines().count() + 1).contains(&line), "{}", problem);
            }
        }
    }
}

fn schema() -> jsonschema::Validator {
    jsonschema::draft202012::new(&Limits::json_schema()).unwrap()
}

fn as_json(text: &str) -> Value {
    json_of(toml::from_str(text).unwrap())
}

/// As editors see TOML: a date-time is a text.
fn json_of(value: toml::Value) -> Value {
    match value {
        toml::Value::Datetime(date) => date.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json_of).collect(),
        toml::Value::Table(table) => {
            table.into_iter().map(|(name, value)| (name, json_of(value))).collect()
        }
        value => serde_json::to_value(value).unwrap(),
    }
}

/// The name and the text of each example's file.
fn examples() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let names = [
        "configured/limits.toml",
        "limits/fhir_directory.toml",
        "limits/gateway.toml",
        "limits/gather.toml",
        "limits/jump_ehr.toml",
    ];
    let read = |name: &str| (name.to_owned(), fs::read_to_string(folder.join(name)).unwrap());
    names.map(read).to_vec()
}

/// The bad files that have the right form: what is wrong with them, no editor can see.
const VALID_BY_SCHEMA: &str = "\
    bad_fair_lines bad_proxies burst_of_a_window category_twice control_characters empty everybody_is_a_proxy global_with_key \
    header_without_proxy in_flight key_twice lease_and_settle lease_and_settle_at_end \
    lists_of_a_name_that_is_not_ascii misspelt_methods no_key \
    no_limits_and_a_policy no_way_without_key only_a_layer overrides_of_joined_keys \
    overrides_without_caller path_of_no_category penalties penalties_that_never_block plan_without_plans plans_without_function \
    policy_twice_for_every_request policy_twice_in_a_category shadowed_category unknown_names \
    unlimited_category unnamed unregistered_functions unused_policy \
    waterfall_that_cannot_work waterfall_without_end";

#[test]
fn the_schema_accepts_the_examples_and_refuses_what_does_not_parse() {
    let schema = schema();
    for (name, text) in examples() {
        let problems: Vec<_> = schema.iter_errors(&as_json(&text)).map(|e| e.to_string()).collect();
        assert!(problems.is_empty(), "{name}: {problems:?}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("it/bad_limits");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let is_accepted = |path: &std::path::PathBuf| {
        let table = toml::from_str::<toml::Value>(&fs::read_to_string(path).unwrap());
        table.is_ok_and(|table| schema.is_valid(&json_of(table)))
    };
    let accepted: BTreeSet<_> = files
        .filter(is_accepted)
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    let expected = VALID_BY_SCHEMA.split_whitespace().map(str::to_owned).collect();
    assert_eq!(accepted, expected);
}

/// `describe()` has the words of the file for what both say, in the same order.
#[test]
fn a_description_says_what_the_file_says() {
    for (name, text) in examples() {
        let limits = Limits::from_toml(&text, &registry()).unwrap();
        let description = description(&limits);
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let names = |value: &Value| -> Vec<String> {
            list(value).iter().map(|named| named["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&description["every_request"]), limits.every_request, "{name}");
        assert_eq!(names(&description["check_only"]), limits.check_only, "{name}");
        assert_eq!(list(&description["exempt"]).len(), limits.exempt.len(), "{name}");
        let mut described = list(&description["every_request"]);
        described.extend(list(&description["check_only"]));
        let categories = list(&description["categories"]);
        for (category, in_file) in categories.iter().zip(&limits.categories) {
            assert_eq!(category["name"], *in_file.name);
            assert_eq!(names(&category["policies"]), in_file.policies);
            let requests = list(&category["requests"]);
            let paths: Vec<_> = requests.iter().map(|requests| &requests["path"]).collect();
            let in_file: Vec<_> = in_file.requests.iter().map(path_of).collect();
            assert_eq!(paths, in_file);
            described.extend(list(&category["policies"]));
        }
        for policy in described {
            let in_file = &limits.policies[policy["name"].as_str().unwrap()];
            let json = serde_json::to_value(in_file).unwrap();
            for word in ["algorithm", "unit"] {
                assert_eq!(policy[word], json[word], "{policy}");
            }
            for flag in ["global", "dry_run"] {
                assert_eq!(policy[flag], json[flag] == true, "{policy}");
            }
            assert_eq!(policy["refuses_without_key"], json["without_key"] == "refuse");
            assert_eq!(list(&policy["keys"]).len(), in_file.keys.len());
            assert_eq!(policy["quota"], quota_in_json(&json["quota"]));
            let plan = |(name, _): &(String, Quota)| json!({ "name": name, "quota": quota_in_json(&json["plans"][name]) });
            let plans: Vec<_> = in_file.plans.as_slice().iter().map(plan).collect();
            assert_eq!(list(&policy["plans"]), plans);
        }
    }
}

fn path_of(requests: &Requests) -> &str {
    match requests {
        Requests::Endpoint { path, .. } => path,
        other => panic!("{other:?} has no path"),
    }
}

/// As `describe()` writes the quota of this text.
fn quota_in_json(text: &Value) -> Value {
    let text = text.as_str().unwrap();
    let quota = serde_json::from_value::<Quota>(text.into()).unwrap();
    let mut json = json!({ "units": quota.units(), "window_seconds": quota.window().as_secs() });
    if let Some((_, burst)) = text.split_once(", burst ") {
        json["burst"] = burst.parse::<u64>().unwrap().into();
    }
    json
}

/// So that overrides can be saved, and the file can be applied again.
#[test]
fn the_caller_of_a_file_has_the_secret_of_the_registry() {
    let text = |quota| {
        format!(
            r#"
            check_only = ["mails"]
            caller = "tenant"
            policies.mails = {{ algorithm = "fixed_window", quota = "{quota} per day" }}
            "#
        )
    };
    let tenant = || tower_quota::key::from_fn("tenant", |_| Some("tenant-7".into()));
    let registry = || Registry::new().key("tenant", tenant());
    let build = |registry: &Registry| {
        let limits = Limits::from_toml(&text(1), registry).unwrap();
        limits.builder(registry).unwrap().build().unwrap()
    };
    assert!(build(&registry()).overrides().save().is_err(), "no secret");
    let registry = registry().caller_secret(7);
    let limiter = build(&registry);
    let hour = std::time::Duration::from_secs(3_600);
    let _ = limiter.overrides().caller("tenant-7").unwrap().block(hour).at_once().unwrap();
    let saved = limiter.overrides().save().unwrap();
    // The next process.
    let next = build(&registry);
    next.overrides().load(saved).unwrap();
    assert!(!next.check("mails", "tenant-7").at_once().unwrap().is_allowed());
    let new = Limits::from_toml(&text(2), &registry).unwrap().builder(&registry).unwrap();
    let changes = next.apply(new).unwrap().to_string();
    assert_eq!(changes, "policy `mails`: quota 1 per day → 2 per day");
}
