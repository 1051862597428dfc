//! The functions of a program that a file names: [`Registry`].

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use http::{Response, request::Parts, response};

use super::{key::BUILT_IN, nearest::instead};
use crate::{key::KeyExtractor, layer::Rejection, quota::Quota};

pub(super) type Cost = Arc<dyn Fn(&Parts) -> u64 + Send + Sync>;
pub(super) type Matches = Arc<dyn Fn(&Parts) -> bool + Send + Sync>;
pub(super) type PlanName = Arc<dyn Fn(&Parts) -> Option<&str> + Send + Sync>;
pub(super) type QuotaBy = Arc<dyn Fn(&Parts) -> Option<Quota> + Send + Sync>;
pub(super) type Settle = Arc<dyn Fn(&response::Parts) -> Option<u64> + Send + Sync>;
pub(super) type Render = Arc<dyn Fn(&Rejection) -> Response<Bytes> + Send + Sync>;

/// The functions of a program that a file of [`Limits`](super::Limits) can name.
///
/// A file that names a function which is not registered is an error, and the error lists those that
/// are. A name may be used once for each kind of function.
///
/// ```
/// use tower_quota::{Quota, config::Registry, key};
///
/// #[derive(Clone)]
/// struct Tenant { id: String, plan: String }
///
/// let registry = Registry::new()
///     .key("tenant", key::extension("tenant", |tenant: &Tenant| tenant.id.as_str().into()))
///     .plan("plan of the tenant", |request| {
///         request.extensions.get().map(|tenant: &Tenant| tenant.plan.as_str())
///     })
///     .cost("rows", |request| match request.uri.path() {
///         "/v1/export" => 100,
///         _ => 1,
///     });
/// # let _ = registry;
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct Registry {
    pub(super) keys: Named<Arc<dyn KeyExtractor>>,
    pub(super) matchers: Named<Matches>,
    pub(super) plans: Named<PlanName>,
    pub(super) quotas: Named<QuotaBy>,
    pub(super) costs: Named<Cost>,
    pub(super) settles: Named<Settle>,
    pub(super) rejections: Named<Render>,
    pub(super) caller_secret: Option<u128>,
    /// Names that were registered twice, or that mean something else.
    pub(super) problems: Vec<String>,
}

/// Functions of one kind, by name.
#[derive(Clone)]
pub(super) struct Named<T>(BTreeMap<String, T>);

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Named<T> {
    /// The function of this name, or what to write instead. `kind` is the name of the method that
    /// registers it.
    pub(super) fn get(&self, kind: &str, name: &str) -> Result<&T, String> {
        self.0.get(name).ok_or_else(|| {
            let (what, built_in) = match kind {
                "key" => ("key".to_owned(), &BUILT_IN[..]),
                "matcher" => ("function for requests".to_owned(), &[][..]),
                kind => (format!("function for `{kind}`"), &[][..]),
            };
            let known = self.0.keys().map(|name| &**name).chain(built_in.iter().copied());
            let shown = name.escape_debug();
            match instead(name, known) {
                Some(instead) => format!("no {what} is registered as `{shown}`; {instead}"),
                None => {
                    let setting =
                        if kind == "matcher" { "it".to_owned() } else { format!("`{kind}`") };
                    format!(
                        "no {what} is registered, and the file names `{shown}`; register it in the \
                         program, or leave {setting} out"
                    )
                }
            }
        })
    }
}

impl Registry {
    /// A registry without functions.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers an extractor, for [`keys`](super::Policy::keys) and
    /// [`caller`](super::Limits::caller). The names `ip` and `bearer` are taken.
    pub fn key(mut self, name: impl Into<String>, extractor: impl KeyExtractor) -> Self {
        let name = name.into();
        if BUILT_IN.contains(&&*name) {
            self.problems.push(format!(
                "the key `{name}` is built in; register the program's under another name"
            ));
        }
        let twice = self.keys.0.insert(name.clone(), Arc::new(extractor)).is_some();
        self.check(twice, "key", &name)
    }

