//! Which format a body has, by the request's head: [`Format`].

use std::sync::Arc;

use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Form,
}

impl Format {
    /// The format by the content type. `json` are more media types that count as JSON.
    ///
    /// Accepts all that axum's `Json` and `Form` accept: these also include `application/json+x`, and
    /// any type that begins with the type of forms.
    ///
    /// # Errors
    /// 415 Unsupported Media Type for another type, no type, several types, or an encoded body.
    pub(super) fn from_headers(headers: &HeaderMap, json: &[Arc<str>]) -> Result<Self, StatusCode> {
        let unsupported = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        if headers.get_all(CONTENT_ENCODING).iter().any(|value| !is_identity(value.as_bytes())) {
            return Err(unsupported);
        }
        let mut types = headers.get_all(CONTENT_TYPE).iter();
        let (Some(sent), None) = (types.next(), types.next()) else { return Err(unsupported) };
        let sent = sent.to_str().map_err(|_| unsupported)?;
        let media_type = sent.split(';').next().unwrap_or(sent).trim().to_ascii_lowercase();
        if media_type.starts_with("application/x-www-form-urlencoded") {
            return Ok(Self::Form);
        }
        let is_json = media_type.strip_prefix("application/").is_some_and(|subtype| {
            subtype == "json" || subtype.starts_with("json+") || subtype.ends_with("+json")
        });
        match is_json || json.iter().any(|known| known.eq_ignore_ascii_case(&media_type)) {
            true => Ok(Self::Json),
            false => Err(unsupported),
        }
    }
}

/// Whether none of these encodings changes the body (RFC 9110, section 8.4).
fn is_identity(encodings: &[u8]) -> bool {
    let mut encodings = encodings.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    encodings.all(|encoding| encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lines: &[(http::HeaderName, &str)]) -> Option<Format> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value.parse().unwrap());
        }
        Format::from_headers(&headers, &["text/plain".into()]).ok()
    }

    #[test]
    fn content_types() {
        for (sent, format) in [
            ("application/json", Some(Format::Json)),
            ("Application/JSON; charset=utf-8", Some(Format::Json)),
            ("application/json ;x=y", Some(Format::Json)),
            ("application/vnd.api+json", Some(Format::Json)),
            ("application/json+ld", Some(Format::Json)),
            ("Text/Plain; charset=utf-8", Some(Format::Json)),
            ("application/x-www-form-urlencoded", Some(Format::Form)),
            ("application/x-www-form-urlencoded; charset=utf-8", Some(Format::Form)),
            ("application/jsonp", None),
            ("application/vnd.api", None),
            ("text/json", None),
            ("multipart/form-data; boundary=x", None),
            ("", None),
        ] {
            assert_eq!(of(&[(CONTENT_TYPE, sent)]), format, "{sent}");
        }
        assert_eq!(of(&[]), None);
        let json = (CONTENT_TYPE, "application/json");
        assert_eq!(of(&[json.clone(), json]), None, "which one the handler reads is unknown");
    }

    #[test]
    fn content_encodings() {
        for (sent, is_read) in [
            ("identity", true),
            ("", true),
            (" Identity , identity", true),
            ("gzip", false),
            ("identity, br", false),
            ("identityx", false),
        ] {
            let encoding = (CONTENT_ENCODING, sent);
            let format = of(&[(CONTENT_TYPE, "application/json"), encoding]);
            assert_eq!(format.is_some(), is_read, "{sent}");
        }
    }
}
