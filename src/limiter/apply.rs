//! Replaces the limits of a limiter while it decides: [`Limiter::apply`].

use std::sync::{Arc, Weak};
#[cfg(feature = "config")]
use std::{fmt, path::Path};

use super::{
    Changes, Core, Limiter, LimiterBuilder,
    queue::MaxHeld,
    rules::{Rule, RuleSet},
};
#[cfg(feature = "metrics")]
use crate::metrics::count_reload;
use crate::{
    error::{BuildError, BuildProblem},
    policy::{Policy, english},
    store::{Announcement, Store},
};

/// What has settings that name policies of a limiter, such as a layer. An apply must not make these
/// settings wrong.
pub(crate) trait NamesPolicies: Send + Sync {
    /// What is wrong with the settings if these are the enforced policies for requests. It runs while
    /// no other apply does, so it must not run code of the user.
    fn problems(&self, policies: &[Policy]) -> Vec<BuildProblem>;
}

/// All that name policies of one limiter and are alive.
pub(super) type Namers = Vec<Weak<dyn NamesPolicies>>;

impl Limiter {
    /// Replaces the limits by those of `builder`: its policies, categories, exemptions, and bounds of
    /// held requests. All clones of the limiter, its layers and pages decide by them from now on.
    ///
    /// The new limits are built and validated first, as by [`build`](LimiterBuilder::build). If
    /// anything is wrong, nothing changes. Otherwise all of them apply at once. The store, the clock
    /// and the [caller](LimiterBuilder::caller) stay, and so do counts, leases, and
    /// [overrides](crate::Overrides):
    ///
    /// - A policy is the same one if it has the same name and the same algorithm. It keeps what its
    ///   keys have used, whatever its quota is now.
    /// - A new policy begins with nothing used. A policy that is gone limits no new request. If it
    ///   comes back, what its keys had used still counts, as long as it would have otherwise. The
    ///   same is true of overrides of its quota.
    /// - A request that is being decided ends under the policies that it began with. If it is
    ///   [held](Policy::hold), its quota is from now on the new one: it passes earlier under a larger
    ///   quota, and waits longer or is refused under a smaller one. Under a policy that is gone, it
    ///   waits as it would have, at most as long as the policy holds requests: new policies have not
    ///   counted it.
    /// - A response [settles](Policy::settle) the cost as the policy says then. If the policy is
    ///   gone, the charge stays as it is.
    /// - A [`PolicyHandle`](crate::PolicyHandle) finds its policy again by the name.
    ///
    /// A [layer](crate::RateLimitLayer) may name a policy, as by
    /// [`header_policy`](crate::RateLimitLayerBuilder::header_policy). Limits without that
    /// policy are an error, as long as the layer is there.
    ///
    /// With several replicas, apply the same limits on each. Until then they may differ: of one key,
    /// never more passes than the largest of the quotas allows.
    ///
    /// The limits of `build` are kept in memory as long as the limiter, and of all others only the last
    /// ones. For each new name of a policy, some hundred bytes are kept for the life of the process.
    ///
    /// ```
    /// use tower_quota::{Limiter, LimiterBuilder, Policy, Quota};
    ///
    /// fn limits(mails: u64) -> LimiterBuilder {
    ///     Limiter::builder().check_only(Policy::fixed_window("mails", Quota::per_day(mails)))
    /// }
    /// let limiter = limits(100).build()?;
    /// limiter.check("mails", "tenant-7").cost(30).at_once()?;
    ///
    /// let changes = limiter.apply(limits(200))?;
    /// assert_eq!(changes.to_string(), "policy `mails`: quota 100 per day → 200 per day");
    /// assert_eq!(limiter.peek("mails", "tenant-7").at_once()?.remaining(), 170);
    ///
    /// assert!(limiter.apply(limits(0)).is_err(), "and nothing has changed");
    /// assert_eq!(limiter.peek("mails", "tenant-7").at_once()?.remaining(), 170);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// All settings that cannot work, or cannot change: a store, a clock, another caller than the
    /// limiter's, and policies that a layer needs.
    pub fn apply(&self, builder: LimiterBuilder) -> Result<Changes, BuildError> {
        let applied = self.core.apply(builder);
        #[cfg(feature = "metrics")]
        count_reload(applied.is_ok());
        report(&applied);
        applied
    }

