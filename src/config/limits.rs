//! All limits of an API as data: [`Limits`].

use std::{collections::BTreeMap, path::Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Category, ClientIp, ConfigError, Key, Layer, Override, Policy, Registry, Requests,
    apply_overrides, build, file, is_default,
    source::{self, Source},
};
use crate::{
    layer::RateLimitLayerBuilder,
    limiter::{Limiter, LimiterBuilder, overrides::OverrideError},
};

/// All limits of an API as data, from a file or from any other format of serde.
///
/// The module's documentation has an example and all fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Limits {
    /// Whether no request is limited. Limits without any policy are an error unless this is set.
    #[serde(skip_serializing_if = "is_default")]
    pub no_limits: bool,
    /// Who sends a request, for [overrides](crate::overrides::Overrides).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Key>,
    /// [`LimiterBuilder::max_held`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_held: Option<usize>,
    /// [`LimiterBuilder::max_held_per_caller`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_held_per_caller: Option<usize>,
    /// [`LimiterBuilder::max_held_per_key`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_held_per_key: Option<usize>,
    /// The names of the policies that every request must pass.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub every_request: Vec<String>,
    /// The names of the policies that no request is counted by, for
    /// [`Limiter::check`](crate::Limiter::check). Each key has a quota of its own, unless the policy is
    /// `global`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub check_only: Vec<String>,
    /// Requests that are not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exempt: Vec<Requests>,
    /// How the client's address is read.
    #[serde(skip_serializing_if = "is_default")]
    pub client_ip: ClientIp,
    /// The responses.
    #[serde(skip_serializing_if = "is_default")]
    pub layer: Layer,
    /// The policies by their names. Each is used at least once.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub policies: BTreeMap<String, Policy>,
    /// The categories, in order: a request counts in the first that matches it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<Category>,
    /// Blocks and quotas of single callers. A caller has at most one for each policy, and one block.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<Override>,
    #[serde(skip)]
    pub(super) source: Source,
}

impl Limits {
    /// Reads a TOML file, and checks all that [`builder`](Self::builder) and [`layer`](Self::layer)
    /// would.
    ///
    /// # Errors
    /// The file cannot be read, is no regular file or is larger than 4 MiB, or says something that cannot be. The error has all problems, each
    /// with its line and what to write instead, but at most the first 100. If the file is no TOML, the
    /// error has the problems of its syntax.
    pub fn read(path: impl AsRef<Path>, registry: &Registry) -> Result<Self, ConfigError> {
        let name = path.as_ref().display().to_string();
        match file::read(path.as_ref()) {
            Ok(text) => source::load(&name, &text, registry),
            Err(error) => Err(source::unreadable(&name, &error)),
        }
    }

    /// As [`read`](Self::read), from a text.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_toml(text: &str, registry: &Registry) -> Result<Self, ConfigError> {
        source::load("", text, registry)
    }

    /// The limits as TOML, without settings that have their defaults. The keys of overrides and
    /// of [requests](Requests::Key) are in it, in plain text.
    #[must_use]
    #[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "it cannot fail")]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("tables, lists, texts and numbers are TOML")
    }

    /// The limiter of these limits. The store and the clock are not part of them: set them here.
    ///
    /// # Errors
    /// Something that cannot be: all that `build()` would find, a function that is not registered, an
    /// unknown policy, or one that is never used.
    pub fn builder(&self, registry: &Registry) -> Result<LimiterBuilder, ConfigError> {
        build::limiter(self, registry)
    }

    /// The layer of these limits around a limiter, which [`builder`](Self::builder) has built.
    ///
    /// # Errors
    /// As [`builder`](Self::builder).
    pub fn layer(
        &self,
        limiter: Limiter,
        registry: &Registry,
    ) -> Result<RateLimitLayerBuilder, ConfigError> {
        build::layer(self, limiter, registry)
    }

    /// Sets the [overrides](Self::overrides) of these limits, and ends those that an earlier call has set
    /// and these limits do not have. Returns how many it has set or ended.
    ///
    /// Call it after [`build`](crate::LimiterBuilder::build) or [`apply`](crate::Limiter::apply), as
    /// these do not set overrides. A [`Watch`](super::Watch) calls it whenever the file changes. It does
    /// again only what is missing, so it may be repeated after an error.
    ///
    /// - The author of such an override is `limits file`; by this it is recognised.
    /// - If an operator has set an override of the same caller and policy, that one stays. What the file
    ///   says is set by the first call after the operator's has ended.
    /// - If an operator ends an override of the file, the next call sets it again.
    /// - An override is set again if its quota or its reason is another, or its end differs by more
    ///   than 5 seconds.
    /// - One whose [`until`](Override::until) has passed is left out.
    ///
    /// Where a store [shares overrides](crate::overrides::Overrides), all replicas need the same ones in their
    /// files. It does not matter which of them applies its file first, or if all do. While a release
    /// brings in another file, the overrides are those of the replica that called this last: at its
    /// start, or when its file changed.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime, UNIX_EPOCH};
    ///
    /// use tower_quota::{
    ///     Reason,
    ///     config::{Key, Limits, Override, Registry},
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let registry = Registry::new();
    /// let text = r#"
    ///     check_only = ["mails"]
    ///     caller = { header = "x-tenant" }
    ///     policies.mails = { algorithm = "fixed_window", quota = "100 per day" }
    /// "#;
    /// let mut limits = Limits::from_toml(text, &registry)?;
    /// let limiter = limits.builder(&registry)?.build()?;
    ///
    /// let tomorrow = SystemTime::now().duration_since(UNIX_EPOCH)? + Duration::from_secs(86_400);
    /// limits.overrides.push(Override::block(["tenant-7"], tomorrow));
    /// assert_eq!(limits.apply_overrides(&limiter).await?, 1);
    /// assert_eq!(limiter.check("mails", "tenant-7").await?.reason(), Some(Reason::Blocked));
    ///
    /// limits.overrides.clear();
    /// assert_eq!(limits.apply_overrides(&limiter).await?, 1);
    /// assert!(limiter.check("mails", "tenant-7").await?.is_allowed());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The first that setting or ending one has had; what came before it was done.
    /// [`OverrideError::Store`] if the store does not answer; [`OverrideError::Full`];
    /// [`OverrideError::NoCaller`], [`OverrideError::UnfitKey`], [`OverrideError::UnknownPolicy`] and
    /// [`OverrideError::InvalidQuota`] if the limiter has other limits than these;
    /// [`OverrideError::InvalidTime`] if an end is more than 366 days ahead by the limiter's clock.
    pub async fn apply_overrides(&self, limiter: &Limiter) -> Result<usize, OverrideError> {
        apply_overrides::apply(&self.overrides, limiter).await
    }

    /// The JSON Schema of limits (draft 2020-12), by which editors complete and check a file.
    #[must_use]
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(Self).to_value()
    }
}
