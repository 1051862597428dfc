//! Replaces the limits of a limiter while it decides: [`apply`].

use std::sync::{Arc, Weak};
#[cfg(feature = "config")]
use std::{fmt, path::Path};

use super::{
    Changes, Core, Limiter, LimiterBuilder,
    queue::MaxHeld,
    rules::{Rule, RuleSet},
    validate,
};
#[cfg(feature = "metrics")]
use crate::metrics::count_reload;
use crate::{
    error::{BuildError, BuildProblem},
    policy::{Policy, english},
    store::{Announcement, Store},
    warning::repeat_for_new_settings,
};

/// What has settings that name policies of a limiter, such as a layer. An apply must not make these
/// settings wrong.
pub(crate) trait DependsOnPolicies: Send + Sync {
    /// What is wrong with the settings if these are the enforced policies for requests. It runs while
    /// no other apply does, so it must not run code of the user.
    fn problems(&self, policies: &[Policy]) -> Vec<BuildProblem>;
}

/// All that name policies of one limiter and are alive.
pub(super) type Dependents = Vec<Weak<dyn DependsOnPolicies>>;

impl Limiter {
    /// Reports limits that could not be read, so that nothing was applied.
    #[cfg(feature = "config")]
    pub(crate) fn report_unread(file: &Path, problems: &dyn fmt::Display) {
        #[cfg(feature = "metrics")]
        count_reload(false);
        #[cfg(feature = "tracing")]
        tracing::error!(
            file = %file.display(),
            problems = %in_one_line(&problems.to_string()),
            "the limits were not applied, and nothing has changed"
        );
        #[cfg(not(feature = "tracing"))]
        let _ = (file, problems);
    }
}

/// Replaces the limits of `core` by those of `builder`, and reports that.
pub(super) fn apply(core: &Core, builder: LimiterBuilder) -> Result<Changes, BuildError> {
    let applied = try_apply(core, builder);
    #[cfg(feature = "metrics")]
    count_reload(applied.is_ok());
    report(&applied);
    applied
}

fn try_apply(core: &Core, builder: LimiterBuilder) -> Result<Changes, BuildError> {
    let mut problems = builder.problems();
    problems.extend(builder.problems_of_change(core.caller.as_ref()));
    problems.extend(validate::not_counted(&builder.policies, &*core.store));
    BuildError::if_any(problems)?;
    let max_held = builder.max_held;
    let mut rules = RuleSet::new(builder.policies, &core.keys);
    loop {
        // Without the lock, as this asks extractors for their names.
        let before = core.rules();
        let changes = Changes::between((&before, core.queue.max()), (&rules, max_held));
        match replace(core, before.number(), rules, max_held)? {
            Ok(()) => return Ok(changes),
            // Another apply was faster.
            Err(unused) => rules = unused,
        }
    }
}

/// Replaces the rules with the number `before`. Returns the new ones if the current rules are others.
fn replace(
    core: &Core,
    before: u64,
    rules: RuleSet,
    max_held: MaxHeld,
) -> Result<Result<(), RuleSet>, BuildError> {
    let dependents = core.dependents.lock();
    if core.rules().number() != before {
        return Ok(Err(rules));
    }
    let policies = rules.enforced_for_requests();
    let alive = dependents.iter().filter_map(Weak::upgrade);
    BuildError::if_any(alive.flat_map(|dependent| dependent.problems(&policies)).collect())?;
    let old = core.rules.replace(rules);
    core.queue.set_max(max_held);
    drop(dependents);
    drop(old);
    announce(core);
    repeat_for_new_settings();
    core.queue.wake_all(core.clock.now());
    Ok(Ok(()))
}

/// Adds what names policies of a limiter, as long as it is alive.
///
/// # Errors
/// Its settings do not fit the current policies.
pub(super) fn register_dependent<N: DependsOnPolicies + 'static>(
    core: &Core,
    dependent: &Arc<N>,
) -> Result<(), BuildError> {
    let mut dependents = core.dependents.lock();
    BuildError::if_any(dependent.problems(&core.rules().enforced_for_requests()))?;
    dependents.retain(|known| known.strong_count() > 0);
    let dependent: Weak<N> = Arc::downgrade(dependent);
    dependents.push(dependent);
    Ok(())
}

/// Announces the current policies to the store.
pub(super) fn announce(core: &Core) {
    let mut announced = core.announced.lock();
    let new = announcements(&core.rules(), &announced);
    // The store compares the new list with those that are alive, so the earlier one goes first.
    *announced = Arc::clone(&new);
    drop(announced);
    core.store.announce(&new);
    if let Some(local) = core.local.get() {
        local.announce(&new);
    }
}

/// The policies of `rules`, each once. `before` was announced last.
fn announcements(rules: &RuleSet, before: &[Announcement]) -> Arc<[Announcement]> {
    let announcement = |rule: &Rule| {
        let policy = rule.charge.policy;
        let before = before.iter().find(|known| known.policy == policy);
        Announcement {
            name: rule.policy.name().to_owned(),
            policy,
            settings: english::settings(&rule.policy, rule.entry.labels.key_kinds()),
            before: before.map(|before| before.settings.clone()),
        }
    };
    rules.policies().map(announcement).collect()
}

/// The lines as one of some thousand bytes at most, and how many more there are.
#[cfg(feature = "tracing")]
fn in_one_line(lines: &str) -> String {
    const MAX_BYTES: usize = 4_000;
    let mut line = String::new();
    let mut rest = lines.lines();
    for one in rest.by_ref() {
        if line.len().saturating_add(one.len()) > MAX_BYTES && !line.is_empty() {
            return format!("{line}; and {} more", rest.count().saturating_add(1));
        }
        line.push_str(if line.is_empty() { "" } else { "; " });
        line.push_str(one);
    }
    line
}

/// Logs what was applied, or all that is wrong, as one event.
fn report(applied: &Result<Changes, BuildError>) {
    #[cfg(feature = "tracing")]
    match applied {
        Ok(changes) if changes.is_empty() => tracing::info!("the limits were applied: no changes"),
        Ok(changes) => {
            tracing::info!(changes = %in_one_line(&changes.to_string()), "the limits were applied")
        }
        Err(error) => tracing::error!(
            problems = %in_one_line(&error.to_string()),
            "the limits were not applied, and nothing has changed"
        ),
    }
    #[cfg(not(feature = "tracing"))]
    let _ = applied;
}

#[cfg(all(test, feature = "tracing"))]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_log_has_some_of_many_problems() {
        assert_eq!(in_one_line("a\nb"), "a; b");
        let many = "a problem of a hundred letters\n".repeat(10_000);
        let line = in_one_line(&many);
        assert!(line.len() < 5_000 && line.ends_with(" more"), "{line}");
        let told = line.matches("a problem").count();
        assert!(line.ends_with(&format!("; and {} more", 10_000 - told)), "{line}");
    }
}
