//! Problem details (RFC 9457): [`Problem`].

use std::{borrow::Cow, fmt, sync::Arc};

use bytes::Bytes;
use http::Response;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::{
    json_object::{ABOUT_BLANK, Object, PROBLEM},
    layer::rejection::Rejection,
    limiter::Reason,
};

/// The problem types of draft-ietf-httpapi-ratelimit-headers-11, section 5.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";
const REDUCED_CAPACITY: &str =
    "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity";
const ABNORMAL_USAGE: &str =
    "https://iana.org/assignments/http-problem-types#abnormal-usage-detected";

type Text = Arc<dyn Fn(&Rejection) -> Cow<'static, str> + Send + Sync>;
type Member = Arc<dyn Fn(&Rejection) -> Value + Send + Sync>;

/// A body of `application/problem+json` (RFC 9457), with [a type of your own](Self::new) or [the
/// standard types](Self::quota_exceeded).
///
/// If the request has exceeded no quota, for example because its key is missing, the type is
/// `about:blank`, the title is the name of the status, and `detail` is the message.
///
/// A refusal by a [penalty](crate::Penalty) has two members more: `"reason": "penalty"`, and `until`, the
/// Unix time in seconds at which the block ends.
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
///     Limiter::builder().check_only(Policy::token_bucket("tenant", Quota::per_hour(1))).build()?;
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
    title: Option<Text>,
    detail: Detail,
    instance: bool,
    members: Vec<(Cow<'static, str>, Member)>,
    /// Whether the types are those of the draft.
    drafted: bool,
}

#[derive(Clone)]
enum Detail {
    /// If no quota is exceeded.
    Seldom,
    /// The rejection's message.
    Message,
    Own(Text),
}

impl Problem {
    /// Problem details of this type, a URI. The title is `Too Many Requests` by default; see
    /// [`title`](Self::title).
    pub fn new(type_uri: impl Into<Cow<'static, str>>) -> Self {
        let kind = type_uri.into();
        let (detail, members) = (Detail::Seldom, Vec::new());
        Self { kind, title: None, detail, instance: false, members, drafted: false }
    }

    /// Problem details with the types of draft-ietf-httpapi-ratelimit-headers-11, section 5, and
    /// with the message as `detail`:
    ///
    /// | the request | type |
    /// |---|---|
    /// | exceeds a quota, or has a quota of zero units | `quota-exceeded` |
    /// | cannot be counted, as the store does not answer | `temporary-reduced-capacity` |
    /// | comes from a caller that an operator or a [penalty](crate::Penalty) has blocked | `abnormal-usage-detected` |
    ///
    /// `violated-policies` lists the names of all policies that refuse, the longest wait first. For
    /// a caller that an operator has blocked, it is absent.
    pub fn quota_exceeded() -> Self {
        let problem = Self::new(QUOTA_EXCEEDED).title(|_| "Quota exceeded");
        Self { drafted: true, ..problem }.detail()
    }

