//! A key in the body, which a layer has read before: [`body_field`].

use std::{borrow::Cow, sync::Arc};

use http::{header::CONTENT_TYPE, request::Parts};

use super::{Extracted, KeyExtractor, closure::identified, same_text::same_text};
use crate::{
    first_requests::FirstRequests,
    warning::{Code, warn},
};

/// A field of a JSON or form body: a text, a number or a boolean. `user.id` is the field `id` of the
/// object `user`. A [`BodyFieldLayer`](crate::BodyFieldLayer) outside of the limiter's layer reads it.
///
/// Handlers may treat different values as the same one, so these are one key: texts that differ in
/// letter case or in whitespace around them, as `A@example.com` and ` a@example.com`; and numbers of
/// the same value, with or without quotes, as `7`, `"7"`, `"007"` and `7.0`. Unicode is not
/// normalised.
///
/// - The key is missing if the layer has read the whole document and the field is not there, or is
///   `null`.
/// - The key is unreadable if a handler may read what the layer cannot read. The status of the refusal
///   says why:
///   - 413: the body is too long.
///   - 408: the body takes too long.
///   - 415: the layer does not read this content type or encoding.
///   - 400: the document is malformed, is cut off, or is no object; or the field is there twice, or is
///     an array or object. Names that differ only in letter case are the same field, as some handlers
///     ignore letter case.
/// - The key is also unreadable if no layer has read the body: there is no layer, or
///   [`only`](crate::BodyFieldLayer::only) does not match the request. The warning
///   [`body_field_not_read`](crate::warning#body_field_not_read) is then given once.
pub fn body_field(name: impl Into<Cow<'static, str>>) -> impl KeyExtractor {
    let name = name.into();
    let problem = name.split('.').any(str::is_empty).then(|| {
        let name = name.escape_debug();
        format!("`{name}` names no field of a body; write one like `email` or `user.id`")
    });
    let not_read = FirstRequests::one();
    let kind = format!("body field {name}");
    let mut field = identified(kind.clone(), kind, problem, move |request: &Parts| {
        let fields = request.extensions.get::<Fields>();
        match fields.and_then(|Fields(fields)| fields.iter().find(|(field, _)| **field == *name)) {
            Some((_, Extracted::Found(key))) => Extracted::Found(key.as_bytes().into()),
            Some((_, Extracted::Missing)) => Extracted::Missing,
            Some((_, Extracted::Unreadable(status))) => Extracted::Unreadable(*status),
            None => {
                let has_body = request.headers.contains_key(CONTENT_TYPE);
                if has_body && not_read.count() {
                    warn_not_read(&name);
                }
                Extracted::UNREADABLE
            }
        }
    });
    field.canonical = Some(|text| (!text.contains('\0')).then(|| same_text(text)));
    field
}

#[cold]
fn warn_not_read(name: &str) {
    warn(Code::BodyFieldNotRead, name, || {
        format!(
            "a policy counts by the body's field `{name}`, and no layer has read it, so that the \
             request is refused; write `.layer(BodyFieldLayer::new([{name:?}]))` after the limiter's \
             layer, and let its `only` match each request of the policy"
        )
    });
}

/// The fields that [`BodyFieldLayer`](crate::BodyFieldLayer)s have read, in a request's extensions.
#[derive(Clone)]
pub(crate) struct Fields(pub(crate) Vec<(Arc<str>, Extracted<'static>)>);
