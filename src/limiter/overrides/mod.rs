//! Blocks and quotas for single callers.
//!
//! An operator sets them for a time with [`Overrides`], from
//! [`Limiter::overrides`](crate::Limiter::overrides). They may also come from a database or another
//! service: an [`OverrideSource`], which a limiter asks through a [`CachedSource`].

// `ActiveOverrides` knows what holds now. It keeps that in the `OverrideTable`, and reads the changes of
// a store that shares overrides. `OverrideChange` makes one change.

mod active;
mod awaited;
mod callers_own;
mod change;
mod error;
mod known;
mod penalties;
mod saved;
mod source;
mod table;

use std::time::Duration;

pub(super) use self::source::{Answer, Ask, SourceCache};
pub(super) use self::{active::ActiveOverrides, awaited::AwaitedCaller, callers_own::CallersOwn};
pub use self::{
    change::OverrideChange,
    error::OverrideError,
    saved::SavedOverrides,
    source::{CachedSource, OnSourceFailure, OverrideSource, SourceFuture, SourceOverrides},
};
use self::{change::What, penalties::Penalties};
use super::Limiter;
pub use crate::override_record::{Override, OverrideKind};
use crate::{
    key::{Fingerprint, Key},
    policy::quota_problem,
    quota::Quota,
};

/// Blocks single callers, or gives them other quotas, for a time. From [`Limiter::overrides`].
///
/// An override applies to all requests, checks, peeks and refunds of one caller. The caller of a
/// request is what [`LimiterBuilder::caller`](crate::LimiterBuilder::caller) finds; the caller of a
/// [`check`](Limiter::check) is its key.
///
/// A block comes before exemptions and all policies. The decision has the verdict
/// [`Blocked`](crate::Verdict::Blocked), and nothing is charged. While any caller has an override,
/// a request whose caller cannot be read is refused, as it may be that caller.
///
/// ```
/// use std::time::Duration;
///
/// use tower_quota::{Limiter, Policy, Quota, Reason, key};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let reads = Policy::fixed_window("read", Quota::per_minute(60)).key(key::bearer()).or_refuse();
/// let limiter = Limiter::builder().policy(reads).caller(key::bearer()).build()?;
///
/// let hour = Duration::from_secs(3_600);
/// let caller = limiter.overrides().caller("sk_live_1")?;
/// caller.set_quota("read", Quota::per_minute(600), hour).reason("migration").await?;
/// assert_eq!(limiter.check("read", "sk_live_1").await?.remaining(), 599);
/// caller.block(hour).reason("scraping").author("ana").await?;
/// let decision = limiter.check("read", "sk_live_1").await?;
/// assert_eq!(decision.reason(), Some(Reason::Blocked));
/// assert_eq!(limiter.overrides().list().len(), 2);
/// # Ok(())
/// # }
/// ```
///
/// # Time
/// An override lasts for at most 366 days. Its end is a time of the wall clock: the limiter's, or the
/// store's if that shares overrides. A process that knows an override counts its time by a clock that
/// cannot be set. So if the wall clock is set, the override lasts as long as it was set for. If the
/// wall clock is set back while a process restarts, the override may last that much longer in the new
/// process, but at most as long again as it was set for.
///
/// # Where they are kept
/// At most 10,000 overrides exist at once. With a [`RedisStore`](crate::store), all replicas share
/// them: they hold everywhere within a second, and survive a restart as the server's data does. No
/// request asks the server for them. While the server does not answer, what is known holds until its
/// end, and a change is an error. A process that starts meanwhile knows none, gives the warning
/// [`overrides_unknown`](crate::warning#overrides_unknown), and reads them as soon as the server answers.
///
/// With any other store, they exist in this process and end with it, unless you [save](Self::save)
/// them and [load](Self::load) them again.
#[derive(Clone, Debug)]
pub struct Overrides {
    pub(super) limiter: Limiter,
}

