//! Mistakes that the first requests show. Each is reported once, with a code and a way to mend it.

use http::{Request, request::Parts};
use tower_quota::{
    Category, Limiter, Matcher, Policy, Quota,
    key::{self, ClientIp, KeyExtractor, PeerAddr},
    warning::{Code, warnings},
};

const MANY: usize = 1_000;

fn request(peer: [u8; 4], headers: &[(&str, &str)]) -> Parts {
    let add = |request: http::request::Builder, (name, value): &(&str, &str)| {
        request.header(*name, *value)
    };
    let request = Request::builder().extension(PeerAddr((peer, 80).into()));
    headers.iter().fold(request, add).body(()).unwrap().into_parts().0
}

/// What is reported of a code and a culprit.
fn reported(code: Code, culprit: &str) -> Vec<String> {
    let all = warnings().into_iter();
    let of_these = all.filter(|warning| warning.code() == code && warning.culprit() == culprit);
    of_these.map(|warning| warning.to_string()).collect()
}

fn resolve(client_ip: &ClientIp, times: usize, request: &Parts) {
    for _ in 0..times {
        let _ = client_ip.resolve(request);
    }
}

const PROXY: [u8; 4] = [10, 0, 0, 9];
const CLIENT: [u8; 4] = [192, 0, 2, 7];

#[test]
fn forwarded_headers_without_a_trusted_proxy() {
    for header in ["x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip"] {
        let request = request(PROXY, &[(header, "192.0.2.7")]);
        resolve(&ClientIp::new().trust_hops(0), MANY, &request);
        assert!(reported(Code::ForwardedUnread, header).is_empty(), "it says that there is none");
        resolve(&ClientIp::new(), 5, &request);
        let [sentence] = &reported(Code::ForwardedUnread, header)[..] else { panic!("{header}") };
        assert!(sentence.contains(&format!("`{header}` arrives, and no proxy is trusted")));
        assert!(sentence.contains("trust_proxies([…])") && sentence.contains(".trust_hops(0)"));
    }
}

#[test]
fn forwarded_headers_of_a_peer_that_is_not_trusted() {
    let client_ip = || ClientIp::new().trust_proxies(["172.16.0.0/12"]).header("x-read-a");
    let found = |count| {
        let client_ip = client_ip();
        resolve(&client_ip, count, &request(PROXY, &[("x-forwarded-for", "192.0.2.7")]));
        resolve(&client_ip, MANY, &request([172, 16, 0, 1], &[("x-read-a", "192.0.2.7")]));
        reported(Code::ForwardedUnread, "x-read-a")
    };
    assert!(found(MANY - 1).is_empty(), "one of them is trusted");
    let proxy_without_header = client_ip();
    let stranger = request(PROXY, &[("x-forwarded-for", "192.0.2.7")]);
    resolve(&proxy_without_header, MANY - 1, &stranger);
    resolve(&proxy_without_header, 1, &request([172, 16, 0, 1], &[]));
    assert!(reported(Code::ForwardedUnread, "x-read-a").is_empty(), "one of them is trusted");
    let [sentence] = &found(MANY)[..] else { panic!("it is reported once") };
    assert!(sentence.contains("Add its address to `trust_proxies`"), "{sentence}");
}

#[test]
fn a_trusted_proxy_that_writes_another_header() {
    let client_ip = || ClientIp::new().trust_proxies(["10.0.0.0/8"]).header("x-read-b");
    let unread = request(PROXY, &[("forwarded", "for=192.0.2.7")]);
    let found = |first: &Parts| {
        let client_ip = client_ip();
        resolve(&client_ip, 1, first);
        resolve(&client_ip, 5, &unread);
        reported(Code::ForwardedUnread, "x-read-b")
    };
    assert!(found(&request(PROXY, &[("x-read-b", "192.0.2.7")])).is_empty(), "it writes this one");
    let [sentence] = &found(&request(PROXY, &[]))[..] else { panic!("it is reported once") };
    assert!(sentence.contains("sends `forwarded`, and `x-read-b` is read"), "{sentence}");
    assert!(sentence.contains("Write `.header(\"forwarded\")`"), "{sentence}");
}

