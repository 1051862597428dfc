//! Policies whose extractors read the same part of a request extract its key once.

use std::{
    borrow::Cow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use http::{Request, request::Parts};
use tower_quota::{
    Category, Limiter, Matcher, Policy, Quota, Reason,
    key::{Extracted, KeyExtractor},
};

fn to(path: &str, headers: &[(&str, &str)]) -> Parts {
    let add = |request: http::request::Builder, (name, value): &(&str, &str)| {
        request.header(*name, *value)
    };
    headers.iter().fold(Request::get(path), add).body(()).unwrap().into_parts().0
}

/// A header that is asked for, and how often.
#[derive(Clone)]
struct Asked {
    name: &'static str,
    /// Which of several it says it is.
    identity: Option<&'static str>,
    times: Arc<AtomicU64>,
}

impl KeyExtractor for Asked {
    fn kind(&self) -> Cow<'_, str> {
        self.name.into()
    }

    fn extract<'a>(&self, request: &'a Parts) -> Extracted<'a> {
        self.times.fetch_add(1, SeqCst);
        request.headers.get(self.name).map(|value| value.as_bytes().into()).into()
    }

    fn identity(&self) -> Option<String> {
        self.identity.map(str::to_owned)
    }
}

#[tokio::test]
async fn policies_by_the_same_key_read_it_once() {
    let times = Arc::new(AtomicU64::new(0));
    let asked = |name, identity| Asked { name, identity, times: Arc::clone(&times) };
    let key = || asked("k", Some("Asked(k)"));
    let policy = |name: &str| Policy::token_bucket(name, Quota::per_hour(3));
    let alone = |name: &str| policy(name).key(key()).or_refuse();
    let limiter = Limiter::builder()
        .policy(alone("every request"))
        .policy(alone("unlimited").quota_by(|_| Some(Quota::unlimited())))
        .category(
            Category::new("one").on(Matcher::get("/one")).policy(alone("a")).policy(alone("b")),
        )
        .category(
            Category::new("two")
                .on(Matcher::get("/two"))
                .policy(
                    policy("first of two")
                        .key(key())
                        .or_key(asked("o", Some("Asked(o)")))
                        .or_skip(),
                )
                .policy(policy("other").key(asked("o", Some("Asked(o)"))).or_skip())
                .policy(policy("unknown").key(asked("k", None)).or_skip())
                .policy(policy("also unknown").key(asked("k", None)).or_skip()),
        )
        .build()
        .unwrap();
    let kinds = async |uri, headers: &[_]| {
        let decision = limiter.decide(&to(uri, headers)).await;
        let kinds = decision.outcomes().map(|outcome| outcome.key_kind().to_owned());
        (kinds.collect::<Vec<_>>(), times.swap(0, SeqCst))
    };
    assert_eq!(kinds("/", &[("k", "1")]).await, (vec!["k".to_owned()], 1));
    assert_eq!(kinds("/one", &[("k", "1")]).await, (vec!["k".to_owned(); 3], 1));
    let (of_two, read) = kinds("/two", &[("k", "2"), ("o", "3")]).await;
    assert_eq!((of_two.join(" "), read), ("k k o k k".to_owned(), 1 + 1 + 1 + 2));
    let nothing = limiter.decide(&to("/one", &[])).await;
    assert_eq!(nothing.reason(), Some(Reason::MissingKey));
    assert_eq!(times.swap(0, SeqCst), 1, "a key that is not there is not looked for again");
    for left in [2, 1] {
        assert_eq!(
            limiter.peek("other", "3").await.unwrap().outcomes().next().unwrap().remaining(),
            left
        );
        let _ = limiter.decide(&to("/two", &[("k", "4"), ("o", "3")])).await;
    }
}
