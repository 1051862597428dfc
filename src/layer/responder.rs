//! What all clones of a layer share, and how they respond: [`Responder`].

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, Version,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    request::Parts,
};

#[cfg(feature = "grpc")]
use super::response::grpc;
use super::{
    ResponseObserver,
    headers::{CLOSE, Headers, PreparedHeaders},
    jitter::Jitter,
    observer::Observation,
    rejection::{NO_STORE, Refused, RefusedByHandler, Rejection},
};
use crate::{
    error::BuildProblem,
    limiter::{Correcting, Decision, DependsOnPolicies, Limiter},
    policy::Policy,
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The closure of [`on_rejection`](super::RateLimitLayerBuilder::on_rejection), or of
/// [`on_rejection_of`](super::RateLimitLayerBuilder::on_rejection_of).
type Render = Arc<dyn Fn(&Parts, &Rejection) -> Response<Bytes> + Send + Sync>;

/// Aligned, so that no two reference counts are in one cache line; some processors load two lines at once.
#[derive(Clone)]
#[repr(align(128))]
pub(super) struct Responder {
    pub(super) limiter: Limiter,
    pub(super) headers: Headers,
    pub(super) jitter: Jitter,
    /// `None` for the default, [`Rejection::to_response`].
    pub(super) render: Option<Render>,
    /// The headers of default refusals, from the first of them on.
    prepared: OnceLock<Option<PreparedHeaders>>,
    pub(super) expose_decision: bool,
    pub(super) observer: Option<Arc<dyn ResponseObserver>>,
    /// In a copy: the responder that was copied. The limiter checks it against new limits as long as it lives, and so
    /// as long as any copy lives.
    _original: Option<Arc<Self>>,
}

impl Responder {
    /// The defaults, which work for any limiter.
    pub(super) fn new(limiter: Limiter) -> Self {
        Self {
            limiter,
            headers: Headers::default(),
            jitter: Jitter::default(),
            render: None,
            prepared: OnceLock::new(),
            expose_decision: false,
            observer: None,
            _original: None,
        }
    }

    /// A copy, which counts its references by itself.
    pub(super) fn copy(self: &Arc<Self>) -> Arc<Self> {
        Arc::new(Self { _original: Some(Arc::clone(self)), ..(**self).clone() })
    }

    /// Returns the decision if the request passes, or else the response that refuses it.
    #[expect(clippy::result_large_err, reason = "the response is returned as it is")]
    pub(super) fn admit(
        &self,
        head: &mut Parts,
        decision: Decision,
        observation: &mut Observation,
    ) -> Result<Decision, Response<Bytes>> {
        let decision = match self.refusal(head, decision, true) {
            Ok(decision) => decision,
            Err((response, decision)) => {
                observation.finish(&self.headers, &decision, Some(response.status()));
                return Err(response);
            }
        };
        if self.expose_decision {
            head.extensions.insert(decision.clone());
        }
        if decision.record.special.has_end() {
            leave_for_the_end(head, &decision);
        }
        Ok(decision)
    }

    /// Returns the decision if the request passes, or else the response that refuses it and the
    /// decision with the waits of the response. `with_request_id` says whether the response may
    /// have the request's id.
    #[inline]
    #[expect(clippy::result_large_err, reason = "the response is returned as it is")]
    pub(super) fn refusal(
        &self,
        head: &Parts,
        decision: Decision,
        with_request_id: bool,
    ) -> Result<Decision, (Response<Bytes>, Decision)> {
        let Some(reason) = decision.reason() else { return Ok(decision) };
        let (has_body, id) = body_and_id(&head.headers);
        let mut rejection = Rejection {
            reason,
            decision,
            layer_headers: Some(self.headers.capacity()),
            request_id: id.filter(|_| with_request_id).cloned(),
        };
        self.jitter.lengthen(&mut rejection.decision, &self.limiter);
        let closes = has_body && can_close(head.version);
        Err((self.refuse(head, &rejection, closes), rejection.decision))
    }

    fn refuse(&self, head: &Parts, rejection: &Rejection, closes: bool) -> Response<Bytes> {
        #[cfg(feature = "grpc")]
        let called = grpc::respond(head, rejection);
        #[cfg(not(feature = "grpc"))]
        let called = None;
        let mut response = match (called, &self.render) {
            (Some(response), _) => self.with_headers(response, rejection, closes),
            (None, Some(render)) => self.with_headers(render(head, rejection), rejection, closes),
            (None, None) => self.default_refusal(rejection, closes),
        };
        #[cfg(not(feature = "grpc"))]
        warn_if_unread_by_grpc(head, &response);
        response.extensions_mut().insert(Refused);
        response
    }

    fn default_refusal(&self, rejection: &Rejection, closes: bool) -> Response<Bytes> {
        let prepared = self.prepared.get_or_init(|| PreparedHeaders::new(&self.headers));
        let headers = prepared
            .as_ref()
            .and_then(|prepared| prepared.of(&self.headers, rejection, &self.limiter, closes));
        match headers {
            Some(headers) => rejection.with_headers(headers),
            None => self.with_headers(rejection.to_response(), rejection, closes),
        }
    }

    /// Adds the headers of a refusal.
    fn with_headers(
        &self,
        mut response: Response<Bytes>,
        rejection: &Rejection,
        closes: bool,
    ) -> Response<Bytes> {
        let headers = response.headers_mut();
        self.headers.write_refusal(headers, &rejection.decision, Some(&self.limiter));
        if self.headers.retry_after {
            rejection.write_retry_after(headers);
        }
        headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
        if closes {
            headers.insert(CONNECTION, CLOSE);
        }
        response
    }

    /// Whether the response has to wait for this correction: a header or an observer shows it.
    pub(super) fn shows(&self, correcting: &Correcting, decision: &Decision) -> bool {
        self.observer.is_some()
            || correcting.corrects(decision, |outcome| self.headers.shows(outcome, decision))
    }

    /// Writes quota headers into the response of the inner service.
    pub(super) fn write_headers<R>(&self, response: &mut Response<R>, decision: &Decision) {
        // An inner layer's refusal keeps its own headers: they explain it.
        if response.extensions().get::<Refused>().is_some() {
            self.write_into_refusal(response);
        } else {
            self.headers.write(response.headers_mut(), decision, Some(&self.limiter));
        }
    }

    /// Adds quota headers to a refusal by the handler, which has none. Other refusals stay as they
    /// are.
    #[cold]
    fn write_into_refusal<R>(&self, response: &mut Response<R>) {
        if let Some(RefusedByHandler(decision)) = response.extensions_mut().remove() {
            self.headers.write_refusal(response.headers_mut(), &decision, None);
        }
    }

    #[cfg(feature = "describe")]
    pub(super) fn describe(&self) -> crate::describe::Description {
        use crate::describe::{
            Description, ExampleRefusal, HeaderDescription, ResponseDescription,
        };

        let example = |(category, decision): (_, Decision)| {
            let reason = decision.reason()?;
            Some(ExampleRefusal { category, reason, refusal: self.example(decision)? })
        };
        let responses = ResponseDescription {
            headers: self.headers.describe().map(HeaderDescription::new).collect(),
            header_policy: self.headers.policy.clone(),
            refusal: self.limiter.example_refusal().and_then(|decision| self.example(decision)),
            examples: self.limiter.example_refusals().into_iter().filter_map(example).collect(),
        };
        Description { responses: Some(responses), ..self.limiter.describe() }
    }

    /// The response to a request that `decision` refuses.
    #[cfg(feature = "describe")]
    fn example(&self, decision: Decision) -> Option<crate::describe::RefusalDescription> {
        const EXAMPLE_ID: &str = "req_example";
        let mut head = http::Request::new(()).into_parts().0;
        head.headers.insert(X_REQUEST_ID, HeaderValue::from_static(EXAMPLE_ID));
        let policy = decision.tightest().map_or("", |outcome| outcome.policy()).to_owned();
        let response = self.admit(&mut head, decision, &mut Observation::default()).err()?;
        Some(crate::describe::RefusalDescription::new(&policy, EXAMPLE_ID, response))
    }
}

/// The settings of the headers name policies.
impl Responder {
    /// What is wrong with the settings, for a limiter with these policies for requests.
    pub(super) fn all_problems<'a>(
        &self,
        policies: impl IntoIterator<Item = &'a Policy>,
    ) -> Vec<BuildProblem> {
        let mut problems = self.headers.problems(policies);
        problems.extend(self.jitter.problem());
        problems
    }
}

