//! Mistakes in the settings that only requests show: [`warnings`].
//!
//! `build()` fails if the settings themselves are wrong. It cannot find some mistakes, such as a load
//! balancer in front of the server that is not trusted. The first request that shows such a mistake
//! makes a [`Warning`], which has a code and a sentence that says what to write instead. With the
//! feature `tracing`, it is also logged as an event of level `WARN`, with the fields `code` and
//! `culprit`. Each mistake is reported once for each culprit, the setting that is wrong; and once more if
//! it is still there after [other limits](crate::Limiter::apply) were applied.
//!
//! These are the codes, and what to do:
//!
//! ## `no_peer_address`
//! A policy counts by the client's address, and the peer's address is not in the request's extensions.
//! With axum, serve `app.into_make_service_with_connect_info::<SocketAddr>()`. With another server,
//! insert [`PeerAddr`](crate::key::PeerAddr).
//!
//! ## `forwarded_unread`
//! Requests have a header in which proxies write the client's address, and [`ClientIp`] does not read
//! it: no proxy is trusted, or this one is not, or another header is read. Then all clients behind the
//! proxy count as one client. Set [`trust_proxies`] to the addresses of the proxies, or [`trust_hops`]
//! to their number, and set the header that they write. If there is no proxy, callers wrote the header:
//! set `trust_hops(0)`.
//!
//! ## `everybody_trusted`
//! Every address in the first 1,000 requests is that of a trusted proxy, so any caller may write its
//! own address. Set [`trust_proxies`] to the addresses of the proxies only, or [`trust_hops`] to their
//! real number.
//!
//! ## `hidden_client`
//! A trusted proxy wrote something that is not an address, such as `unknown`. All clients that it hides
//! share one quota. Let the proxy write addresses, or count by another key.
//!
//! ## `key_never_found`
//! A policy has a key, and none of its first 1,000 requests had it. Check that callers send the key
//! under the name in the settings. If another middleware sets the key, add its layer after the
//! limiter's, so that it runs first.
//!
//! ## `invalid_plan`
//! The function of [`quota_by`](crate::Policy::quota_by), or the
//! [`OverrideSource`](crate::overrides::OverrideSource), returned an invalid quota, and the request was refused.
//! Return a quota that `build()` would accept.
//!
//! ## `unknown_plan`
//! A policy has a table of [plans](crate::Policy::plans), and the function that names a request's plan
//! returned a name that is not in it. The policy's own quota holds. Add the plan to the table, or
//! return `None` for a request without a plan.
//!
//! ## `plan_never_found`
//! A policy has [plans](crate::Policy::plans), or a function for [quotas](crate::Policy::quota_by), and none of
//! its first 1,000 requests had a plan: all had the policy's own quota. Check the type of the extension that the
//! function reads. If another middleware sets it, add its layer after the limiter's, so that it runs first. If
//! these callers have no plan, put a plan for them, such as `free`, into the table, and return its name.
//!
//! ## `all_exempt`
//! The first 1,000 requests were all exempt, so nothing is counted. Unless these are health checks,
//! let the [exemptions](crate::LimiterBuilder::exempt) match fewer requests.
//!
//! ## `no_category`
//! None of the first 1,000 requests is in a category, so that the policies of categories count
//! nothing. Compare the paths of the [matchers](crate::Matcher) with those of the routes: a pattern is
//! the whole path, with the prefix under which a router is nested.
//!
//! ## `caller_never_found`
//! Callers have [overrides](crate::overrides::Overrides), and none of the first 1,000 requests since then had a
//! caller, so that no override applies. If a middleware sets the caller, add its layer after the
//! limiter's, so that it runs first.
//!
//! ## `overrides_unknown`
//! The store shares [overrides](crate::overrides::Overrides), and did not answer when this process started. None
//! held until it answered. Let the store run before this process.
//!
//! ## `unreadable_override`
//! The store has an override that cannot be read: a newer release has written it, or somebody else. If
//! it is a block, the caller is blocked; if it is a quota, the policy's own quota holds. End it with
//! [`end_all`](crate::overrides::CallerOverrides::end_all), or use the newer release.
//!
//! ## `unknown_override_policy`
//! The [`OverrideSource`](crate::overrides::OverrideSource) returned a quota under a policy that the limiter does
//! not have, so that it has no effect. Return the name of one of its policies.
//!
//! ## `source_unavailable`
//! The [`OverrideSource`](crate::overrides::OverrideSource) did not answer, and nothing was remembered of a caller,
//! so that the caller had what its plan says. If the source can block callers, set
//! [`OnSourceFailure::Refuse`](crate::overrides::OnSourceFailure::Refuse).
//!
//! ## `no_timer`
//! A policy would have [held](crate::Policy::hold) a request, but there was no tokio runtime with time
//! enabled. The request was refused at once. Call `enable_time` on the runtime's builder, or await the
//! decision inside of the runtime.
//!
//! ## `store_full`
//! The memory store has no room for more keys of a policy, and new keys share one quota. If these are
//! real callers and not an attack, raise
//! [`with_max_keys`](crate::store::MemoryStore::with_max_keys).
//!
//! ## `redis_queue`
//! This process has more requests for Redis than it or Redis can serve. Some waited too long, and were
//! decided without Redis. Lease units with [`Policy::lease`](crate::Policy::lease), add processors or
//! servers, or let requests wait longer with `RedisStoreBuilder::queue_timeout`.
//!
//! ## `policy_differs`
//! Two limiters have a policy of the same name and algorithm in the same Redis, so that they count
//! together, but its quota or its keys differ. That is right while a release changes the policy. If
//! these are two services, give each a prefix with `RedisStoreBuilder::prefix`.
//!
//! ## `secret_differs`
//! Two processes with one prefix in the same Redis have different secrets, so they count apart: each
//! admits the whole quota. That is right while a release changes the secret. Otherwise, give all replicas
//! the same secret. If these are two services, give each a prefix with `RedisStoreBuilder::prefix`.
//!
//! ## `upgrade_without_permit`
//! A response has upgraded its connection, as a WebSocket does, and its units
//! [in flight](crate::Policy::in_flight) came back at once, though the connection is open. Take the
//! [`Permit`](crate::Permit) from the extensions of the request, and move it into the task that serves the
//! connection.
//!
//! ## `unknown_meter`
//! A handler counts for a policy with [`Meter::of`](crate::Meter::of), and no policy of this name
//! [settles at the end](crate::Policy::settle_at_end). What it counts is not charged; the request costs what
//! was reserved. Write the name of a policy that settles at the end.
//!
//! ## `never_metered`
//! A policy [settles at the end](crate::Policy::settle_at_end), and no handler has added anything to the
//! [`Meter`](crate::Meter) of its first 1,000 requests. Each has cost its estimate, which is 1 unless the policy has
//! a [`cost`](crate::Policy::cost). Take the meter in the handler, and add what the request uses.
//!
//! ## `body_field_not_read`
//! A policy counts by a field of the body, and no [`BodyFieldLayer`](crate::BodyFieldLayer) has read
//! the body. The request is refused, as the handler may read the field. Add the layer with this field
//! after the limiter's layer, and let its [`only`](crate::BodyFieldLayer::only) match each request of
//! the policy.
//!
//! ## `not_looked_up`
//! A policy counts by what a [`LookUpLayer`](crate::LookUpLayer) finds, and no layer of this type has
//! looked the caller up. The request is refused, as it may be anybody's. Add the layer after the limiter's
//! layer, and let its [`only`](crate::LookUpLayer::only) match each request of the policy.
//!
//! ## `refusal_body`
//! The closure of [`on_rejection_of`](crate::RateLimitLayerBuilder::on_rejection_of) has returned a body
//! that the layer cannot send: it is not there at once, it fails, it has trailers, or it is larger than a
//! mebibyte. The default response was sent. Return a whole body, such as a text.
//!
//! ## `grpc_refused_as_http`
//! A gRPC call was refused with a response that is not gRPC: its client sees an internal error, and not that a quota
//! is used up. Turn the feature `grpc` on.
//!
//! [`ClientIp`]: crate::key::ClientIp
//! [`trust_proxies`]: crate::key::ClientIp::trust_proxies
//! [`trust_hops`]: crate::key::ClientIp::trust_hops

