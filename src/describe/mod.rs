//! Limits that document themselves, as data, JSON, Markdown and HTML.
//!
//! [`RateLimitLayer::describe`](crate::RateLimitLayer::describe) reads the same settings that decide
//! about requests, and lets the layer answer a refusal as an example. So the documentation cannot
//! differ from what the server does.
//!
//! ```
//! use tower_quota::{Category, Limiter, Matcher, Policy, Quota, RateLimitLayer, key::ClientIp};
//!
//! let sign_in = Policy::sliding_window("sign-in", Quota::per_minute(10))
//!     .key(ClientIp::new())
//!     .or_refuse();
//! let auth = Category::new("auth").on(Matcher::post("/v1/sign-in")).policy(sign_in);
//! let limiter = Limiter::builder().category(auth).build()?;
//! let description = RateLimitLayer::new(limiter).describe().title("Rate limits of the API");
//!
//! let markdown = description.to_markdown();
//! assert!(markdown.starts_with("# Rate limits of the API\n"));
//! assert!(markdown.contains("| sign-in | 10 per minute _(sliding window)_ | ip "));
//! # Ok::<(), tower_quota::BuildError>(())
//! ```
//!
//! With the feature `axum`, [`RateLimitLayer::limits_route`](crate::RateLimitLayer::limits_route) serves all
//! three formats, of the limits that apply at each request.
//! [`Description::merge_into_openapi`] adds the limits to an OpenAPI document.
//!
//! A description contains no keys and no addresses, only kinds of key.

mod document;
mod html;
mod indent;
mod markdown;
mod message;
mod openapi;
mod policy;
mod requests;
#[cfg(feature = "axum")]
mod route;

use serde::Serialize;

#[cfg(feature = "calendar")]
pub use self::policy::ScheduleDescription;
#[cfg(feature = "axum")]
pub(crate) use self::route::live_route;
pub use self::{
    html::CONTENT_SECURITY_POLICY,
    message::{HeaderDescription, RefusalDescription, ResponseDescription},
    policy::{FairDescription, PlanDescription, PolicyDescription, WeightDescription},
    requests::Requests,
};
pub(crate) use self::{
    message::ExampleRefusal,
    policy::{is_false, optional_seconds, quota, seconds},
};

/// The limits of a limiter, from [`Limiter::describe`](crate::Limiter::describe). From
/// [`RateLimitLayer::describe`](crate::RateLimitLayer::describe), it also has the responses.
///
/// The module's documentation has an example. Change the fields if a page should say less.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Description {
    /// The heading. Default: `Rate limits`.
    pub title: String,
    /// The policies that every request must pass.
    pub every_request: Vec<PolicyDescription>,
    /// The categories, in order: the first that matches a request is its only one.
    pub categories: Vec<CategoryDescription>,
    /// The policies for [`Limiter::check`](crate::Limiter::check) only, which no request draws on.
    pub check_only: Vec<PolicyDescription>,
    /// The requests that are not counted at all.
    pub exempt: Vec<Requests>,
    /// The responses; `None` from a limiter, which has none.
    pub responses: Option<ResponseDescription>,
}

/// A category and its policies.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CategoryDescription {
    /// The name.
    pub name: String,
    /// Its requests.
    pub requests: Vec<Requests>,
    /// The policies that these requests must pass, in addition to those of every request. A policy
    /// with the same name in another category is the same policy, and shares its counts.
    pub policies: Vec<PolicyDescription>,
}

impl Description {
    /// Sets the heading, such as `Rate limits of the API`.
    #[must_use]
    pub fn title(self, title: impl Into<String>) -> Self {
        Self { title: title.into(), ..self }
    }

    /// The description as JSON, with the fields of these types. Durations are in seconds. Requests have
    /// a member `by`: `endpoint`, `client_ip`, `key`, `function`, `all`, `any` or `not`.
    #[must_use]
    #[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "it cannot fail")]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers, under names, are JSON")
    }

    /// The description as a page of Markdown (CommonMark, with GitHub's tables).
    #[must_use]
    pub fn to_markdown(&self) -> String {
        markdown::render(&self.title, &self.document())
    }

    /// The description as a page of HTML, without scripts, which loads no other files. Serve it
    /// with [`CONTENT_SECURITY_POLICY`].
    #[must_use]
    pub fn to_html(&self) -> String {
        html::render(&self.title, &self.document())
    }
}
