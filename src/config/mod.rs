//! Limits as data: from a TOML file, or from any other format of serde.
//!
//! A file says what a [builder](crate::LimiterBuilder) says. A function of the program goes by the
//! name under which the program has registered it:
//!
//! ```
//! use tower_quota::{
//!     Limiter, RateLimitLayer,
//!     config::{ConfigError, Limits, Registry},
//!     key,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #[derive(Clone)]
//! struct Tenant { id: String, plan: String } // your middleware leaves it in the request
//!
//! let text = r#"
//! exempt = ["/health", { client_ip = ["10.1.0.0/16"] }]
//! every_request = ["per address"]
//! check_only = ["deliveries"]
//! caller = "tenant"
//!
//! [client_ip]
//! trust_proxies = ["10.0.0.0/8"]
//!
//! [policies."per address"]
//! algorithm = "token_bucket"
//! quota = "600 per minute, burst 50"
//! keys = ["ip"]
//! without_key = "refuse"
//! dry_run = true
//!
//! [policies.read]
//! algorithm = "sliding_window"
//! quota = "100 per minute"
//! keys = ["tenant", { header = "x-api-key" }, "ip"]
//! without_key = "refuse"
//! plan = "plan of the tenant"
//! plans = { free = "100 per minute", pro = "1000 per minute" }
//!
//! [policies.write]
//! algorithm = "sliding_window"
//! quota = "5 per 10 minutes"
//! keys = [["tenant", "ip"]]
//! without_key = "refuse"
//! hold = "0 seconds"
//! on_store_failure = { count_locally = { replicas = 3 } }
//!
//! [policies.deliveries]
//! algorithm = "fixed_window"
//! quota = "1_000 per day"
//!
//! [[categories]]
//! name = "read"
//! requests = ["GET /v1/{*rest}"]
//! policies = ["read"]
//! hold = "2 seconds"
//!
//! [[categories]]
//! name = "write"
//! requests = ["POST, PATCH, DELETE /v1/{*rest}", { function = "imports" }]
//! policies = ["read", "write"]
//!
//! [[overrides]]
//! key = "tenant-7"
//! policy = "read"
//! quota = "5,000 per minute"
//! until = 2027-01-31T00:00:00Z
//! reason = "migration"
//!
//! [layer]
//! headers = [{ x_ratelimit = { reset = "seconds" } }, "ratelimit_lists"]
//! header_policy = "read"
//! jitter_retry_after = "5 seconds"
//!
//! [layer.on_rejection.problem]
//! type = "https://example.com/errors/rate-limited"
//! title = "Too many requests of `{policy}`"
//! "#;
//!
//! let registry = Registry::new()
//!     .key("tenant", key::extension("tenant", |tenant: &Tenant| tenant.id.as_str().into()))
//!     .plan("plan of the tenant", |request| {
//!         request.extensions.get().map(|tenant: &Tenant| tenant.plan.as_str())
//!     })
//!     .matcher("imports", |request| request.headers.contains_key("x-import"));
//!
//! let limits = Limits::from_toml(text, &registry)?; // or `Limits::read("limits.toml", &registry)`
//! let limiter = limits.builder(&registry)?.build()?; // add `.store(…)` before `build`
//! let layer = limits.layer(limiter.clone(), &registry)?.build()?;
//! limits.apply_overrides(&limiter).await?;
//! # let _: RateLimitLayer = layer;
//!
//! // All mistakes come at once, each with its line and what to write instead.
//! let wrong = text.replace("quota = \"5 per", "qouta = \"0 per").replace("\"sliding", "\"gliding");
//! let error = Limits::from_toml(&wrong, &registry).expect_err("it has four mistakes");
//! assert_eq!(
//!     error.to_string(),
//!     "18:13: policy `read`: `gliding_window` is not known; write `sliding_window`\n\
//!      26:13: policy `write`: `gliding_window` is not known; write `sliding_window`\n\
//!      27:1: policy `write`: `qouta` is no setting here; write `quota`\n\
//!      27:9: policy `write`: a quota of 0 units refuses every request; write at least 1",
//! );
//! # Ok(())
//! # }
//! ```
//!
//! A [`Watch`] applies the file again whenever it changes, with its overrides. [`Limits::to_toml`] writes limits, and
//! [`Limits::json_schema`] is a schema by which editors complete and check a file.
//!
//! # What a file says
//! The names are those of the builders' methods, where the docs say more, and of
//! [`describe`](crate::Limiter::describe)'s JSON.
//!
//! | setting | value | default |
//! |---|---|---|
//! | `every_request` | names of policies | none |
//! | `check_only` | names of policies | none |
//! | `exempt` | a list of [requests](Requests) | none |
//! | `caller` | a [key](Key) | none |
//! | `max_held`, `max_held_per_caller`, `max_held_per_key` | a number | as [the builder's](crate::LimiterBuilder::max_held) |
//! | `no_limits` | whether no request is limited | `false` |
//! | **`[client_ip]`** | [how the client's address is read](ClientIp) | the peer's |
//! | `trust_proxies` | addresses and networks | none |
//! | `trust_hops` | the number of proxies | none |
//! | `header` | `"forwarded"`, or a header with one address | `"x-forwarded-for"` |
//! | `ipv4_prefix`, `ipv6_prefix` | how many bits count | 32, 64 |
//! | **`[policies.NAME]`** | [a policy](Policy) | |
//! | `algorithm` | `"token_bucket"`, `"fixed_window"`, `"sliding_window"`, `"in_flight"` | |
//! | `quota` | a quota | |
//! | `keys` | a list of [keys](Key), in the order in which they are tried | none |
//! | `without_key` | `"skip"`, `"refuse"` | none: say it if there are keys |
//! | `global` | whether all callers share the quota | `false` |
//! | `unreadable_as_missing` | `true`, `false` | `false` |
//! | `plan`, `plans` | the name of a function, and a table of quotas | none |
//! | `schedules` | a list like `[{ hours = "Mo-Fr 08:00-18:00", zone = "Europe/Berlin", quota = "50 per minute" }]`, with the feature `calendar`; not for requests with a plan or `quota_by` | none |
//! | `quota_by`, `cost`, `settle` | the name of a function | none |
//! | `settle_at_end` | `true`: the [meter](crate::Meter) of a request says at its end what it has cost | `false` |
//! | `penalty` | [blocks](Penalty), like `{ after = 5, refusals_within = "1 minute", blocks = ["2 minutes", "10 minutes"], forget_after = "1 day" }`; or `failures_within` | none |
//! | `unit` | the name of the units | `"requests"`, or `"concurrent-requests"` |
//! | `hold` | a time | as the category says |
//! | `retry_after` | a time; only for `"in_flight"` | none |
//! | `fair_by` | a [key](Key): the tenants that take turns where requests are held | none |
//! | `fair_weights` | a table like `{ free = 1, pro = 5 }`: the weights of tenants, by their `plan` | 1 each |
//! | `dry_run` | `true`, `false` | `false` |
//! | `on_store_failure` | `"allow"`, `"refuse"`, `{ count_locally = { replicas = 3 } }` | one replica |
//! | `lease` | units | 0 |
//! | `shard` | a [key](Key) | the policy's own |
//! | `or_else` | names of policies: a request that finds too little left draws on the first of these with room | none |
//! | **`[[categories]]`** | [a category](Category), in the order in which they are tried | |
//! | `name` | its name | |
//! | `requests` | a list of [requests](Requests) | |
//! | `policies` | names of policies | none |
//! | `hold` | a time | not at all |
//! | **`[[overrides]]`** | [a block or a quota of one caller](Override), until a date; see [`apply_overrides`](Limits::apply_overrides) | |
//! | `key` | the caller's key, a text; a list of texts if `caller` is several keys together; an address for `ip` | |
//! | `block` | whether the caller is refused | `false` |
//! | `policy`, `quota` | the name of a policy, and the caller's quota under it, instead of `block` | none |
//! | `until` | a date-time with an offset, such as `2027-01-31T00:00:00Z`; at most 366 days ahead | |
//! | `reason` | a text, at most 200 characters | none |
//! | **`[layer]`** | [the responses](Layer) | |
//! | `headers` | a list of [header styles](HeaderStyle) | `["x_ratelimit"]` |
//! | `header_policy` | the name of a policy | the tightest |
//! | `retry_after` | `true`, `false` | `true` |
//! | `jitter_retry_after` | a time | none |
//! | `on_rejection` | `"json"`, `"plain_text"`, `"problem"`, `{ problem = … }` ([fields](Problem)), `{ function = "…" }` | `"json"` |
//! | `expose_decision` | `true`, `false` | `false` |
//!
//! Quotas and times are texts, as limits are spoken of: `"100 per minute"`, `"5 per 10 minutes"`,
//! `"60 per minute, burst 10"`, `"unlimited"`, and with the feature `calendar`
//! `"10000 per calendar month from 15 in Asia/Shanghai"`, where `from` and `in` may be left out; `"2
//! seconds"`, `"500 milliseconds"`. The units of time are `day`, `hour`, `minute`, `second`,
//! `millisecond`, `microsecond` and `nanosecond`. A number may have `,` or `_` between thousands.
//!
//! The store, the clock and secrets are the program's: set them on the builder, and the secret of `caller`
//! by [`Registry::caller_secret`].
//! A key `{ body_field = … }` needs a [`BodyFieldLayer`](crate::BodyFieldLayer) in the program.
//!
//! # What is an error
//! - What does not parse, is not known, or has the wrong type; and all that `build()` would find.
//! - A function that is not registered: the error lists those that are.
//! - A policy that is named and not there, or there and not used.
//! - An override without its end, or whose end is more than 366 days ahead. One that has ended is no
//!   error, and is left out.
//! - Limits without any policy. If that is meant, write `no_limits = true`.

