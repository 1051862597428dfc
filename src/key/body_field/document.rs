//! Fields of a document, in the format that its request says it has.

use std::{fmt, sync::Arc};

use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Form,
}

/// The format that the headers tell; `None` when it is another one, or compressed.
pub(super) fn format_of(headers: &HeaderMap) -> Option<Format> {
    if headers.contains_key(CONTENT_ENCODING) {
        return None;
    }
    let content_type = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = content_type.split(';').next()?.trim().to_ascii_lowercase();
    match &*essence {
        "application/x-www-form-urlencoded" => Some(Format::Form),
        "application/json" => Some(Format::Json),
        _ if essence.starts_with("application/") && essence.ends_with("+json") => {
            Some(Format::Json)
        }
        _ => None,
    }
}

/// The values of the fields named that stand once in the document, each as a text: trimmed and in
/// lower case.
pub(super) fn read(format: Format, document: &[u8], names: &[Arc<str>]) -> Vec<(Arc<str>, String)> {
    let found = match format {
        Format::Json => json(document, names).unwrap_or_default(),
        Format::Form => form(document, names),
    };
    let normal = |value: String| value.trim().to_lowercase();
    let named = names.iter().zip(found.0);
    named.filter_map(|(name, value)| Some((Arc::clone(name), normal(value.only()?)))).collect()
}

/// What was found of each field.
#[derive(Default)]
struct Found(Vec<Value>);

#[derive(Clone, Default)]
enum Value {
    #[default]
    Absent,
    Text(String),
    /// Twice, or not as a text: which value the handler reads is unknown.
    Unclear,
}

impl Value {
    fn add(&mut self, text: Option<String>) {
        *self = match (&self, text) {
            (Self::Absent, Some(text)) => Self::Text(text),
            _ => Self::Unclear,
        };
    }

    fn only(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Absent | Self::Unclear => None,
        }
    }
}

fn form(document: &[u8], names: &[Arc<str>]) -> Found {
    let mut found = Found(vec![Value::Absent; names.len()]);
    for (name, value) in form_urlencoded::parse(document) {
        for (wanted, found) in names.iter().zip(&mut found.0) {
            if name == **wanted {
                found.add(Some(value.clone().into_owned()));
            }
        }
    }
    found
}

fn json(document: &[u8], names: &[Arc<str>]) -> serde_json::Result<Found> {
    let mut parser = serde_json::Deserializer::from_slice(document);
    let found = parser.deserialize_map(Fields { names })?;
    // What follows the object would make the handler refuse the document.
    parser.end()?;
    Ok(found)
}

/// Reads an object for the fields named, and skips the others.
struct Fields<'a> {
    names: &'a [Arc<str>],
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Found, M::Error> {
        let mut found = Found(vec![Value::Absent; self.names.len()]);
        while let Some(name) = map.next_key::<String>()? {
            let mut wanted =
                self.names.iter().zip(&mut found.0).filter(|(field, _)| ***field == name);
            match wanted.next() {
                Some((_, found)) => found.add(map.next_value_seed(Text)?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }
}

/// A text, or `None` for any other value.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<Option<String>, D::Error> {
        let value: serde_json::Value = serde::Deserialize::deserialize(parser)?;
        Ok(match value {
            serde_json::Value::String(text) => Some(text),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn email(format: Format, document: &[u8]) -> Option<String> {
        let fields = read(format, document, &["email".into()]);
        fields.into_iter().next().map(|(_, value)| value)
    }

    #[test]
    fn json_documents() {
        let json = |document: &[u8]| email(Format::Json, document);
        assert_eq!(json(br#"{"a":[{}],"email":" Ann@Example.COM\t"}"#).unwrap(), "ann@example.com");
        assert_eq!(json(br#"{"em\u0061il":"a@b"}"#).unwrap(), "a@b", "an escaped name");
        for document in [
            &br#"{"email":"a@b","email":"c@d"}"#[..],
            br#"{"email":7}"#,
            br#"{"email":null}"#,
            br#"{"user":{"email":"a@b"}}"#,
            br#"{"email":"a@b"} trailing"#,
            br#"{"email":"a@b"#,
            br#"["email"]"#,
            b"email=a@b",
            b"{\"email\":\"\xff\"}",
            b"",
        ] {
            assert_eq!(json(document), None, "{}", String::from_utf8_lossy(document));
        }
        let deep = [&b"{\"x\":"[..], &[b'['; 10_000]].concat();
        assert_eq!(json(&deep), None, "nested beyond reason");
    }

    #[test]
    fn form_documents() {
        let form = |document: &[u8]| email(Format::Form, document);
        assert_eq!(form(b"a=b&email=+Ann%40Example.com").unwrap(), "ann@example.com");
        assert_eq!(form(b"email=a&email=b"), None);
        assert_eq!(form(b"mail=a"), None);
        assert_eq!(form(b"{\"email\":\"a@b\"}"), None);
    }

    #[test]
    fn several_fields() {
        let names = ["email".into(), "user_id".into()];
        let fields = read(Format::Json, br#"{"user_id":"U1","email":"a@b"}"#, &names);
        let fields: Vec<_> = fields.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(fields, [("email", "a@b"), ("user_id", "u1")]);
    }

    #[test]
    fn content_types() {
        let format = |value: &str| {
            format_of(&HeaderMap::from_iter([(CONTENT_TYPE, value.parse().unwrap())]))
        };
        assert_eq!(format("application/json"), Some(Format::Json));
        assert_eq!(format("Application/JSON; charset=utf-8"), Some(Format::Json));
        assert_eq!(format("application/vnd.api+json"), Some(Format::Json));
        assert_eq!(format("application/x-www-form-urlencoded"), Some(Format::Form));
        assert_eq!(format("text/plain"), None);
        assert_eq!(format("multipart/form-data; boundary=x"), None);
        let mut compressed = HeaderMap::new();
        compressed.insert(CONTENT_TYPE, "application/json".parse().unwrap());
        compressed.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        assert_eq!(format_of(&compressed), None);
    }
}
