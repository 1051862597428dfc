//! Replays of generated logs: beside a server that gets the same requests, and what the reports say.

mod generate;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Request, connect_info::ConnectInfo},
    http::StatusCode,
};
use generate::{Format, Line, Sent, requests};
use replay::{
    Settings,
    engine::{self, Witness},
    log::{Log, Reader},
    report::Report,
    run,
    subject::{StandIns, Subject},
    subjects,
};
use tokio::time::{Instant, sleep, sleep_until};
use tower::ServiceExt;
use tower_quota::{
    Clock, Decision,
    config::{Limits, Registry},
};

/// Policies of all algorithms, of which several count one request. A log in the common format has no API key.
const LIMITS: &str = r#"
exempt = ["/health"]
every_request = ["per address", "per key", "exports at once"]

[policies."per address"]
algorithm = "token_bucket"
quota = "60 per minute, burst 20"
keys = ["ip"]
without_key = "refuse"

[policies."per key"]
algorithm = "sliding_window"
quota = "200 per 2 minutes"
keys = [{ header = "x-api-key" }, "ip"]
without_key = "refuse"

[policies."exports at once"]
algorithm = "in_flight"
quota = "2 in flight"
keys = ["ip"]
without_key = "refuse"

[policies."log-ins"]
algorithm = "fixed_window"
quota = "3 per 5 minutes"
keys = ["ip"]
without_key = "refuse"
settle = "failed log-ins"
penalty = { after = 4, refusals_within = "1 minute", blocks = ["2 minutes"] }

[policies.orders]
algorithm = "token_bucket"
quota = "300 per minute, burst 5"
global = true
hold = "1 second"

[[categories]]
name = "sign-in"
requests = ["POST /v1/sign-in"]
policies = ["log-ins"]

[[categories]]
name = "orders"
requests = ["POST /v1/orders"]
policies = ["orders"]
"#;

/// A folder that is removed with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let name = format!("replay-{}-{}", std::process::id(), LAST.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn lines(format: Format, sent: &[Sent]) -> String {
    sent.iter().fold(String::new(), |mut log, sent| {
        writeln!(log, "{}", Line(format, sent)).unwrap();
        log
    })
}

fn stand_ins() -> StandIns {
    let settles = BTreeMap::from([("failed log-ins".to_owned(), vec![401])]);
    StandIns { settles, ..StandIns::default() }
}

/// Limits, and the log as they see it.
fn prepared(limits: &str, log: &str, stand_ins: &StandIns) -> (Subject, Arc<Log>) {
    let folder = Folder::new();
    let mut subject = Subject::read(&folder.write("limits.toml", limits), stand_ins).unwrap();
    let headers: Vec<_> = subject.headers().into_iter().collect();
    let mut reader = Reader::new(&headers);
    reader.read(log.as_bytes(), |_| {}).unwrap();
    let log = reader.finish();
    subject.look_at(&log);
    (subject, Arc::new(log))
}

/// The verdict about each line.
#[derive(Default)]
struct Verdicts(Vec<(u32, bool)>);

impl Witness for Verdicts {
    fn decided(&mut self, line: u32, decision: &Decision) {
        self.0.push((line, decision.is_allowed()));
    }
}

/// Whether each request passes, in the order of their starts.
fn replayed(subject: &Subject, log: &Arc<Log>) -> Vec<bool> {
    let count = log.lines.len() as u32;
    let (limits, registry) = (&subject.limits, &subject.registry);
    let verdicts = Verdicts::default();
    let mut verdicts = engine::replay(limits, registry, log, 0..count, verdicts, |_| {}).unwrap().0;
    verdicts.sort_unstable();
    assert!(verdicts.iter().map(|(line, _)| *line).eq(0..count), "each request is decided once");
    verdicts.into_iter().map(|(_, passes)| passes).collect()
}