mod apply_overrides;
mod build;
mod category;
mod check_overrides;
mod error;
mod file;
mod key;
mod layer;
mod limits;
mod mistakes;
mod nearest;
mod off_runtime;
mod one_entry;
mod overrides;
mod phrases;
mod policy;
mod problems;
mod registry;
mod repair;
mod source;
mod text;
mod watch;

pub use self::{
    category::{Category, KnownKeys, Requests},
    error::{ConfigError, ConfigProblem},
    key::{ClientIp, Key, PathParam, Prefixes},
    layer::{HeaderStyle, Layer, OnRejection, Problem, StyleName},
    limits::Limits,
    overrides::Override,
    policy::{Penalty, Plans, Policy, Schedule, WithoutKey},
    registry::Registry,
    watch::Watch,
};

/// Whether a setting need not be written.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the documentation has all settings.
    #[test]
    fn each_setting_is_documented() {
        let schema = Limits::json_schema();
        let definitions = &schema["$defs"];
        let parts =
            ["ClientIp", "Policy", "Category", "Override", "Layer"].map(|name| &definitions[name]);
        let table: String =
            include_str!("mod.rs").lines().filter(|line| line.starts_with("//! |")).collect();
        for part in parts.into_iter().chain([&schema]) {
            for setting in part["properties"].as_object().unwrap().keys() {
                let is_part = ["client_ip", "policies", "categories", "overrides", "layer"]
                    .contains(&&**setting);
                let is_there = table.contains(&format!("`{setting}`"));
                assert!(is_there || is_part && table.contains(&format!("[{setting}")), "{setting}");
            }
        }
    }
}