impl DependsOnPolicies for Responder {
    fn problems(&self, policies: &[Policy]) -> Vec<BuildProblem> {
        self.all_problems(policies)
    }
}

/// Warns if a gRPC call was refused with a response that its client cannot read.
#[cfg(not(feature = "grpc"))]
fn warn_if_unread_by_grpc(request: &Parts, response: &Response<Bytes>) {
    use super::response::grpc_content_type;
    use crate::warning::{Code, warn};

    let is_grpc = |headers: &HeaderMap| grpc_content_type(headers).is_some();
    if is_grpc(&request.headers) && !is_grpc(response.headers()) {
        warn(Code::GrpcRefusedAsHttp, "", || {
            "a gRPC call was refused with a response that is not gRPC, so that its client sees an internal \
             error; turn the feature `grpc` of `tower-quota` on"
                .to_owned()
        });
    }
}

/// Leaves clones of the permit and of the meter in the request.
#[cold]
fn leave_for_the_end(head: &mut Parts, decision: &Decision) {
    if let Some(permit) = decision.permit() {
        if head.method == Method::CONNECT {
            permit.set_asks_for_tunnel();
        }
        if let Some(outer) = head.extensions.insert(permit.clone()) {
            permit.keep(outer);
        }
    }
    if decision.record.meter.is_some() {
        let meter = decision.meter();
        if head.method == Method::CONNECT {
            meter.set_asks_for_tunnel();
        }
        if let Some(outer) = head.extensions.insert(meter.clone()) {
            meter.keep(outer);
        }
    }
}

