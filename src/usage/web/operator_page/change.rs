//! The changes that an operator can make to a key, and the latest ones: [`Change`] and
//! [`ChangeHistory`].

use std::{collections::VecDeque, fmt, time::Duration};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{lock::Mutex, quota::Quota};

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
    /// Why the operator makes it; `None` for an empty reason.
    pub(super) fn reason(&self) -> Option<&str> {
        match self {
            Self::Block { reason, .. } | Self::SetQuota { reason, .. } => {
                reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty())
            }
            _ => None,
        }
    }
}

/// How long a change lasts.
pub(super) fn duration(seconds: u64) -> Result<Duration, String> {
    match seconds {
        1..=MAX_SECONDS => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("`seconds` is from 1 to {MAX_SECONDS}.")),
    }
}

/// The quota with another number of units in each window. A burst that was set stays; else it is the
/// new number of units.
pub(super) fn with_units(quota: Quota, units: u64) -> Result<Quota, String> {
    let changed = quota.with_units(units);
    let too_many = changed.is_unlimited().then(|| "write fewer units".to_owned());
    let problem = changed.problem().or(too_many);
    problem.map_or(Ok(changed), |problem| Err(format!("{problem}.")))
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
