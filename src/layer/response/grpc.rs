//! Refusals of gRPC calls: a status in the headers, and no body.
//!
//! Sources: gRPC over HTTP/2 (`Trailers-Only`), gRFC A6 (`grpc-retry-pushback-ms`), and the richer
//! error model of `google/rpc/error_details.proto`.

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD_NO_PAD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, header::CONTENT_TYPE, request::Parts};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use prost::Message;
use prost_types::{Any, Duration as Delay};

use super::grpc_content_type::grpc_content_type;
use crate::{
    layer::rejection::{Complaint, Rejection},
    limiter::{Outcome, Reason},
};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The bytes that `grpc-message` has to encode, beside those that are not ASCII.
const ENCODED: &AsciiSet = &CONTROLS.add(b'%');

const INVALID_ARGUMENT: i32 = 3;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNAVAILABLE: i32 = 14;

/// The response that refuses the call; `None` if the request is no call.
#[expect(clippy::expect_used, reason = "a status without its message or details says too little")]
pub(crate) fn respond(request: &Parts, rejection: &Rejection) -> Option<Response<Bytes>> {
    let content_type = grpc_content_type(&request.headers)?;
    let message = rejection.to_string();
    let code = match rejection.reason() {
        Reason::QuotaExceeded
        | Reason::CostExceedsQuota
        | Reason::NoQuota
        | Reason::Blocked
        | Reason::Penalty => RESOURCE_EXHAUSTED,
        Reason::UnreadableKey if rejection.status().is_server_error() => UNAVAILABLE,
        Reason::MissingKey | Reason::UnreadableKey => INVALID_ARGUMENT,
        Reason::StoreUnavailable | Reason::SourceUnavailable => UNAVAILABLE,
    };
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(STATUS, code.into());
    let encoded = utf8_percent_encode(&message, ENCODED).to_string();
    headers.insert(MESSAGE, encoded.try_into().expect("what is encoded is visible ASCII"));
    let wait = rejection.retry_after().map(millis);
    // A negative pushback forbids a retry. It is also sent for a wait that is too long for the
    // header: no retry is better than an early one.
    let pushback = wait.and_then(|wait| i32::try_from(wait).ok()).unwrap_or(-1);
    headers.insert(PUSHBACK, pushback.into());
    if code == RESOURCE_EXHAUSTED {
        let status = Status { code, message, details: details(rejection, wait) };
        let status = BASE64_STANDARD_NO_PAD.encode(status.encode_to_vec());
        headers.insert(DETAILS, status.try_into().expect("base64 is visible ASCII"));
    }
    Some(response)
}

/// When to retry, if that helps, and which quotas failed.
fn details(rejection: &Rejection, wait: Option<u64>) -> Vec<Any> {
    let retry_info = wait.map(|millis| {
        let delay = Duration::from_millis(millis);
        let seconds = i64::try_from(delay.as_secs()).unwrap_or(i64::MAX);
        let nanos = delay.subsec_nanos().cast_signed();
        any("google.rpc.RetryInfo", &RetryInfo { delay: Some(Delay { seconds, nanos }) })
    });
    let violations = rejection.refusing().map(Violation::new).collect();
    let quota_failure = any("google.rpc.QuotaFailure", &QuotaFailure { violations });
    retry_info.into_iter().chain([quota_failure]).collect()
}

fn any(name: &str, message: &impl Message) -> Any {
    Any { type_url: format!("type.googleapis.com/{name}"), value: message.encode_to_vec() }
}

/// In milliseconds, rounded up.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.rpc.RetryInfo`
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<Delay>,
}

/// `google.rpc.QuotaFailure`
#[derive(Clone, PartialEq, Message)]
struct QuotaFailure {
    #[prost(message, repeated, tag = "1")]
    violations: Vec<Violation>,
}

