//! The headers of the default refusal, prepared once: each refusal only puts its numbers in.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE},
};

use super::{Family, Headers, ResetFormat, number, reset_in, structured};
use crate::{
    layer::rejection::{NO_STORE, Rejection},
    limiter::Limiter,
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

pub(crate) const CLOSE: HeaderValue = HeaderValue::from_static("close");

/// A value that is put in later.
const BLANK: HeaderValue = HeaderValue::from_static("");

/// The headers of refusals that have all numbers. To clone the map is cheaper than to insert each name, which
/// is hashed.
#[derive(Clone, Debug)]
pub(crate) struct PreparedHeaders {
    /// In this order: the content type, the quota headers, `Retry-After`, `Cache-Control: no-store`, and
    /// `Connection: close`.
    map: HeaderMap,
}

impl PreparedHeaders {
    /// `None` if a map does not keep its headers in the order in which they were added: then no value
    /// can be found by its position.
    pub(crate) fn new(headers: &Headers) -> Option<Self> {
        let quota = headers.names().map(|name| (name, BLANK));
        let all: Vec<(HeaderName, HeaderValue)> = [(CONTENT_TYPE, JSON)]
            .into_iter()
            .chain(quota)
            .chain([(CACHE_CONTROL, NO_STORE), (CONNECTION, CLOSE)])
            .collect();
        let mut map = HeaderMap::with_capacity(headers.capacity());
        map.extend(all.iter().cloned());
        map.keys().eq(all.iter().map(|(name, _)| name)).then_some(Self { map })
    }

    /// The headers of this refusal; `None` if some number is missing. `closes` says whether the connection ends
    /// with the response.
    pub(crate) fn of(
        &self,
        headers: &Headers,
        rejection: &Rejection,
        limiter: &Limiter,
        closes: bool,
    ) -> Option<HeaderMap> {
        let decision = rejection.decision();
        let outcome = &headers.outcome_of(decision).filter(|_| rejection.reason().is_counted())?;
        let mut map = self.map.clone();
        let mut blanks = map.values_mut().skip(1);
        let mut put = |value| blanks.next().map(|blank| *blank = value);
        for &style in &headers.styles {
            match style.family {
                Family::XRateLimit | Family::RateLimit => {
                    put(number::limit(outcome.limit()))?;
                    put(number::value(outcome.remaining()))?;
                    if style.reset_format() != ResetFormat::Omitted {
                        put(number::reset(reset_in(style, outcome, decision)?))?;
                    }
                }
                Family::Dictionary => put(structured::dictionary(outcome))?,
                Family::Lists => {
                    put(structured::policies(decision, style, Some(limiter))?)?;
                    put(structured::limits(decision, style, Some(limiter))?)?;
                }
            }
        }
        if headers.retry_after {
            put(number::value(rejection.retry_after_seconds()?))?;
        }
        // A clone has no room for one more header. Where this one goes, a server can add the length of the
        // body without allocating all headers again.
        if !closes {
            map.remove(CONNECTION);
        }
        Some(map)
    }
}