/// Whether a request with these headers may have a body, and its first `X-Request-Id`. One pass is faster than
/// three look-ups, as most requests have few headers.
fn body_and_id(headers: &HeaderMap) -> (bool, Option<&HeaderValue>) {
    let (mut has_body, mut id) = (false, None);
    for (name, value) in headers {
        if *name == TRANSFER_ENCODING || *name == CONTENT_LENGTH && value != "0" {
            has_body = true;
        } else if *name == X_REQUEST_ID {
            id = id.or(Some(value));
        }
    }
    (has_body, id)
}

/// Whether a response has to end the connection of a request whose body is not read. Only HTTP/1 has a header
/// for that (RFC 9112, section 9.6). Later versions end the request's stream, and must not have the header
/// (RFC 9113, section 8.2.2).
fn can_close(version: Version) -> bool {
    matches!(version, Version::HTTP_10 | Version::HTTP_11)
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder")
            .field("limiter", &self.limiter)
            .field("headers", &self.headers)
            .field("jitter", &self.jitter)
            .field("expose_decision", &self.expose_decision)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        layer::headers::{HeaderStyle, ResetFormat},
        limiter::Reason,
        quota::Quota,
        store::Usage,
    };

    /// The parts of a response that are sent.
    fn sent(response: &Response<Bytes>) -> String {
        format!("{:?} {:?} {:?}", response.status(), response.headers(), response.body())
    }

    #[test]
    fn a_prepared_refusal_is_the_same_as_one_that_is_written_header_by_header() {
        let styles = [
            vec![],
            vec![HeaderStyle::x_ratelimit()],
            vec![HeaderStyle::ratelimit_lists().partition_key(), HeaderStyle::x_ratelimit()],
            vec![
                HeaderStyle::ratelimit().reset(ResetFormat::Omitted),
                HeaderStyle::ratelimit_dictionary(),
            ],
        ];
        for (styles, retry_after) in
            styles.into_iter().flat_map(|all| [(all.clone(), true), (all, false)])
        {
            let mut responder = Responder::new(Limiter::builder().build().unwrap());
            (responder.headers.styles, responder.headers.retry_after) = (styles, retry_after);
            for (policy, reason) in [
                (Policy::token_bucket("p", Quota::per_day(3)), Reason::QuotaExceeded),
                (Policy::fixed_window("q", Quota::per_day(30_000)), Reason::QuotaExceeded),
                (Policy::in_flight("r", 3), Reason::QuotaExceeded),
                (Policy::token_bucket("s", Quota::per_day(3)), Reason::CostExceedsQuota),
                (Policy::token_bucket("t", Quota::per_day(3)), Reason::Penalty),
                (Policy::token_bucket("u", Quota::per_day(3)), Reason::NoQuota),
                (Policy::token_bucket("v", Quota::per_day(3)), Reason::MissingKey),
                (Policy::token_bucket("w", Quota::per_day(3)), Reason::StoreUnavailable),
            ] {
                let usage = Usage::new(Duration::from_secs(7), 0, Duration::from_millis(6_100));
                let decision = Decision::of([(policy, Some(usage), Some(reason))]);
                let mut rejection = Rejection::of(&decision).unwrap();
                rejection.layer_headers = Some(responder.headers.capacity());
                for closes in [false, true] {
                    let written = rejection.to_response();
                    let written = responder.with_headers(written, &rejection, closes);
                    let prepared = responder.default_refusal(&rejection, closes);
                    assert_eq!(sent(&prepared), sent(&written), "{reason:?}");
                }
            }
        }
    }

    #[test]
    fn the_headers_of_most_refusals_are_prepared() {
        let responder = Responder::new(Limiter::builder().build().unwrap());
        let usage = Usage::new(Duration::from_secs(7), 0, Duration::from_secs(6));
        let policy = Policy::token_bucket("p", Quota::per_day(3));
        let decision = Decision::of([(policy, Some(usage), Some(Reason::QuotaExceeded))]);
        let prepared = PreparedHeaders::new(&responder.headers).unwrap();
        let rejection = Rejection::of(&decision).unwrap();
        assert!(prepared.of(&responder.headers, &rejection, &responder.limiter, false).is_some());
    }
}