/// `google.rpc.QuotaFailure.Violation`
#[derive(Clone, PartialEq, Message)]
struct Violation {
    /// The kind of key. The key itself is not disclosed.
    #[prost(string, tag = "1")]
    subject: String,
    #[prost(string, tag = "2")]
    description: String,
    #[prost(string, tag = "5")]
    quota_id: String,
    #[prost(int64, tag = "7")]
    quota_value: i64,
}

impl Violation {
    fn new(outcome: Outcome<'_>) -> Self {
        Self {
            subject: outcome.key_kind().to_owned(),
            description: Complaint(outcome).to_string(),
            quota_id: outcome.policy().to_owned(),
            quota_value: i64::try_from(outcome.limit()).unwrap_or(i64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::store::Usage;
    use crate::{limiter::Decision, policy::Policy, quota::Quota};

    fn refused(reason: Reason, wait: Duration) -> Response<Bytes> {
        let policy = Policy::token_bucket("größe 100%", Quota::per_hour(100));
        let usage = Usage::new(wait, 0, wait);
        let decision = Decision::of([(policy, Some(usage), Some(reason))]);
        respond(&call("application/grpc"), &Rejection::of(&decision).unwrap()).unwrap()
    }

    fn call(content_type: &str) -> Parts {
        let request = Request::builder().header(CONTENT_TYPE, content_type).body(()).unwrap();
        request.into_parts().0
    }

    #[test]
    fn messages_are_percent_encoded_and_waits_are_rounded_up() {
        let response = refused(Reason::QuotaExceeded, Duration::from_nanos(1_500_000_001));
        let headers = response.headers();
        assert_eq!(headers[STATUS], "8");
        assert_eq!(headers[PUSHBACK], "1501");
        assert_eq!(
            headers[MESSAGE],
            "Quota of policy `gr%C3%B6%C3%9Fe 100%25` is used up (100 per 3600s). Retry after 2 seconds.",
        );
        let status = BASE64_STANDARD_NO_PAD.decode(&headers[DETAILS]).unwrap();
        let status = Status::decode(&*status).unwrap();
        assert_eq!(
            RetryInfo::decode(&*status.details[0].value).unwrap().delay,
            Some(Delay { seconds: 1, nanos: 501_000_000 }),
        );
    }

    #[test]
    fn where_waiting_does_not_help_there_is_no_retry() {
        for (reason, wait) in [
            (Reason::CostExceedsQuota, Duration::from_secs(1)),
            (Reason::MissingKey, Duration::ZERO),
            (Reason::UnreadableKey, Duration::ZERO),
            // Longer than the header can say.
            (Reason::QuotaExceeded, Duration::from_secs(30 * 86_400)),
        ] {
            assert_eq!(refused(reason, wait).headers()[PUSHBACK], "-1");
        }
        for reason in [Reason::MissingKey, Reason::UnreadableKey] {
            let response = refused(reason, Duration::ZERO);
            assert_eq!(response.headers()[STATUS], "3");
            assert_eq!(response.headers().get(DETAILS), None);
        }
    }

    #[test]
    fn browsers_get_their_own_type_back_and_no_invented_one() {
        let policy = Policy::token_bucket("p", Quota::per_hour(1));
        let (refused, wait) = (Some(Reason::QuotaExceeded), Duration::from_secs(1));
        let usage = Usage::new(wait, 0, wait);
        let decision = Decision::of([(policy, Some(usage), refused)]);
        let rejection = Rejection::of(&decision).unwrap();
        for (sent, returned) in [
            ("application/grpc-web+proto", "application/grpc-web+proto"),
            ("application/grpc-web-text", "application/grpc-web-text"),
            ("application/grpc-web-text+proto; a=b", "application/grpc-web-text+proto"),
            ("application/grpc-web+<script>", "application/grpc-web"),
            ("Application/gRPC-Web+Proto; charset=<x>", "application/grpc-web+proto"),
            ("application/grpc+proto", "application/grpc"),
        ] {
            let response = respond(&call(sent), &rejection).unwrap();
            assert_eq!(response.headers()[CONTENT_TYPE], returned);
        }
    }
}
