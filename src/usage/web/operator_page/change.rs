//! The changes that an operator can make to a key, and the latest ones: [`Change`] and
//! [`ChangeHistory`].

use std::{collections::VecDeque, fmt, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Settings;
use crate::{
    key::Fingerprint,
    limiter::overrides::{OverrideChange, OverrideError},
    lock::Mutex,
    override_record::MAX_AUTHOR,
    quota::Quota,
    shown_text::is_unfit,
};

/// The most changes shown.
const SHOWN: usize = 50;
/// The longest time of a change: a year.
const MAX_SECONDS: u64 = 366 * 86_400;

#[derive(Debug, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Change {
    /// The key has its whole quotas again.
    Reset,
    /// Each of its requests is refused for a time.
    Block { seconds: u64, reason: Option<String> },
    /// Its requests are not blocked any more.
    Unblock,
    /// It has another number of units in each window of a policy, for a time.
    SetQuota { policy: String, units: u64, seconds: u64, reason: Option<String> },
    /// It has the quota of its plan again.
    RestoreQuota { policy: String },
}

impl Change {
    /// Makes the change of a key, or returns a sentence that says why nothing was changed.
    pub(super) async fn make(
        &self,
        page: &Settings,
        key: Fingerprint,
        operator: &str,
    ) -> Result<(), String> {
        let drawn = page.quotas(key);
        let caller = page.overrides(key).map_err(sentence)?;
        let make = async |made: OverrideChange| {
            let made = made.author(author(operator));
            match self.reason() {
                Some(reason) => made.reason(reason).await,
                None => made.await,
            }
            .map_err(sentence)
        };
        match self {
            Self::Reset if drawn.is_empty() => {
                Err("Nothing is known that the key has used, and nothing was reset.".into())
            }
            Self::Reset => match page.limiter.reset_quotas(&drawn).await.is_allowed() {
                true => Ok(()),
                false => Err("The store does not answer, and nothing was reset.".into()),
            },
            Self::Block { seconds, .. } => make(caller.block(duration(*seconds)?)).await.map(drop),
            Self::Unblock => {
                // The page knows no key, but which quotas it draws on.
                let was_penalized = page.limiter.pardon_quotas(&drawn).await;
                match make(caller.unblock()).await?.is_empty() && !was_penalized {
                    true => Err("The key is not blocked.".into()),
                    false => Ok(()),
                }
            }
            Self::SetQuota { policy, units, seconds, .. } => {
                let time = duration(*seconds)?;
                let decision = page.limiter.peek_quotas(&drawn, Some(key)).await;
                let Some(held) = decision.outcome(policy) else {
                    return Err(format!("The key is not known to draw on a policy `{policy}`."));
                };
                let quota = with_units(held.quota(), *units)?;
                make(caller.set_quota(policy, quota, time)).await.map(drop)
            }
            Self::RestoreQuota { policy } => {
                match make(caller.restore_quota(policy)).await?.is_empty() {
                    true => Err(format!("The key has no quota of its own by policy `{policy}`.")),
                    false => Ok(()),
                }
            }
        }
    }

    /// Why the operator makes it; `None` for an empty reason.
    fn reason(&self) -> Option<&str> {
        match self {
            Self::Block { reason, .. } | Self::SetQuota { reason, .. } => {
                reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty())
            }
            _ => None,
        }
    }
}

/// How long a change lasts.
fn duration(seconds: u64) -> Result<Duration, String> {
    match seconds {
        1..=MAX_SECONDS => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("`seconds` is from 1 to {MAX_SECONDS}.")),
    }
}

/// The quota with another number of units in each window. A burst that was set stays; else it is the
/// new number of units.
fn with_units(quota: Quota, units: u64) -> Result<Quota, String> {
    let changed = quota.with_units(units);
    let too_many = changed.is_unlimited().then(|| "write fewer units".to_owned());
    let problem = changed.problem().or(too_many);
    problem.map_or(Ok(changed), |problem| Err(format!("{problem}.")))
}

/// An error as a sentence.
fn sentence(error: OverrideError) -> String {
    let text = error.to_string();
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(characters).chain(['.']).collect()
}

/// An operator's name, as an override keeps it. The guard may return any text.
fn author(operator: &str) -> String {
    operator.chars().filter(|c| !is_unfit(*c)).take(MAX_AUTHOR).collect()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => f.write_str("reset all quotas"),
            Self::Block { seconds, .. } => write!(f, "blocked for {seconds} s"),
            Self::Unblock => f.write_str("unblocked"),
            Self::SetQuota { policy, units, seconds, .. } => {
                write!(f, "{units} units of policy `{policy}` for {seconds} s")
            }
            Self::RestoreQuota { policy } => write!(f, "restored the quota of policy `{policy}`"),
        }?;
        self.reason().map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// The latest changes, the newest first.
#[derive(Debug, Default)]
pub(super) struct ChangeHistory(Mutex<VecDeque<Value>>);

impl ChangeHistory {
    pub(super) fn add(&self, at: u64, operator: &str, key: &str, change: &str) {
        #[cfg(feature = "tracing")]
        tracing::info!(
            target: "tower_quota::operator",
            operator,
            key,
            change,
            "an operator has changed what holds for a key"
        );
        let mut all = self.0.lock();
        all.truncate(SHOWN - 1);
        all.push_front(json!({ "at": at, "operator": operator, "key": key, "change": change }));
    }

    pub(super) fn to_json(&self) -> Value {
        json!(*self.0.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_changes_are_kept_the_newest_first() {
        let history = ChangeHistory::default();
        (1..=SHOWN as u64 + 9).for_each(|at| history.add(at, "nora", "7", "unblocked"));
        let Value::Array(kept) = history.to_json() else { panic!("it is a list") };
        let times: Vec<u64> = kept.iter().map(|change| change["at"].as_u64().unwrap()).collect();
        assert_eq!(times, (10..60).rev().collect::<Vec<_>>());
    }
}
