//! Finds fields in a JSON document or a form: [`read`].

use std::{fmt, sync::Arc};

use http::StatusCode;
use serde::{
    Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{format::Format, value::Value};
use crate::key::Extracted;

/// Each of the named fields in a document.
///
/// # Errors
/// 400 for a malformed document, and 415 for JSON that is sent as a form.
pub(super) fn read(
    format: Format,
    document: &[u8],
    names: &[Arc<str>],
) -> Result<Vec<Extracted<'static>>, StatusCode> {
    if document.trim_ascii().is_empty() {
        return Ok(vec![Extracted::Missing; names.len()]);
    }
    let found = match format {
        Format::Json => json(document, names).map_err(|_| StatusCode::BAD_REQUEST)?,
        // Some handlers do not look at the content type, and read JSON here.
        Format::Form if matches!(document.trim_ascii_start(), [b'{' | b'[', ..]) => {
            return Err(StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        Format::Form => form(document, names),
    };
    Ok(found.iter().map(Value::extracted).collect())
}

/// Each of the named fields in a query, from which handlers read a form if the method is GET.
pub(super) fn read_query(query: &str, names: &[Arc<str>]) -> Vec<Extracted<'static>> {
    form(query.as_bytes(), names).iter().map(Value::extracted).collect()
}

/// A form is not nested: the field `user.id` is written as `user.id` or as `user[id]`.
fn form(document: &[u8], names: &[Arc<str>]) -> Vec<Value> {
    let mut found = vec![Value::Absent; names.len()];
    for (name, value) in form_urlencoded::parse(document) {
        let nested = name.replace('[', ".").replace(']', "");
        for (wanted, found) in names.iter().zip(&mut found) {
            if [&*name, &nested].iter().any(|name| name.eq_ignore_ascii_case(wanted)) {
                found.add(Value::text(&value));
            }
        }
    }
    found
}

fn json(document: &[u8], names: &[Arc<str>]) -> serde_json::Result<Vec<Value>> {
    let mut parser = serde_json::Deserializer::from_slice(document);
    let mut found = vec![Value::Absent; names.len()];
    let wanted = names.iter().enumerate().map(|(index, name)| (index, Some(&**name))).collect();
    Within { wanted, found: &mut found }.deserialize(&mut parser)?;
    // A handler refuses a document with anything after it.
    parser.end()?;
    Ok(found)
}

/// Reads a value, and finds the fields in it.
struct Within<'a> {
    /// The index of each field, and its path from this value; `None` if the value is the field.
    wanted: Vec<(usize, Option<&'a str>)>,
    found: &'a mut [Value],
}

impl<'a> Within<'a> {
    /// The fields in the member `name`. Letter case is ignored, as some handlers ignore it.
    fn in_member(&self, name: &str) -> Vec<(usize, Option<&'a str>)> {
        let in_member = |(index, path): &(usize, Option<&'a str>)| {
            let path = (*path)?;
            let (first, rest) = path.split_at_checked(name.len())?;
            match rest.strip_prefix('.') {
                _ if !first.eq_ignore_ascii_case(name) => None,
                Some(rest) => Some((*index, Some(rest))),
                None => rest.is_empty().then_some((*index, None)),
            }
        };
        self.wanted.iter().filter_map(in_member).collect()
    }

    /// Adds a value that has no members. It is unclear for a field that should be in it.
    #[expect(clippy::indexing_slicing, reason = "each wanted field has a value in `found`")]
    fn scalar<E: Error>(self, value: Value) -> Result<(), E> {
        for (index, path) in self.wanted {
            let is_field = path.is_none() || value == Value::Null;
            self.found[index].add(if is_field { value.clone() } else { Value::Unclear });
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Within<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, parser: D) -> Result<(), D::Error> {
        parser.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Within<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    #[expect(clippy::indexing_slicing, reason = "each wanted field has a value in `found`")]
    fn visit_map<M: MapAccess<'de>>(self, mut members: M) -> Result<(), M::Error> {
        for (index, _) in self.wanted.iter().filter(|(_, path)| path.is_none()) {
            self.found[*index].add(Value::Unclear);
        }
        let mut seen = Vec::<String>::new();
        while let Some(name) = members.next_key::<String>()? {
            let wanted = self.in_member(&name);
            if wanted.is_empty() {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            if seen.iter().any(|seen| seen.eq_ignore_ascii_case(&name)) {
                wanted.iter().for_each(|(index, _)| self.found[*index] = Value::Unclear);
            }
            seen.push(name);
            if wanted.iter().all(|(_, path)| path.is_none()) {
                // With its feature `arbitrary_precision`, serde_json passes numbers as maps.
                let value = Value::from(members.next_value::<serde_json::Value>()?);
                wanted.iter().for_each(|(index, _)| self.found[*index].add(value.clone()));
            } else {
                members.next_value_seed(Within { wanted, found: &mut *self.found })?;
            }
        }
        Ok(())
    }

    /// Unclear: some handlers read a struct from an array of its fields, or a field from an array of one.
    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<(), S::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        self.scalar(Value::Unclear)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(Value::text(if value { "true" } else { "false" }))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.scalar(Value::text(&value.to_string()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(Value::text(&value.to_string()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.scalar(Value::text(&value.to_string()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.scalar(Value::text(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key found; `None` for a missing one.
    fn field(name: &str, format: Format, document: &[u8]) -> Result<Option<String>, StatusCode> {
        match &read(format, document, &[name.into()])?[..] {
            [Extracted::Found(key)] => Ok(Some(String::from_utf8_lossy(key.as_bytes()).into())),
            [Extracted::Missing] => Ok(None),
            [Extracted::Unreadable(status)] => Err(*status),
            _ => unreachable!("one name, one answer"),
        }
    }

    fn found(text: &str) -> Result<Option<String>, StatusCode> {
        Ok(Some(text.to_owned()))
    }

    const MISSING: Result<Option<String>, StatusCode> = Ok(None);
    const UNREADABLE: Result<Option<String>, StatusCode> = Err(StatusCode::BAD_REQUEST);

    #[test]
    fn json_documents() {
        for (document, expected) in [
            (&br#"{"a":[{}],"email":" Ann@Example.COM\t"}"#[..], found("ann@example.com")),
            (br#"{"em\u0061il":"a@b"}"#, found("a@b")),
            (br#"{"Email":"a@b"}"#, found("a@b")),
            (br#"{"email":42}"#, found("42")),
            (br#"{"email":"42"}"#, found("42")),
            (br#"{"email":true}"#, found("true")),
            (br#" {"email":"a@b"} "#, found("a@b")),
            (br#"{"email":null}"#, MISSING),
            (br#"{"user":{"email":"a@b"}}"#, MISSING),
            (b"{}", MISSING),
            (b"null", MISSING),
            (b"", MISSING),
            (b" \n", MISSING),
            (br#"{"email":"a@b","email":"a@b"}"#, UNREADABLE),
            (br#"{"email":"a@b","EMAIL":"c@d"}"#, UNREADABLE),
            (br#"{"email":null,"email":"c@d"}"#, UNREADABLE),
            (br#"{"email":["a@b"]}"#, UNREADABLE),
            (br#"{"email":{"is":"a@b"}}"#, UNREADABLE),
            (br#"{"email":"a\u0000b"}"#, UNREADABLE),
            (br#"{"email":"\ud800"}"#, UNREADABLE),
            (br#"{"email":"a@b"} trailing"#, UNREADABLE),
            (br#"{"email":"a@b"} {}"#, UNREADABLE),
            (br#"{"email":"a@b"#, UNREADABLE),
            (br#"{"email":"a@b",}"#, UNREADABLE),
            (br#"["a@b"]"#, UNREADABLE),
            (br#"[{"email":"a@b"}]"#, UNREADABLE),
            (b"[]", UNREADABLE),
            (b"\"a@b\"", UNREADABLE),
            (b"7", UNREADABLE),
            (b"email=a@b", UNREADABLE),
            (b"{\"email\":\"\xff\"}", UNREADABLE),
            (b"\xef\xbb\xbf{\"email\":\"a@b\"}", UNREADABLE),
        ] {
            let text = String::from_utf8_lossy(document);
            assert_eq!(field("email", Format::Json, document), expected, "{text}");
        }
        let deep = [&b"{\"x\":"[..], &[b'['; 10_000]].concat();
        assert_eq!(field("email", Format::Json, &deep), UNREADABLE, "nested beyond reason");
    }

    #[test]
    fn nested_fields() {
        for (document, expected) in [
            (&br#"{"user":{"id":"U1","x":{}}}"#[..], found("u1")),
            (br#"{"user.id":"U1"}"#, found("u1")),
            (br#"{"USER":{"ID":1}}"#, found("1")),
            (br#"{"user":null}"#, MISSING),
            (br#"{"user":{}}"#, MISSING),
            (br#"{"user":{"id":null}}"#, MISSING),
            (br#"{"id":"U1"}"#, MISSING),
            (br#"{"user":"U1"}"#, UNREADABLE),
            (br#"{"user":["U1"]}"#, UNREADABLE),
            (br#"{"user":[{"id":"U1"}]}"#, UNREADABLE),
            (br#"{"user":{"id":"U1"},"user":{"id":"U1"}}"#, UNREADABLE),
            (br#"{"user":{},"user":{"id":"U1"}}"#, UNREADABLE),
            (br#"{"user":{"id":"U1"},"user.id":"U2"}"#, UNREADABLE),
            (br#"{"user":{"id":"U1"},"User":null}"#, UNREADABLE),
            (br#"{"user":{"id":{"is":"U1"}}}"#, UNREADABLE),
        ] {
            let text = String::from_utf8_lossy(document);
            assert_eq!(field("user.id", Format::Json, document), expected, "{text}");
        }
        for document in [&b"user.id=U1"[..], b"user[id]=U1", b"User%5BId%5D=U1"] {
            assert_eq!(field("user.id", Format::Form, document), found("u1"));
        }
        assert_eq!(field("user.id", Format::Form, b"user.id=1&user[id]=2"), UNREADABLE);
    }

    #[test]
    fn form_documents() {
        for (document, expected) in [
            (&b"a=b&email=+Ann%40Example.com"[..], found("ann@example.com")),
            (b"Email=a", found("a")),
            (b"email=007", found("7")),
            (b"mail=a", MISSING),
            (b"email", MISSING),
            (b"", MISSING),
            (b"email=a&email=a", UNREADABLE),
            (b"email=a&EMAIL=b", UNREADABLE),
            (b"email=a%00b", UNREADABLE),
            (b"{\"email\":\"a@b\"}", Err(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
            (b" [\"a@b\"]", Err(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
        ] {
            let text = String::from_utf8_lossy(document);
            let read = field("email", Format::Form, document);
            let read = read.map(|key| key.filter(|key| !key.is_empty()));
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn several_fields() {
        let names = ["email".into(), "user_id".into(), "email.work".into()];
        let read = read(Format::Json, br#"{"user_id":"U1","email":"a@b"}"#, &names).unwrap();
        let expected =
            [Extracted::Found("a@b".into()), Extracted::Found("u1".into()), Extracted::UNREADABLE];
        assert_eq!(read, expected);
    }
}