    /// Sets the [secret](crate::key::Caller::secret) of a file's [`caller`](super::Limits::caller). With it,
    /// [`Overrides::save`](crate::overrides::Overrides::save) works, and a request log knows callers by the same
    /// fingerprints. Default: that of the limiter's store, or else a random one for each process.
    ///
    /// A [`Caller`](crate::key::Caller) that is set on the builder replaces that of the file. Then the
    /// file can be applied again only if it finds callers by the same extractor.
    ///
    /// ```
    /// use tower_quota::config::{Limits, Registry};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let hex = "8c1e6a0f5d2b49739e04c7d1a6b8f352"; // from a secret store, not from the source
    /// let registry = Registry::new().caller_secret(u128::from_str_radix(hex, 16)?);
    /// let text = r#"
    ///     check_only = ["mails"]
    ///     caller = { header = "x-tenant" }
    ///     policies.mails = { algorithm = "fixed_window", quota = "100 per day" }
    /// "#;
    /// let limiter = Limits::from_toml(text, &registry)?.builder(&registry)?.build()?;
    /// let saved = limiter.overrides().save()?;
    /// # let _ = saved;
    /// # Ok(())
    /// # }
    /// ```
    pub fn caller_secret(mut self, secret: u128) -> Self {
        self.caller_secret = Some(secret);
        self
    }

    /// Registers a function that selects requests, for `{ function = "…" }`.
    pub fn matcher(
        mut self,
        name: impl Into<String>,
        matches: impl Fn(&Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        let twice = self.matchers.0.insert(name.clone(), Arc::new(matches)).is_some();
        self.check(twice, "matcher", &name)
    }

    /// Registers a function that names the plan of a request, for [`plan`](super::Policy::plan).
    pub fn plan(
        mut self,
        name: impl Into<String>,
        plan: impl Fn(&Parts) -> Option<&str> + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        let twice = self.plans.0.insert(name.clone(), Arc::new(plan)).is_some();
        self.check(twice, "plan", &name)
    }

    /// Registers a function that returns the quota of a request, for
    /// [`quota_by`](super::Policy::quota_by).
    pub fn quota_by(
        mut self,
        name: impl Into<String>,
        quota_by: impl Fn(&Parts) -> Option<Quota> + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        let twice = self.quotas.0.insert(name.clone(), Arc::new(quota_by)).is_some();
        self.check(twice, "quota_by", &name)
    }

    /// Registers a function that returns what a request costs, for [`cost`](super::Policy::cost).
    pub fn cost(
        mut self,
        name: impl Into<String>,
        cost: impl Fn(&Parts) -> u64 + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        let twice = self.costs.0.insert(name.clone(), Arc::new(cost)).is_some();
        self.check(twice, "cost", &name)
    }

    /// Registers a function that corrects a cost by the response, for
    /// [`settle`](super::Policy::settle).
    pub fn settle(
        mut self,
        name: impl Into<String>,
        cost: impl Fn(&response::Parts) -> Option<u64> + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        let twice = self.settles.0.insert(name.clone(), Arc::new(cost)).is_some();
        self.check(twice, "settle", &name)
    }

    /// Registers a response to refused requests, for [`on_rejection`](super::Layer::on_rejection).
    /// The closure is as for
    /// [`RateLimitLayerBuilder::on_rejection`](crate::RateLimitLayerBuilder::on_rejection).
    pub fn on_rejection<F, B>(mut self, name: impl Into<String>, respond: F) -> Self
    where
        F: Fn(&Rejection) -> Response<B> + Send + Sync + 'static,
        B: Into<Bytes>,
    {
        let name = name.into();
        let render: Render = Arc::new(move |rejection| respond(rejection).map(Into::into));
        let twice = self.rejections.0.insert(name.clone(), render).is_some();
        self.check(twice, "on_rejection", &name)
    }

    fn check(mut self, twice: bool, kind: &str, name: &str) -> Self {
        if twice {
            self.problems.push(format!(
                "`Registry::{kind}` is called twice for `{name}`, and the first would be lost; give \
                 each its own name"
            ));
        }
        self
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("key", &self.keys)
            .field("matcher", &self.matchers)
            .field("plan", &self.plans)
            .field("quota_by", &self.quotas)
            .field("cost", &self.costs)
            .field("settle", &self.settles)
            .field("on_rejection", &self.rejections)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}