    /// Sets the title, by a closure such as `|_| "Too fast"`.
    pub fn title<T: Into<Cow<'static, str>>>(
        mut self,
        title: impl Fn(&Rejection) -> T + Send + Sync + 'static,
    ) -> Self {
        self.title = Some(Arc::new(move |rejection| title(rejection).into()));
        self
    }

    /// Adds `detail`: the rejection's message. If no quota is exceeded, `detail` is there anyway.
    pub fn detail(mut self) -> Self {
        self.detail = Detail::Message;
        self
    }

    /// Sets `detail`, by a closure, for each refusal: also if no quota is exceeded.
    ///
    /// ```
    /// use tower_quota::{Reason, response::Problem};
    ///
    /// let problem = Problem::quota_exceeded().detail_by(|rejection| match rejection.reason() {
    ///     Reason::QuotaExceeded => "Write to sales@example.com for more.".to_owned(),
    ///     _ => rejection.to_string(),
    /// });
    /// # let _ = problem;
    /// ```
    pub fn detail_by<T: Into<Cow<'static, str>>>(
        mut self,
        detail: impl Fn(&Rejection) -> T + Send + Sync + 'static,
    ) -> Self {
        self.detail = Detail::Own(Arc::new(move |rejection| detail(rejection).into()));
        self
    }

    /// Adds a member of your own (RFC 9457, section 3.2), by a closure; `null` leaves it out. If the
    /// problem has a member of this name anyway, yours replaces it.
    ///
    /// ```
    /// use tower_quota::response::Problem;
    ///
    /// let problem = Problem::quota_exceeded()
    ///     .member("code", |_| 4290)
    ///     .member("retry_after", |rejection| rejection.retry_after_seconds());
    /// # let _ = problem;
    /// ```
    pub fn member<V: Into<Value>>(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Fn(&Rejection) -> V + Send + Sync + 'static,
    ) -> Self {
        let name = name.into();
        self.members.retain(|(known, _)| *known != name);
        self.members.push((name, Arc::new(move |rejection| value(rejection).into())));
        self
    }

    /// Adds `instance`: the request's [id](Rejection::request_id), if it has one.
    ///
    /// The id becomes a URI reference (RFC 9457, section 3.1.5): a UUID becomes `urn:uuid:…` (RFC
    /// 9562, section 4), a URI stays as it is, and any other id is percent-encoded as a segment of
    /// a path.
    pub fn instance(mut self) -> Self {
        self.instance = true;
        self
    }

    /// The response to one rejection.
    #[must_use]
    pub fn respond(&self, rejection: &Rejection) -> Response<Bytes> {
        let (status, reason) = (rejection.status(), rejection.reason());
        let phrase = || Cow::from(status.canonical_reason().unwrap_or_default());
        let exceeded = matches!(
            reason,
            Reason::QuotaExceeded | Reason::CostExceedsQuota | Reason::NoQuota | Reason::Penalty
        );
        let (kind, title) = match reason {
            Reason::Blocked | Reason::Penalty if self.drafted => {
                (ABNORMAL_USAGE, "Abnormal usage detected".into())
            }
            _ if exceeded => {
                (&*self.kind, self.title.as_ref().map_or_else(phrase, |title| title(rejection)))
            }
            Reason::StoreUnavailable | Reason::SourceUnavailable if self.drafted => {
                (REDUCED_CAPACITY, "Temporarily reduced capacity".into())
            }
            _ => (ABOUT_BLANK, phrase()),
        };
        let mut body = Object::new();
        let is_own = |name: &str| self.members.iter().any(|(own, _)| own == name);
        if !is_own("type") {
            body.text("type", kind);
        }
        if !is_own("title") {
            body.text("title", &title);
        }
        if !is_own("status") {
            body.number("status", status.as_u16().into());
        }
        match &self.detail {
            _ if is_own("detail") => {}
            Detail::Seldom if exceeded => {}
            Detail::Seldom | Detail::Message => {
                body.text_by("detail", |to| rejection.push_text(to));
            }
            Detail::Own(detail) => body.text("detail", &detail(rejection)),
        }
        let instance = self.instance && !is_own("instance");
        if let Some(id) = rejection.request_id().filter(|_| instance) {
            body.text("instance", &uri_reference(id));
        }
        let has_violated = self.drafted && (exceeded || reason == Reason::StoreUnavailable);
        if has_violated && !is_own("violated-policies") {
            body.texts("violated-policies", rejection.refusing().map(|outcome| outcome.policy()));
        }
        if let Some(until) = rejection.blocked_until_seconds() {
            if !is_own("reason") {
                body.text("reason", "penalty");
            }
            if !is_own("until") {
                body.number("until", until);
            }
        }
        for (name, value) in &self.members {
            match value(rejection) {
                Value::Null => {}
                value => body.value(name, &value),
            }
        }
        rejection.respond(PROBLEM, body.end())
    }

    /// Makes a closure for [`on_rejection`](crate::RateLimitLayerBuilder::on_rejection).
    pub fn renderer(self) -> impl Fn(&Rejection) -> Response<Bytes> + Send + Sync + 'static {
        move |rejection| self.respond(rejection)
    }
}

/// The characters that a segment of a path cannot have (RFC 3986, section 3.3), and the colon: the
/// text before it would be a scheme.
const NO_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b'@');

fn uri_reference(id: &str) -> Cow<'_, str> {
    let is_uuid = id.len() == 36
        && id.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    if is_uuid {
        return format!("urn:uuid:{id}").into();
    }
    let is_uri =
        ["urn:", "tag:", "https://", "http://"].iter().any(|scheme| id.starts_with(scheme))
            && id.bytes().all(|byte| {
                byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&byte)
            });
    if is_uri { id.into() } else { utf8_percent_encode(id, NO_SEGMENT).into() }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problem")
            .field("type", &self.kind)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_become_uri_references() {
        for (id, reference) in [
            ("req_01HX", "req_01HX"),
            (
                "018f3a2e-7c4b-7d1e-9a55-0123456789AB",
                "urn:uuid:018f3a2e-7c4b-7d1e-9a55-0123456789AB",
            ),
            ("urn:example:7", "urn:example:7"),
            ("https://status.test/r?id=7", "https://status.test/r?id=7"),
            ("https://status.test/r 7", "https%3A%2F%2Fstatus.test%2Fr%207"),
            ("1:2", "1%3A2"),
            ("a b\"<>%/?#", "a%20b%22%3C%3E%25%2F%3F%23"),
            ("Root=1-67891233;Parent=53;Sampled=1", "Root=1-67891233;Parent=53;Sampled=1"),
            ("", ""),
        ] {
            assert_eq!(uri_reference(id), reference);
        }
    }
}
