//! Problem details: [`Problem`].

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;
use http::Response;

use crate::{decision::Outcome, rejection::Rejection, response::object::Object};

/// The problem type of draft-ietf-httpapi-ratelimit-headers-11, section 5.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

type Title = Arc<dyn Fn(&Rejection) -> Cow<'static, str> + Send + Sync>;

/// `application/problem+json` (RFC 9457): a type of the house's own, or
/// [`quota_exceeded`](Self::quota_exceeded).
///
/// A request that lacks its key has exceeded no quota: it is answered with the type `about:blank`,
/// the title `Bad Request`, and the message as `detail`.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota, Rejection, response::Problem};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let problem = Problem::new("https://gateway/errors/rate-limited")
///     .title(|rejection| format!("Budget `{}` is spent", rejection.policy()));
///
/// let limiter =
///     Limiter::builder().direct(Policy::token_bucket("tenant", Quota::per_hour(1))).build()?;
/// limiter.check("tenant", "key").await?;
/// let refused = limiter.check("tenant", "key").await?;
/// let rejection = Rejection::of(&refused).expect("the second is one too many");
/// assert_eq!(
///     problem.respond(&rejection).into_body(),
///     r#"{"type":"https://gateway/errors/rate-limited","title":"Budget `tenant` is spent","status":429}"#,
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Problem {
    kind: Cow<'static, str>,
    title: Option<Title>,
    instance: bool,
    violated_policies: bool,
}

impl Problem {
    /// Of this type, which is a URI. The title is `Too Many Requests` unless
    /// [told otherwise](Self::title).
    pub fn new(type_uri: impl Into<Cow<'static, str>>) -> Self {
        let kind = type_uri.into();
        Self { kind, title: None, instance: false, violated_policies: false }
    }

    /// Of the type `quota-exceeded` (draft-ietf-httpapi-ratelimit-headers-11, section 5), with the
    /// names of all policies that refuse in `violated-policies`, the longest wait first.
    pub fn quota_exceeded() -> Self {
        let problem = Self::new(QUOTA_EXCEEDED).title(|_| "Quota exceeded");
        Self { violated_policies: true, ..problem }
    }

    /// The title, by a closure: `|_| "Too fast"`.
    pub fn title<T: Into<Cow<'static, str>>>(
        mut self,
        title: impl Fn(&Rejection) -> T + Send + Sync + 'static,
    ) -> Self {
        self.title = Some(Arc::new(move |rejection| title(rejection).into()));
        self
    }

    /// Adds `instance`: the request's [id](Rejection::request_id), where it has one.
    pub fn instance(mut self) -> Self {
        self.instance = true;
        self
    }

    /// The response to one rejection.
    #[must_use]
    pub fn respond(&self, rejection: &Rejection) -> Response<Bytes> {
        let status = rejection.status();
        let phrase = || Cow::from(status.canonical_reason().unwrap_or_default());
        let counted = rejection.reason().is_counted();
        let mut body = Object::new();
        if counted {
            let title = self.title.as_ref().map_or_else(phrase, |title| title(rejection));
            body.text("type", &self.kind);
            body.text("title", &title);
        } else {
            body.text("type", "about:blank");
            body.text("title", &phrase());
        }
        body.number("status", status.as_u16().into());
        if !counted {
            body.text_by("detail", |to| rejection.push_text(to));
        }
        if let Some(id) = rejection.request_id().filter(|_| self.instance) {
            body.text("instance", id);
        }
        if counted && self.violated_policies {
            body.texts("violated-policies", rejection.refusing().map(Outcome::policy));
        }
        rejection.respond("application/problem+json", body.end())
    }

    /// For [`on_rejection`](crate::RateLimitLayerBuilder::on_rejection).
    pub fn renderer(self) -> impl Fn(&Rejection) -> Response<Bytes> + Send + Sync + 'static {
        move |rejection| self.respond(rejection)
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problem")
            .field("type", &self.kind)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}