/// The overrides of one caller, from [`Overrides::caller`].
#[derive(Clone, Debug)]
pub struct CallerOverrides {
    limiter: Limiter,
    caller: Fingerprint,
    /// Its key; `None` if only the fingerprint is known.
    key: Option<Key<'static>>,
}

impl Overrides {
    /// The overrides of the caller with this key.
    ///
    /// # Errors
    /// [`OverrideError::NoCaller`] if the limiter has policies for requests and no
    /// [`caller`](crate::LimiterBuilder::caller): the override would not apply to requests.
    /// [`OverrideError::UnfitKey`] if no request can have this key.
    pub fn caller<'k>(&self, key: impl Into<Key<'k>>) -> Result<CallerOverrides, OverrideError> {
        let caller = self.limiter.core.caller_of_key(key.into());
        let (caller, key) = caller.ok_or(OverrideError::UnfitKey)?;
        let caller = self.by_fingerprint(Fingerprint(caller))?;
        Ok(CallerOverrides { key: Some(key.into_owned()), ..caller })
    }

    /// The overrides of the caller with this fingerprint, such as one from [`list`](Self::list), or
    /// from a request log that uses the same [`Caller`](crate::key::Caller).
    ///
    /// # Errors
    /// [`OverrideError::NoCaller`], as in [`caller`](Self::caller).
    pub fn by_fingerprint(&self, caller: Fingerprint) -> Result<CallerOverrides, OverrideError> {
        let core = &*self.limiter.core;
        if core.caller.is_none() && core.rules().for_requests().next().is_some() {
            return Err(OverrideError::NoCaller);
        }
        Ok(CallerOverrides { limiter: self.limiter.clone(), caller, key: None })
    }

    /// All overrides that apply now, in the order in which they were set.
    #[must_use]
    pub fn list(&self) -> Vec<Override> {
        let overrides = &self.limiter.core.overrides;
        let mut all = overrides.table.all(self.limiter.now());
        all.sort_by(|a, b| (a.since, a.caller, a.policy()).cmp(&(b.since, b.caller, b.policy())));
        all
    }

    /// Reads what other processes have changed meanwhile, if the store shares overrides.
    #[cfg(feature = "config")]
    pub(crate) async fn refresh(&self) -> Result<(), OverrideError> {
        self.limiter.core.overrides.refresh().await
    }

    /// All overrides as data, to be [loaded](Self::load) by the next process. The limiter's
    /// [`Caller`](crate::key::Caller) needs a secret, so that the next process knows callers by the
    /// same fingerprints. With limits in a file, `config::Registry::caller_secret` sets it.
    ///
    /// Save under a lock: an older list must not replace a newer one, and two writers must not share the
    /// file.
    ///
    /// ```
    /// use std::{error::Error, fs, path::Path, sync::Mutex, time::Duration};
    ///
    /// use tower_quota::{
    ///     BuildError, Limiter,
    ///     key::{self, Caller},
    ///     overrides::SavedOverrides,
    /// };
    ///
    /// fn start() -> Result<Limiter, BuildError> {
    ///     let secret = 0x8c1e_6a0f_5d2b_4973_9e04_c7d1_a6b8_f352; // from your secret store
    ///     Limiter::builder().caller(Caller::new(key::bearer()).secret(secret)).build()
    /// }
    ///
    /// /// Call it after each change.
    /// fn save(limiter: &Limiter, path: &Path) -> Result<(), Box<dyn Error>> {
    ///     static SAVING: Mutex<()> = Mutex::new(());
    ///     // Lock first, and then list the overrides.
    ///     let _saving = SAVING.lock();
    ///     let text = serde_json::to_string(&limiter.overrides().save()?)?;
    ///     // A rename keeps the file whole if the process ends meanwhile.
    ///     let new = path.with_extension("new");
    ///     fs::write(&new, text)?;
    ///     Ok(fs::rename(&new, path)?)
    /// }
    ///
    /// # fn main() -> Result<(), Box<dyn Error>> {
    /// # let path = std::env::temp_dir().join(format!("overrides-{}.json", std::process::id()));
    /// let limiter = start()?;
    /// limiter.overrides().caller("sk_live_1")?.block(Duration::from_secs(3_600)).at_once()?;
    /// save(&limiter, &path)?;
    ///
    /// // When the next process starts:
    /// let limiter = start()?;
    /// let saved: SavedOverrides = serde_json::from_str(&fs::read_to_string(&path)?)?;
    /// limiter.overrides().load(saved)?;
    /// assert_eq!(limiter.overrides().list().len(), 1);
    /// # fs::remove_file(&path)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`OverrideError::NoSecret`].
    pub fn save(&self) -> Result<SavedOverrides, OverrideError> {
        Ok(SavedOverrides::new(self.limiter.core.lasting_fingerprints()?, self.list()))
    }

    /// Loads overrides that a process with the same secret has saved, beside those that there are
    /// already. An override of the same caller and policy is replaced. What has ended meanwhile is
    /// left out; an override of a policy that the limiter does not have is kept.
    ///
    /// A store that shares overrides keeps them itself. To move saved ones into it, set each of them once.
    /// The [`Caller`](crate::key::Caller) needs the secret by which they were saved:
    ///
    /// ```
    /// use std::time::SystemTime;
    ///
    /// use tower_quota::{
    ///     Limiter,
    ///     overrides::{OverrideError, OverrideKind, SavedOverrides},
    /// };
    ///
    /// async fn move_into_store(limiter: &Limiter, saved: &SavedOverrides) -> Result<(), OverrideError> {
    ///     let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    ///     for saved in saved.overrides() {
    ///         let left = saved.until.saturating_sub(now);
    ///         if left.is_zero() {
    ///             continue;
    ///         }
    ///         let caller = limiter.overrides().by_fingerprint(saved.caller)?;
    ///         let mut change = match &saved.kind {
    ///             OverrideKind::Quota { policy, quota } => caller.set_quota(policy, *quota, left),
    ///             _ => caller.block(left),
    ///         };
    ///         if let Some(reason) = &saved.reason {
    ///             change = change.reason(reason);
    ///         }
    ///         if let Some(author) = &saved.author {
    ///             change = change.author(author);
    ///         }
    ///         change.await?;
    ///     }
    ///     Ok(())
    /// }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// # use tower_quota::{Quota, Policy, key::{self, Caller}};
    /// # let start = || {
    /// #     let mails = Policy::fixed_window("mails", Quota::per_day(9));
    /// #     let caller = Caller::new(key::bearer()).secret(7);
    /// #     Limiter::builder().check_only(mails).caller(caller).build()
    /// # };
    /// # let (before, after) = (start()?, start()?);
    /// # let caller = before.overrides().caller("a")?;
    /// # caller.block(Duration::from_secs(60)).reason("scraping").author("ana").await?;
    /// # caller.set_quota("mails", Quota::per_day(5), Duration::from_secs(60)).await?;
    /// # move_into_store(&after, &before.overrides().save()?).await?;
    /// # let told = |limiter: &Limiter| {
    /// #     let mut all = limiter.overrides().list();
    /// #     all.sort_by_key(|own| own.policy().map(str::to_owned));
    /// #     all.into_iter().map(|own| (own.caller, own.kind, own.reason, own.author)).collect::<Vec<_>>()
    /// # };
    /// # assert_eq!(told(&after), told(&before));
    /// # assert_eq!(told(&after).len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`OverrideError::NoSecret`], [`OverrideError::OtherSecret`]; [`OverrideError::KeptByStore`] if
    /// the store shares overrides; [`OverrideError::Full`], after some were loaded.
    pub fn load(&self, saved: SavedOverrides) -> Result<(), OverrideError> {
        let core = &self.limiter.core;
        if core.overrides.is_shared() {
            return Err(OverrideError::KeptByStore);
        }
        saved
            .for_secret(core.lasting_fingerprints()?)?
            .into_iter()
            .try_for_each(|saved| core.overrides.load(saved))
    }
}