mod code;

use std::fmt;

pub use self::code::Code;
use crate::lock::Mutex;

/// The most warnings of one process. Culprits are names in the settings, or in what the override source
/// returns; never in requests. So there are few.
const MAX_WARNINGS: usize = 1_000;

/// The warnings so far, the earliest first.
static GIVEN: Mutex<Vec<Warning>> = Mutex::new(Vec::new());

/// A mistake in the settings that a request has shown.
///
/// ```
/// for warning in tower_quota::warning::warnings() {
///     eprintln!("{}: {warning}", warning.code().as_str());
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    code: Code,
    culprit: String,
    sentence: String,
    /// Whether limits were applied since, so that it may be given once more.
    is_of_old_settings: bool,
}

impl Warning {
    /// Which mistake it is.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The wrong setting, such as a policy's name; empty if the code says it.
    #[must_use]
    pub fn culprit(&self) -> &str {
        &self.culprit
    }
}

/// What is wrong and what to write instead.
impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// The warnings of this process so far, the earliest first, for an operator's page or a test. With the
/// feature `tracing`, they are in the log too.
#[must_use]
pub fn warnings() -> Vec<Warning> {
    GIVEN.lock().clone()
}

/// Reports a mistake, once for each culprit and [settings](repeat_for_new_settings). It locks, so call it only if
/// there is a mistake.
///
/// The lock is free while the user's code runs: the sentence may name an extractor, and a subscriber
/// of the event may read the warnings or cause another.
#[cold]
pub(crate) fn warn(code: Code, culprit: &str, sentence: impl FnOnce() -> String) {
    if !is_new(&GIVEN.lock(), code, culprit) {
        return;
    }
    let warning = Warning {
        code,
        culprit: culprit.to_owned(),
        sentence: sentence(),
        is_of_old_settings: false,
    };
    let mut given = GIVEN.lock();
    // Another thread may have been faster.
    if !is_new(&given, code, culprit) {
        return;
    }
    given.retain(|known| known.code != code || known.culprit != culprit);
    given.push(warning.clone());
    drop(given);
    #[cfg(feature = "tracing")]
    tracing::warn!(code = code.as_str(), culprit, "{warning}");
}