#[test]
fn proxies_that_are_everybody() {
    let by_network = || ClientIp::new().trust_proxies(["10.0.0.0/8"]).forwarded();
    let inside = request(PROXY, &[("forwarded", "for=10.7.7.7")]);
    let outside = request(PROXY, &[("forwarded", "for=192.0.2.7")]);
    let client_ip = by_network();
    resolve(&client_ip, MANY - 1, &inside);
    resolve(&client_ip, 1, &outside);
    resolve(&client_ip, MANY, &inside);
    let client_ip = by_network();
    resolve(&client_ip, 1, &request(PROXY, &[("forwarded", "for=unknown")]));
    resolve(&client_ip, MANY, &inside);
    assert!(reported(Code::EverybodyTrusted, "forwarded").is_empty(), "one of them is hidden");
    resolve(&by_network(), MANY, &request(PROXY, &[]));
    assert!(reported(Code::EverybodyTrusted, "forwarded").is_empty(), "the header is not sent");
    resolve(&by_network(), MANY, &inside);
    let [sentence] = &reported(Code::EverybodyTrusted, "forwarded")[..] else { panic!("once") };
    assert!(sentence.contains("Write the addresses of the proxies alone"), "{sentence}");

    let by_number = |hops| ClientIp::new().trust_hops(hops);
    let one_proxy = request(PROXY, &[("x-forwarded-for", "192.0.2.7")]);
    resolve(&by_number(1), MANY, &one_proxy);
    assert!(reported(Code::EverybodyTrusted, "x-forwarded-for").is_empty());
    resolve(&by_number(2), MANY, &one_proxy);
    let [sentence] = &reported(Code::EverybodyTrusted, "x-forwarded-for")[..] else {
        panic!("once")
    };
    assert!(sentence.contains("than `trust_hops(2)` believes"), "{sentence}");
}

#[test]
fn clients_that_a_proxy_hides() {
    let client_ip = || ClientIp::new().trust_proxies(["10.0.0.0/8"]);
    let hidden = request(PROXY, &[("x-forwarded-for", "secret-of-a-caller")]);
    resolve(&client_ip(), 5, &request(CLIENT, &[("x-forwarded-for", "unknown")]));
    assert!(reported(Code::HiddenClient, "x-forwarded-for").is_empty(), "a stranger hides nothing");
    for _ in 0..2 {
        resolve(&client_ip(), 5, &hidden);
    }
    let [sentence] = &reported(Code::HiddenClient, "x-forwarded-for")[..] else { panic!("once") };
    assert!(!sentence.contains("secret"), "{sentence}");
}

fn policy(name: &str, key: impl KeyExtractor) -> Policy {
    Policy::token_bucket(name, Quota::per_second(1_000_000)).key(key)
}

#[tokio::test]
async fn a_key_that_is_never_found() {
    let limiter = Limiter::builder()
        .policy(policy("skips", key::header("x-api-kye")).or_skip())
        .policy(policy("falls back", key::header("x-api-kye")).or_key(ClientIp::new()).or_skip())
        .policy(policy("finds one", key::header("x-api-key")).or_skip())
        .policy(policy("reads none", key::header("x-twice")).or_skip().dry_run())
        .policy(Policy::token_bucket("global", Quota::per_second(1_000_000)).global())
        .build()
        .unwrap();
    let never_found = || {
        let names = ["skips", "falls back", "finds one", "reads none", "global"];
        let reported = names.map(|name| reported(Code::KeyNeverFound, name));
        reported.map(|sentences| sentences.len())
    };
    let _ = limiter
        .decide(&request(CLIENT, &[("x-api-key", "a"), ("x-twice", "a"), ("x-twice", "b")]))
        .await;
    let without = request(CLIENT, &[]);
    for _ in 2..MANY {
        let _ = limiter.decide(&without).await;
    }
    assert_eq!(never_found(), [0; 5]);
    for _ in 0..MANY {
        let _ = limiter.decide(&without).await;
    }
    assert_eq!(never_found(), [1, 1, 0, 0, 0]);
    let sentence = reported(Code::KeyNeverFound, "skips").remove(0);
    assert!(
        sentence.contains("had its key `x-api-kye`. All of them passed uncounted."),
        "{sentence}"
    );
    assert!(sentence.contains("add its layer after the limiter's"), "{sentence}");
}