impl CallerOverrides {
    /// Refuses all requests and checks of the caller for `time` from now. It replaces an earlier
    /// block. Requests that are held already are decided as they came.
    ///
    /// # Errors
    /// The change fails with [`OverrideError::InvalidTime`] for less than a microsecond or more than
    /// 366 days; [`OverrideError::InvalidText`]; [`OverrideError::Full`]; [`OverrideError::Store`].
    pub fn block(&self, time: Duration) -> OverrideChange {
        self.change(Ok(What::Set { kind: OverrideKind::Block, time }))
    }

    /// Ends the caller's block, and lifts its [penalties](crate::Penalty). The result of the change is
    /// empty if no operator had blocked it.
    ///
    /// Penalties are lifted under each policy that counts by the same kind of key as the limiter's
    /// [`caller`](crate::LimiterBuilder::caller), and under each that has no kind of key, as only checks
    /// use it. Their blocks end, and what counted towards the next is forgotten; what was used stays used.
    /// Penalties of other kinds of key stay: [`Limiter::reset`](crate::Limiter::reset) lifts them. So do all
    /// penalties if the caller is known [by its fingerprint](Overrides::by_fingerprint) only. Where replicas
    /// share penalties, the others know within a second.
    ///
    /// # Errors
    /// The change fails with [`OverrideError::Store`].
    pub fn unblock(&self) -> OverrideChange {
        let penalties = self.key.as_ref().map(|key| Penalties::of(&self.limiter, key));
        self.change(Ok(What::End { policy: None })).lift(penalties)
    }