/// Lets each mistake be reported once more, as the new settings may have it too, or another one with the
/// same culprit.
pub(crate) fn repeat_for_new_settings() {
    GIVEN.lock().iter_mut().for_each(|warning| warning.is_of_old_settings = true);
}

/// Whether a mistake is not reported yet, and has room.
fn is_new(given: &[Warning], code: Code, culprit: &str) -> bool {
    let is_same = |known: &&Warning| known.code == code && known.culprit == culprit;
    match given.iter().find(is_same) {
        Some(known) => known.is_of_old_settings,
        None => given.len() < MAX_WARNINGS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_a_heading_in_the_docs() {
        let headings: Vec<_> = include_str!("warning.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! ## `")?.strip_suffix('`'))
            .collect();
        assert_eq!(headings, Code::ALL.iter().map(|code| code.as_str()).collect::<Vec<_>>());
    }

    #[test]
    fn warnings_are_bounded() {
        let warning = |culprit: usize| Warning {
            code: Code::InvalidPlan,
            culprit: culprit.to_string(),
            sentence: String::new(),
            is_of_old_settings: false,
        };
        let mut given: Vec<_> = (1..MAX_WARNINGS).map(warning).collect();
        assert!(is_new(&given, Code::InvalidPlan, "one more"));
        given.push(warning(0));
        assert!(!is_new(&given, Code::InvalidPlan, "one more"));
    }

    /// An error reporter, for example, whose own use of a limiter shows a mistake.
    #[cfg(feature = "tracing")]
    #[test]
    fn a_subscriber_may_cause_and_read_warnings() {
        use std::{sync::mpsc, thread, time::Duration};
        use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

        struct Warns;
        impl<S: tracing::Subscriber> Layer<S> for Warns {
            fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
                assert!(warnings().iter().any(|given| given.culprit() == "by a request"));
                warn(Code::InvalidPlan, "by the subscriber", || "write another".to_owned());
            }
        }
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let subscriber = tracing_subscriber::registry().with(Warns);
            tracing::subscriber::with_default(subscriber, || {
                warn(Code::InvalidPlan, "by a request", || "write another".to_owned());
            });
            done.send(()).unwrap();
        });
        is_done.recv_timeout(Duration::from_secs(10)).expect("no thread waits for itself");
        assert!(warnings().iter().any(|given| given.culprit() == "by the subscriber"));
    }

    #[test]
    fn a_culprit_is_reported_once_for_each_mistake() {
        for code in [Code::InvalidPlan, Code::InvalidPlan, Code::UnknownPlan] {
            warn(code, "reported once", || "write another".to_owned());
        }
        let given: Vec<_> =
            warnings().into_iter().filter(|given| given.culprit() == "reported once").collect();
        let codes: Vec<_> = given.iter().map(Warning::code).collect();
        assert_eq!(codes, [Code::InvalidPlan, Code::UnknownPlan]);
        assert_eq!(given[0].to_string(), "write another");
    }
}
