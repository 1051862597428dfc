//! Sets the overrides of a file, and ends those that it does not have any more: [`apply`].

use std::{collections::BTreeMap, time::Duration};

use super::Override;
use crate::{
    key::Fingerprint,
    limiter::{
        Limiter,
        overrides::{CallerOverrides, OverrideError},
    },
    override_record::{self, OverrideKind},
};

/// Who has set what is from a file.
const AUTHOR: &str = "limits file";

/// Ends that differ by less are the same: a store's answer takes some time, and replicas' clocks differ.
const SAME_END: Duration = Duration::from_secs(5);

/// Overrides by the caller and the policy; without a policy, a block.
type ByPlace<T> = BTreeMap<(Fingerprint, Option<String>), T>;

/// Returns how many overrides it has set or ended.
pub(super) async fn apply(all: &[Override], limiter: &Limiter) -> Result<usize, OverrideError> {
    let overrides = limiter.overrides();
    overrides.refresh().await?;
    let left = |new: &Override| new.until.saturating_sub(limiter.now().unix());
    let mut missing = ByPlace::new();
    for new in all.iter().filter(|new| left(new).as_micros() > 0) {
        let caller = overrides.caller(new.caller_key().ok_or(OverrideError::UnfitKey)?)?;
        missing.insert((caller.fingerprint(), new.policy.clone()), (new, caller));
    }
    let mut too_many = Vec::new();
    let mut of_operators = 0_usize;
    for own in overrides.list() {
        let place = (own.caller, own.policy().map(str::to_owned));
        let is_of_operator = own.author.as_deref() != Some(AUTHOR);
        match missing.get(&place) {
            Some((new, _)) if is_of_operator || is_same(new, &own) => {
                of_operators = of_operators.saturating_add(is_of_operator.into());
                missing.remove(&place);
            }
            None if !is_of_operator => too_many.push(place),
            _ => {}
        }
    }
    let (set, ended) = (missing.len(), too_many.len());
    // First those that end, so that there is room.
    for (caller, policy) in too_many {
        let caller = overrides.by_fingerprint(caller)?;
        match policy {
            Some(policy) => caller.restore_quota(&policy).await?,
            None => caller.unblock().await?,
        };
    }
    for (new, caller) in missing.into_values() {
        set_override(new, &caller, left(new)).await?;
    }
    report(set, ended, of_operators);
    Ok(set.saturating_add(ended))
}

async fn set_override(
    new: &Override,
    caller: &CallerOverrides,
    time: Duration,
) -> Result<(), OverrideError> {
    let change = match (new.block, &new.policy, new.quota) {
        (true, None, None) => caller.block(time),
        (false, Some(policy), Some(quota)) => caller.set_quota(policy, quota, time),
        // From no file: it would have been a problem there.
        (_, policy, _) => {
            let problem = "it takes `block`, or a policy and a quota".to_owned();
            let policy = policy.clone().unwrap_or_default();
            return Err(OverrideError::InvalidQuota { policy, problem });
        }
    };
    let change = change.author(AUTHOR);
    match &new.reason {
        Some(reason) => change.reason(reason).await?,
        None => change.await?,
    };
    Ok(())
}

/// Whether `own`, which holds, is what the file says.
fn is_same(new: &Override, own: &override_record::Override) -> bool {
    let is_same_kind = match &own.kind {
        OverrideKind::Block => new.block,
        OverrideKind::Quota { quota, .. } => new.quota == Some(*quota),
    };
    is_same_kind && own.reason == new.reason && own.until.abs_diff(new.until) < SAME_END
}

/// Logs what was changed, or was left as an operator has set it.
fn report(set: usize, ended: usize, of_operators: usize) {
    #[cfg(feature = "tracing")]
    if set > 0 || ended > 0 || of_operators > 0 {
        tracing::info!(set, ended, of_operators, "the overrides of the limits were applied");
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (set, ended, of_operators);
}
