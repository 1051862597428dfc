//! Content types of gRPC: [`grpc_content_type`].

use http::{HeaderMap, header::CONTENT_TYPE};

/// The content type that answers a message with these headers; `None` if they are not of gRPC.
///
/// The whole media type is compared (RFC 9110, section 8.3.1): `application/grpcfoo` is another
/// one. Browsers expect the type that they have sent. Only known types are sent back, never the
/// client's text.
pub(crate) fn grpc_content_type(headers: &HeaderMap) -> Option<&'static str> {
    let sent = headers.get(CONTENT_TYPE)?.as_bytes();
    let media_type = sent.split(|byte| *byte == b';').next()?.trim_ascii();
    let mut parts = media_type.splitn(2, |byte| *byte == b'+');
    let (name, format) = (parts.next()?, parts.next());
    if format.is_some_and(<[u8]>::is_empty) {
        return None;
    }
    let is_proto = format.is_some_and(|format| format.eq_ignore_ascii_case(b"proto"));
    // The type without the format `proto`, and with it.
    let all = [
        ("application/grpc", "application/grpc"),
        ("application/grpc-web", "application/grpc-web+proto"),
        ("application/grpc-web-text", "application/grpc-web-text+proto"),
    ];
    let known = all.into_iter().find(|(known, _)| name.eq_ignore_ascii_case(known.as_bytes()));
    known.map(|(name, proto)| if is_proto { proto } else { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content_type: &str) -> Option<&'static str> {
        grpc_content_type(&[(CONTENT_TYPE, content_type.parse().unwrap())].into_iter().collect())
    }

    #[test]
    fn calls_are_known_by_their_type() {
        for content_type in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc+json",
            "Application/GRPC",
            "application/grpc; charset=utf-8",
            "application/grpc+proto ;x=y",
            "application/grpc-web",
            "application/grpc-web+thrift",
            "application/grpc-web-text+proto",
        ] {
            assert!(of(content_type).is_some(), "{content_type}");
        }
        for content_type in [
            "application/json",
            "application/grp",
            "application/grpcfoo",
            "application/grpc-foo",
            "application/grpc-websocket",
            "application/grpc-web-textual",
            "application/grpc+",
            "application/grpc/web",
            "application/json;application/grpc",
            "text/grpc",
            "",
        ] {
            assert_eq!(of(content_type), None, "{content_type}");
        }
        assert_eq!(grpc_content_type(&HeaderMap::new()), None);
    }
}