    /// Gives the caller another quota under a policy for `time` from now. Units that the caller has
    /// used still count. A quota of zero units refuses the caller under this policy.
    ///
    /// The new quota replaces the old one as a whole. If that has a [burst](Quota::burst), set one here
    /// too: without it, the caller may use all units of a window at once.
    ///
    /// # Errors
    /// The change fails with [`OverrideError::UnknownPolicy`], [`OverrideError::InvalidQuota`], and
    /// with those of [`block`](Self::block).
    pub fn set_quota(&self, policy: &str, quota: Quota, time: Duration) -> OverrideChange {
        let rules = self.limiter.core.rules();
        let what = match rules.by_name(policy) {
            None => Err(OverrideError::UnknownPolicy(policy.to_owned())),
            Some(rule) => {
                // No units may be set, but else the quota is one that `build()` accepts. So it is
                // read again as it was saved.
                let checked = if quota.units() == 0 { quota.with_units(1) } else { quota };
                let problem = quota_problem(rule.policy.algorithm(), &checked);
                let policy = policy.to_owned();
                match problem {
                    Some(problem) => Err(OverrideError::InvalidQuota { policy, problem }),
                    None => Ok(What::Set { kind: OverrideKind::Quota { policy, quota }, time }),
                }
            }
        };
        self.change(what)
    }

    /// Ends the caller's quota override under a policy. The result of the change is empty if there
    /// was none. The policy may be one that the limiter does not have any more.
    ///
    /// # Errors
    /// The change fails with [`OverrideError::Store`].
    pub fn restore_quota(&self, policy: &str) -> OverrideChange {
        self.change(Ok(What::End { policy: Some(policy.to_owned()) }))
    }

    /// Ends all overrides of the caller.
    ///
    /// # Errors
    /// The change fails with [`OverrideError::Store`].
    pub fn end_all(&self) -> OverrideChange {
        self.change(Ok(What::EndAll))
    }

    /// The caller's overrides that apply now, in the order in which they were set.
    #[must_use]
    pub fn list(&self) -> Vec<Override> {
        let overrides = &self.limiter.core.overrides;
        let now = self.limiter.now();
        let own = overrides.table.get(self.caller.0, now);
        own.iter().flat_map(|own| own.views(now)).collect()
    }

    /// The caller.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.caller
    }

    fn change(&self, what: Result<What, OverrideError>) -> OverrideChange {
        OverrideChange::new(&self.limiter.core.overrides, self.caller, what)
    }
}
