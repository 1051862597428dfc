//! Limits that document themselves: what a limiter does, as data, JSON, Markdown and HTML.
//!
//! [`RateLimitLayer::describe`](crate::RateLimitLayer::describe) reads it from the settings that
//! decide about requests, and has the layer answer a refusal for an example: what callers read can
//! not differ from what the server does.
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
//! With the feature `axum`, [`Description::route`] serves all three formats.
//!
//! No key is told, nor an address: only what kinds of key there are.

mod document;
mod html;
mod indent;
mod markdown;
mod message;
mod policy;
mod requests;
#[cfg(feature = "axum")]
mod route;

use serde::Serialize;

pub use self::{
    html::CONTENT_SECURITY_POLICY,
    message::{HeaderDescription, RefusalDescription, ResponseDescription},
    policy::{PlanDescription, PolicyDescription},
    requests::Requests,
};

/// What a limiter does; made by [`Limiter::describe`](crate::Limiter::describe), or with what
/// responses tell by [`RateLimitLayer::describe`](crate::RateLimitLayer::describe).
///
/// The module's documentation has an example. Its fields may be changed, where a page shall say
/// less.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Description {
    /// The heading. Default: `Rate limits`.
    pub title: String,
    /// The policies that every request must pass.
    pub every_request: Vec<PolicyDescription>,
    /// The categories, in the order in which they are asked: the first that matches is a request's
    /// only one.
    pub categories: Vec<CategoryDescription>,
    /// The policies that hold for no request: asked through
    /// [`Limiter::check`](crate::Limiter::check) only.
    pub direct: Vec<PolicyDescription>,
    /// The requests that are not counted at all.
    pub exempt: Vec<Requests>,
    /// What responses tell; `None` from a limiter, which knows of no responses.
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
    /// What they must pass, beside the policies of every request. Where a policy of the same name
    /// is in another category as well, both draw on one quota.
    pub policies: Vec<PolicyDescription>,
}

impl Description {
    /// With this heading, such as `Rate limits of the API`.
    #[must_use]
    pub fn title(self, title: impl Into<String>) -> Self {
        Self { title: title.into(), ..self }
    }

    /// As JSON, in the shape of these types' fields: durations in seconds, requests by what tells
    /// them (`"by"`: `endpoint`, `client_ip`, `key` or `function`).
    #[must_use]
    #[expect(clippy::expect_used, clippy::missing_panics_doc, reason = "it cannot fail")]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers, under names, are JSON")
    }

    /// As a page of Markdown (CommonMark, with GitHub's tables).
    #[must_use]
    pub fn to_markdown(&self) -> String {
        markdown::render(&self.title, &self.document())
    }

    /// As a page of HTML that needs no script and nothing of another host. Serve it with
    /// [`CONTENT_SECURITY_POLICY`].
    #[must_use]
    pub fn to_html(&self) -> String {
        html::render(&self.title, &self.document())
    }
}