#[tokio::test]
async fn exemptions_that_leave_no_request() {
    let limiter = || {
        let policy = Policy::fixed_window("counted", Quota::per_minute(10)).global();
        Limiter::builder().exempt(Matcher::get("/v1/{*rest}")).policy(policy).build().unwrap()
    };
    let get = |path: &str| Request::get(path).body(()).unwrap().into_parts().0;
    let (exempt, counted) = (get("/v1/things"), get("/other"));
    let mixed = limiter();
    for _ in 1..MANY {
        let _ = mixed.decide(&exempt).await;
    }
    assert_eq!(mixed.decide(&counted).await.outcomes().len(), 1);
    for _ in 0..MANY {
        let _ = mixed.decide(&exempt).await;
    }
    assert!(reported(Code::AllExempt, "").is_empty(), "one of the first is counted");
    let unlimited = limiter();
    for _ in 1..MANY {
        let _ = unlimited.decide(&exempt).await;
    }
    assert!(reported(Code::AllExempt, "").is_empty(), "one more may be counted");
    for _ in 0..MANY {
        let _ = unlimited.decide(&exempt).await;
    }
    let [sentence] = &reported(Code::AllExempt, "")[..] else { panic!("it is reported once") };
    assert!(sentence.starts_with("the first 1000 requests were all exempt"), "{sentence}");
    assert!(sentence.contains("write exemptions that match less"), "{sentence}");
}

#[tokio::test]
async fn categories_that_no_request_is_in() {
    let limiter = || {
        let policy = Policy::fixed_window("in a category", Quota::per_minute(10)).global();
        let category = Category::new("exports").on(Matcher::get("/exports")).policy(policy);
        Limiter::builder().category(category).build().unwrap()
    };
    let get = |path: &str| Request::get(path).body(()).unwrap().into_parts().0;
    let (nested, in_category) = (get("/v1/exports"), get("/exports"));
    let mixed = limiter();
    for _ in 1..MANY {
        let _ = mixed.decide(&nested).await;
    }
    let _ = mixed.decide(&in_category).await;
    let _ = mixed.decide(&nested).await;
    assert!(reported(Code::NoCategory, "").is_empty(), "one of the first is in it");
    let unlimited = limiter();
    for _ in 1..MANY {
        let _ = unlimited.decide(&nested).await;
    }
    assert!(reported(Code::NoCategory, "").is_empty(), "one more may be in it");
    let _ = unlimited.decide(&nested).await;
    let [sentence] = &reported(Code::NoCategory, "")[..] else { panic!("it is reported once") };
    assert!(sentence.starts_with("none of the first 1000 requests is in a category"), "{sentence}");
}

#[tokio::test]
async fn overrides_of_callers_that_are_never_found() {
    let policy = Policy::fixed_window("by customer", Quota::per_minute(10_000)).global();
    let limiter = Limiter::builder()
        .policy(policy)
        .caller(key::extension("customer", |customer: &String| customer.into()))
        .build()
        .unwrap();
    let request = || Request::new(()).into_parts().0;
    for _ in 0..MANY {
        let _ = limiter.decide(&request()).await;
    }
    assert!(reported(Code::CallerNeverFound, "").is_empty(), "there is no override");
    let minute = std::time::Duration::from_secs(60);
    limiter.overrides().caller("acme").unwrap().block(minute).at_once().unwrap();
    for _ in 1..MANY {
        assert!(limiter.decide(&request()).await.is_allowed());
    }
    assert!(reported(Code::CallerNeverFound, "").is_empty(), "one more may have a caller");
    let _ = limiter.decide(&request()).await;
    let [sentence] = &reported(Code::CallerNeverFound, "")[..] else { panic!("reported once") };
    assert!(sentence.contains("add its layer after the limiter's"), "{sentence}");
    let mut found = request();
    found.extensions.insert("acme".to_owned());
    assert!(!limiter.decide(&found).await.is_allowed());
}