/// The same, of a server that gets these requests over time, which is paused. It reads no log.
async fn served(limits: &str, sent: &[Sent]) -> Vec<bool> {
    let registry = Registry::new().settle("failed log-ins", |response| {
        Some(u64::from(response.status == StatusCode::UNAUTHORIZED))
    });
    let limits = Limits::from_toml(limits, &registry).unwrap();
    let (origin, start) = (Instant::now(), sent[0].start);
    let clock = Clock::tokio(std::time::UNIX_EPOCH + Duration::from_millis(start));
    let limiter = limits.builder(&registry).unwrap().clock(clock).build().unwrap();
    let app = Router::new()
        .fallback(|Extension((took, status)): Extension<(u64, u16)>| async move {
            sleep(Duration::from_millis(took)).await;
            StatusCode::from_u16(status).unwrap()
        })
        .layer(limits.layer(limiter, &registry).unwrap().build().unwrap());
    let passed = Arc::new(Mutex::new(vec![None; sent.len()]));
    let mut tasks = Vec::new();
    for (place, sent) in sent.iter().enumerate() {
        sleep_until(origin + Duration::from_millis(sent.start - start)).await;
        // What ends now has ended before.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        let mut request = Request::builder().method(sent.method).uri(&sent.target);
        if let Some(key) = &sent.key {
            request = request.header("x-api-key", key);
        }
        let peer = ConnectInfo(SocketAddr::new(sent.client, 4_711));
        let request = request.extension(peer).extension((sent.took, sent.status));
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap());
        let passed = Arc::clone(&passed);
        tasks.push(tokio::spawn(async move {
            let status = response.await.unwrap().status();
            passed.lock().unwrap()[place] = Some(status != StatusCode::TOO_MANY_REQUESTS);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let passed = passed.lock().unwrap();
    passed.iter().map(|passed| passed.unwrap()).collect()
}

#[test]
fn a_replay_decides_as_a_server_that_gets_the_same_requests() {
    for (format, seed) in
        [(Format::Common, 1), (Format::Combined, 2), (Format::Caddy, 3), (Format::NginxJson, 4)]
    {
        let mut sent = requests(format, 10_000, 20, seed);
        let (subject, log) = prepared(LIMITS, &lines(format, &sent), &stand_ins());
        assert_eq!((log.lines.len(), log.facts.broken.count), (10_000, 0), "{format:?}");
        let replayed = replayed(&subject, &log);
        sent.sort_by_key(|sent| sent.start);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        // Without the time that requests took, what is in flight cannot be seen.
        let is_blind = subject.unseen.keys().eq(["exports at once"]);
        assert_eq!(is_blind, format == Format::Common, "{:?}", subject.unseen);
        let limits =
            LIMITS.replace("2 in flight", if is_blind { "unlimited" } else { "2 in flight" });
        let served = runtime.block_on(served(&limits, &sent));
        let refused = served.iter().filter(|passes| !**passes).count();
        assert!((500..8_000).contains(&refused), "{format:?}: {refused} are refused");
        let other = (0..replayed.len()).find(|place| replayed[*place] != served[*place]);
        assert_eq!(other.map(|place| (place, &sent[place], served[place])), None, "{format:?}");
    }
}

fn report(limits: &str, log: &str, loudest: &[usize]) -> Report {
    report_with(limits, log, loudest, &StandIns::default())
}

fn report_with(limits: &str, log: &str, loudest: &[usize], stand_ins: &StandIns) -> Report {
    let folder = Folder::new();
    let settings = Settings {
        limits: vec![folder.write("limits.toml", limits)],
        stand_ins: stand_ins.clone(),
        loudest: loudest.to_vec(),
        ..Settings::default()
    };
    let subjects = subjects(&settings).unwrap();
    let headers: Vec<_> = subjects.iter().flat_map(Subject::headers).collect();
    let mut reader = Reader::new(&headers);
    reader.read(log.as_bytes(), |_| {}).unwrap();
    run(&settings, subjects, vec!["access.log".to_owned()], reader.finish(), |_| {}).unwrap()
}

#[test]
fn the_suggested_quota_refuses_nobody_but_the_loudest_and_one_unit_less_refuses_another() {
    let sent = requests(Format::Caddy, 1_000, 20, 5);
    let log = lines(Format::Caddy, &sent);
    for (algorithm, now, with) in [
        ("token_bucket", "5 per minute", "{} per minute"),
        ("token_bucket", "60 per minute, burst 2", "60 per minute, burst {}"),
        ("fixed_window", "5 per hour", "{} per hour"),
        ("sliding_window", "5 per 90 seconds", "{} per 90 seconds"),
        ("in_flight", "1 in flight", "{} in flight"),
    ] {
        let limits = |quota: &str| {
            format!(
                "every_request = [\"p\"]\n[policies.p]\nalgorithm = \"{algorithm}\"\nquota = \"{quota}\"\n\
                 keys = [\"ip\"]\nwithout_key = \"refuse\"\n"
            )
        };
        let found = report(&limits(now), &log, &[0, 1, 10]);
        let suggestions = &found.limits[0].policies[0].suggestions;
        assert_eq!(suggestions.len(), 3, "{algorithm}");
        for one in suggestions {
            let json = serde_json::to_value(one.quota).unwrap();
            let quota = json.as_str().unwrap();
            let digits = |text: &str| -> Vec<u64> {
                let numbers = text.split(|c: char| !c.is_ascii_digit());
                numbers.filter_map(|number| number.parse().ok()).collect()
            };
            // What is in place of `{}`.
            let place = digits(&with.replace("{}", "0")).iter().position(|number| *number == 0);
            let units = digits(quota)[place.unwrap()];
            let refused_with = |units: u64| {
                let found = report(&limits(&with.replace("{}", &units.to_string())), &log, &[]);
                found.limits[0].policies[0].refused_keys
            };
            assert_eq!(refused_with(units), one.refused_keys, "{algorithm} {quota}");
            assert!(one.refused_keys <= one.but_the_loudest, "{algorithm} {quota}");
            if units > 1 {
                assert!(refused_with(units - 1) > one.but_the_loudest, "{algorithm} {quota}");
            }
        }
    }
}

/// A policy by address, with a quota like `{} per minute`, and more settings.
fn by_address(algorithm: &str, quota: &str, units: u64, more: &str) -> String {
    let quota = quota.replace("{}", &units.to_string());
    format!(
        "every_request = [\"p\"]\n[policies.p]\nalgorithm = \"{algorithm}\"\nquota = \"{quota}\"\n{more}\n"
    )
}

#[test]
fn suggestions_are_those_of_a_search_from_one_unit_upwards() {
    const BY_ADDRESS: &str = "keys = [\"ip\"]\nwithout_key = \"refuse\"";
    let failed = format!("{BY_ADDRESS}\nsettle = \"failed log-ins\"");
    let penalty = format!(
        "{BY_ADDRESS}\npenalty = {{ after = 2, refusals_within = \"1 minute\", blocks = [\"2 minutes\"] }}"
    );
    for seed in 0..5 {
        // At one pace, and with many requests in the same second.
        let format = if seed % 2 == 0 { Format::Caddy } else { Format::Common };
        let sent = requests(format, 150, 1 + seed % 4, 100 + seed);
        let log = lines(format, &sent);
        for (algorithm, quota, more) in [
            ("token_bucket", "{} per 20 seconds", BY_ADDRESS),
            ("token_bucket", "1 per 10 seconds, burst {}", BY_ADDRESS),
            ("fixed_window", "{} per 30 seconds", BY_ADDRESS),
            ("fixed_window", "{} per minute", &penalty),
            ("fixed_window", "{} per calendar month in Europe/Berlin", "global = true"),
            ("sliding_window", "{} per 13 seconds", BY_ADDRESS),
            ("sliding_window", "{} per hour", &failed),
            ("in_flight", "{} in flight", BY_ADDRESS),
        ] {
            if algorithm == "in_flight" && format == Format::Common {
                continue; // this format has no durations, so ends are not known
            }
            let policy = |units, more: &str, loudest: &[usize]| {
                let limits = by_address(algorithm, quota, units, more);
                let has_settle = more.contains("settle");
                let stand_ins = if has_settle { stand_ins() } else { StandIns::default() };
                let mut report = report_with(&limits, &log, loudest, &stand_ins);
                report.limits.remove(0).policies.remove(0)
            };
            let found = policy(1, more, &[0, 2, 5]).suggestions;
            assert!(!found.is_empty());
            // What a suggestion leaves out: it is about the quota alone.
            let more = if more == penalty { BY_ADDRESS } else { more };
            let mut smallest = 1;
            for one in found.iter().rev() {
                let naive = (smallest..).find_map(|units| {
                    let refused = policy(units, more, &[]).refused_keys;
                    (refused <= one.but_the_loudest).then_some((units, refused))
                });
                let units =
                    if quota.contains("burst") { one.quota.capacity() } else { one.quota.units() };
                let case =
                    format!("seed {seed}, {algorithm}, {quota}, but {}", one.but_the_loudest);
                assert_eq!(Some((units, one.refused_keys)), naive, "{case}");
                smallest = units;
            }
        }
    }
}

const ONE_POLICY: &str = r#"
every_request = ["p"]
[policies.p]
algorithm = "fixed_window"
quota = "2 per minute"
keys = KEYS
without_key = "refuse"
"#;

fn line(second: u32, address: &str) -> String {
    format!("{address} - - [10/Oct/2025:12:00:{second:02} +0000] \"GET /a HTTP/1.1\" 200 5\n")
}

#[test]
fn what_is_told_by_policy_key_and_minute() {
    let mut log: String = (0..5).map(|second| line(second, "192.0.2.7")).collect();
    log += &line(30, "2001:db8::1");
    log += &line(59, "2001:db8::2");
    log += &line(0, "192.0.2.7").replace("12:00:00", "12:01:00");
    log += "nonsense\n192.0.2.7 - - [10/Oct/2025:12:00:00 +0000] \"\\x16\\x03\" 400 0\n";
    let report = report(&ONE_POLICY.replace("KEYS", "[\"ip\"]"), &log, &[0, 1, 2]);
    assert_eq!(report.log.requests, 8);
    assert_eq!(
        (report.log.from.as_str(), report.log.to.as_str()),
        ("2025-10-10T12:00:00Z", "2025-10-10T12:01:00Z")
    );
    assert_eq!((report.log.broken, report.log.no_requests), (1, 1));
    assert_eq!(
        (report.log.first_broken[0].line, report.log.first_broken[0].reason),
        (9, "it has no request in quotes")
    );
    let limits = &report.limits[0];
    assert_eq!((limits.passed, limits.refused), (5, 3));
    let policy = &limits.policies[0];
    assert_eq!((policy.passed, policy.refused, policy.keys, policy.refused_keys), (5, 3, 2, 1));
    let [first, second] = &*policy.loudest else { panic!("{policy:?}") };
    assert_eq!((&*first.key, first.passed, first.refused), ("192.0.2.7", 3, 3));
    assert_eq!(first.first_refused.as_deref(), Some("2025-10-10T12:00:02Z"));
    assert_eq!((&*first.busiest_minute, first.requests_in_it), ("2025-10-10T12:00:00Z", 5));
    assert_eq!((&*second.key, second.passed, second.refused), ("2001:db8::/64", 2, 0));
    let minutes: Vec<_> = policy
        .minutes
        .iter()
        .map(|minute| (&*minute.minute, minute.passed, minute.refused))
        .collect();
    assert_eq!(minutes, [("2025-10-10T12:00:00Z", 4, 3), ("2025-10-10T12:01:00Z", 1, 0)]);
    let suggested: Vec<_> =
        policy.suggestions.iter().map(|one| (one.quota.units(), one.refused_keys)).collect();
    assert_eq!(suggested, [(5, 0), (2, 1)], "there are only two keys");
    let table = report.to_string();
    for part in [
        "8 requests",
        "line 9: it has no request in quotes",
        "5 requests pass, 3 are refused (37.5 %)",
        "no key: 5 per minute; only the loudest key: 2 per minute",
    ] {
        assert!(table.contains(part), "{part}\n{table}");
    }
}

#[test]
fn a_policy_whose_key_no_line_has_refuses_nobody_and_is_named() {
    let log: String = (0..5).map(|second| line(second, "192.0.2.7")).collect();
    for (keys, hidden) in [
        ("[{ header = \"x-api-key\" }]", "`x-api-key`"),
        ("[\"bearer\"]", "`bearer token`"),
        ("[\"tenant\"]", "`tenant`"),
        ("[{ body_field = \"email\" }]", "`email`"),
        ("[{ query = \"api_key\" }]", "`api_key`"),
        ("[[\"ip\", \"bearer\"]]", "`ip + bearer token`"),
    ] {
        let report = report(&ONE_POLICY.replace("KEYS", keys), &log, &[0]);
        let limits = &report.limits[0];
        assert_eq!((limits.passed, limits.refused, limits.policies.len()), (5, 0, 0), "{keys}");
        assert_eq!(limits.unseen[0].about, "p");
        assert_eq!(limits.unseen[0].text, format!("no line has its key, {hidden}"));
        let shown = format!("policy `p` cannot be seen in this log: no line has its key, {hidden}");
        assert!(report.to_string().contains(&shown), "{report}");
    }
    // The second key counts alone, and the report says so.
    for (key, hidden) in [("\"bearer\"", "bearer token"), ("{ body_field = \"email\" }", "email")] {
        let limits = ONE_POLICY.replace("KEYS", &format!("[{key}, \"ip\"]"));
        let report = report(&limits, &log, &[]);
        assert_eq!(report.limits[0].refused, 3);
        let note = format!("no line has its key `{hidden}`; all its requests count by `ip`");
        assert_eq!(report.limits[0].notes[0].text, note);
    }
}

#[test]
fn a_policy_in_flight_needs_to_know_how_long_requests_took() {
    let log: String = (0..5).map(|_| line(7, "192.0.2.7")).collect();
    let limits =
        ONE_POLICY.replace("fixed_window", "in_flight").replace("2 per minute", "2 in flight");
    let limits = limits.replace("KEYS", "[\"ip\"]");
    let unseen = &report(&limits, &log, &[0]).limits[0].unseen;
    assert!(unseen[0].text.contains("$request_time"), "{unseen:?}");
    let log = log.replace("200 5\n", "200 5 \"-\" \"-\" \"-\" 0.500\n");
    let report = report(&limits, &log, &[0]);
    assert_eq!((report.limits[0].unseen.len(), report.limits[0].refused), (0, 3));
}

#[test]
fn credentials_that_caddy_leaves_out_are_no_key() {
    let log: String = (0..5)
        .map(|second| {
            format!(
                "{{\"ts\":176009760{second}.5,\"request\":{{\"remote_ip\":\"192.0.2.7\",\"method\":\"GET\",\"uri\":\"/\",\
                 \"headers\":{{\"Authorization\":[\"REDACTED\"]}}}},\"status\":200,\"duration\":0.1}}\n"
            )
        })
        .collect();
    let report = report(&ONE_POLICY.replace("KEYS", "[\"bearer\"]"), &log, &[]);
    assert_eq!((report.limits[0].refused, report.limits[0].unseen.len()), (0, 1));
    assert!(report.limits[0].notes[0].text.contains("log_credentials"), "{report}");
}

#[test]
fn who_is_the_client_behind_proxies() {
    let limits = |client_ip: &str| {
        format!("{}[client_ip]\n{client_ip}\n", ONE_POLICY.replace("KEYS", "[\"ip\"]"))
    };
    let from = |second, peer, forwarded: &str| {
        line(second, peer).replace("200 5", &format!("200 5 \"-\" \"-\" \"{forwarded}\""))
    };
    let log = [
        from(1, "10.0.0.9", "203.0.113.1, 198.51.100.1"),
        from(2, "10.0.0.9", "198.51.100.2"),
        from(3, "203.0.113.5", "198.51.100.3"),
    ]
    .concat();
    let keys = |client_ip: &str, own_log| {
        let folder = Folder::new();
        let settings = Settings {
            limits: vec![folder.write("limits.toml", &limits(client_ip))],
            own_log,
            ..Settings::default()
        };
        let subjects = subjects(&settings).unwrap();
        let headers: Vec<_> = subjects.iter().flat_map(Subject::headers).collect();
        let mut reader = Reader::new(&headers);
        reader.read(log.as_bytes(), |_| {}).unwrap();
        let report = run(&settings, subjects, Vec::new(), reader.finish(), |_| {}).unwrap();
        let mut keys: Vec<_> =
            report.limits[0].policies[0].loudest.iter().map(|key| key.key.clone()).collect();
        keys.sort();
        keys
    };
    let by_header = ["198.51.100.1", "198.51.100.2", "198.51.100.3"];
    assert_eq!(keys("", false), ["10.0.0.9", "203.0.113.5"]);
    assert_eq!(
        keys("trust_proxies = [\"10.0.0.0/8\"]", false),
        ["198.51.100.1", "198.51.100.2", "203.0.113.5"]
    );
    // The proxy that writes the log is one of the hops.
    assert_eq!(keys("trust_hops = 1", false), ["10.0.0.9", "203.0.113.5"]);
    assert_eq!(keys("trust_hops = 2", false), by_header);
    assert_eq!(keys("trust_hops = 1", true), by_header);
}

/// Runs the program itself.
fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_replay")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_program_answers_as_table_json_and_page() {
    let folder = Folder::new();
    let sent = requests(Format::Caddy, 2_000, 20, 6);
    let log = folder.write("access.log", &lines(Format::Caddy, &sent));
    let limits = folder.write("limits.toml", LIMITS);
    let larger = folder.write("larger.toml", &LIMITS.replace("60 per minute", "600 per minute"));
    let page = folder.0.join("out.html");
    let paths = [&limits, &log, &larger, &page].map(|path| path.to_str().unwrap());
    let [limits, log, larger, page] = paths;
    let settle = ["--settle", "failed log-ins=401"];

    let answer = program(
        &[&[limits, log, "--beside", larger, "--html", page, "--no-suggestions"], &settle[..]]
            .concat(),
    );
    assert!(answer.status.success(), "{}", text(&answer.stderr));
    assert_eq!(text(&answer.stderr), "", "no bar where there is no terminal");
    let table = text(&answer.stdout);
    assert!(table.contains("2,000 requests, from 2025-10-10T"), "{table}");
    assert!(table.contains("refused by `per address`"), "{table}");
    assert!(!table.contains("sk_live_"), "keys are shown in full only on demand: {table}");
    let html = fs::read_to_string(page).unwrap();
    assert_eq!(html.matches("<svg").count(), 2);
    assert!(!html.contains("<script") && !html.contains("sk_live_"));
    assert!(html.contains("Content-Security-Policy"));

    let answer = program(
        &[&[limits, log, "--json", "--show-keys", "--loudest", "3,0"], &settle[..]].concat(),
    );
    let json: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    let all = &json["limits"][0];
    assert_eq!(all["passed"].as_u64().unwrap() + all["refused"].as_u64().unwrap(), 2_000);
    let suggestions = &all["policies"][2]["suggestions"];
    assert_eq!(suggestions[0]["but_the_loudest"], 0, "{suggestions}");
    assert!(text(&answer.stdout).contains("sk_live_"));
}

#[test]
fn what_callers_sent_is_no_markup() {
    let log: String = (0..5)
        .map(|second| {
            line(second, "192.0.2.7").replace("/a", "/a?key=%3Cscript%3Ealert(1)%3C/script%3E")
        })
        .collect();
    let folder = Folder::new();
    let limits = folder.write("limits.toml", &ONE_POLICY.replace("KEYS", "[{ query = \"key\" }]"));
    let (log, page) = (folder.write("access.log", &log), folder.0.join("out.html"));
    let [limits, log, page] = [&limits, &log, &page].map(|path| path.to_str().unwrap());
    let answer = program(&[limits, log, "--show-keys", "--html", page]);
    assert!(answer.status.success(), "{}", text(&answer.stderr));
    let html = fs::read_to_string(page).unwrap();
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !html.contains("<script"));
}

#[test]
fn mistakes_say_what_to_write() {
    let folder = Folder::new();
    let limits = folder.write("limits.toml", &ONE_POLICY.replace("KEYS", "[\"tenant\", \"ip\"]"));
    let wrong = folder
        .write("wrong.toml", &ONE_POLICY.replace("KEYS", "[\"ip\"]").replace("quota", "qouta"));
    let log = folder.write("access.log", &line(1, "192.0.2.7"));
    let empty = folder.write("empty.log", "nonsense\n");
    let gz = folder.0.join("access.log.gz");
    fs::write(&gz, [0x1f, 0x8b, 8, 0]).unwrap();
    let paths = [&limits, &wrong, &log, &empty, &gz].map(|path| path.to_str().unwrap());
    let [limits, wrong, log, empty, gz] = paths;
    for (arguments, expected) in [
        (vec![wrong, log], "write `quota`"),
        (vec![limits, empty], "line 1: it has no request in quotes"),
        (vec![limits, gz], "zcat"),
        (vec![limits, "none.log"], "none.log: "),
        (vec![limits, log, "--key", "tenant"], "--key tenant=x-tenant"),
        (vec![limits, log, "--key", "user=x-user"], "write one of `tenant`"),
        (vec![limits, log, "--settle", "a=401"], "no limits name this function; leave it out"),
        (vec![limits, log, "--settle", "a=x"], "failed log-ins=401,403"),
    ] {
        let answer = program(&arguments);
        assert!(!answer.status.success(), "{arguments:?}");
        assert!(text(&answer.stderr).contains(expected), "{arguments:?}: {}", text(&answer.stderr));
    }
}