    /// Reports limits that could not be read, so that nothing was applied.
    #[cfg(feature = "config")]
    pub(crate) fn report_unread(file: &Path, problems: &dyn fmt::Display) {
        #[cfg(feature = "metrics")]
        count_reload(false);
        #[cfg(feature = "tracing")]
        tracing::error!(
            file = %file.display(),
            problems = problems.to_string().replace('\n', "; "),
            "the limits were not applied, and nothing has changed"
        );
        #[cfg(not(feature = "tracing"))]
        let _ = (file, problems);
    }

    /// Adds what names policies of this limiter, as long as it is alive.
    ///
    /// # Errors
    /// Its settings do not fit the current policies.
    pub(crate) fn add_namer<N: NamesPolicies + 'static>(
        &self,
        namer: &Arc<N>,
    ) -> Result<(), BuildError> {
        let mut namers = self.core.namers.lock();
        BuildError::if_any(namer.problems(&self.core.rules().enforced_for_requests()))?;
        namers.retain(|known| known.strong_count() > 0);
        let namer: Weak<N> = Arc::downgrade(namer);
        namers.push(namer);
        Ok(())
    }
}

impl Core {
    fn apply(&self, builder: LimiterBuilder) -> Result<Changes, BuildError> {
        let mut problems = builder.problems();
        problems.extend(builder.problems_of_change(self.caller.as_ref()));
        BuildError::if_any(problems)?;
        let max_held = builder.max_held;
        let mut rules = RuleSet::new(builder.policies, &self.keys);
        loop {
            // Without the lock, as this asks extractors for their names.
            let before = self.rules();
            let changes = Changes::between((&before, self.queue.max()), (&rules, max_held));
            match self.replace(before.number(), rules, max_held)? {
                Ok(()) => return Ok(changes),
                // Another apply was faster.
                Err(unused) => rules = unused,
            }
        }
    }

    /// Replaces the rules with the number `before`. Returns the new ones if the current rules are
    /// others.
    fn replace(
        &self,
        before: u64,
        rules: RuleSet,
        max_held: MaxHeld,
    ) -> Result<Result<(), RuleSet>, BuildError> {
        let namers = self.namers.lock();
        if self.rules().number() != before {
            return Ok(Err(rules));
        }
        let policies = rules.enforced_for_requests();
        let alive = namers.iter().filter_map(Weak::upgrade);
        BuildError::if_any(alive.flat_map(|namer| namer.problems(&policies)).collect())?;
        let old = self.rules.replace(rules);
        self.queue.set_max(max_held);
        drop(namers);
        drop(old);
        self.announce();
        self.queue.wake_all(self.clock.now());
        Ok(Ok(()))
    }

    /// Announces the current policies to the store.
    pub(super) fn announce(&self) {
        let mut announced = self.announced.lock();
        let new = announcements(&self.rules(), &announced);
        // The store compares the new list with those that are alive, so the earlier one goes first.
        *announced = Arc::clone(&new);
        drop(announced);
        self.store.announce(&new);
        if let Some(local) = self.local.get() {
            local.announce(&new);
        }
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

/// Logs what was applied, or all that is wrong, as one event.
fn report(applied: &Result<Changes, BuildError>) {
    #[cfg(feature = "tracing")]
    match applied {
        Ok(changes) if changes.is_empty() => tracing::info!("the limits were applied: no changes"),
        Ok(changes) => tracing::info!(changes = %changes.in_one_line(), "the limits were applied"),
        Err(error) => tracing::error!(
            problems = %error.in_one_line(),
            "the limits were not applied, and nothing has changed"
        ),
    }
    #[cfg(not(feature = "tracing"))]
    let _ = applied;
}
