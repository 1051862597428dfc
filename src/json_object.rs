//! A JSON object (RFC 8259), written member by member: [`Object`].

use bytes::Bytes;

/// The initial capacity of a body, in bytes: most are shorter.
const USUAL_LENGTH: usize = 256;

/// The content type of problem details.
pub(crate) const PROBLEM: &str = "application/problem+json";

/// The type of a problem that says no more than its status.
pub(crate) const ABOUT_BLANK: &str = "about:blank";

/// A JSON body. Names and nearly all texts need no escapes, so this is faster than serde, which has
/// to look at each byte. That matters in a flood of refusals.
pub(crate) struct Object(String);

impl Object {
    pub(crate) fn new() -> Self {
        Self(String::with_capacity(USUAL_LENGTH))
    }

    #[inline]
    fn name(&mut self, name: &'static str) {
        self.0.push_str(if self.0.is_empty() { "{\"" } else { ",\"" });
        self.0.push_str(name);
        self.0.push_str("\":");
    }

    #[inline]
    pub(crate) fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        self.0.push_str(itoa::Buffer::new().format(number));
    }

    #[inline]
    pub(crate) fn text(&mut self, name: &'static str, text: &str) {
        self.text_by(name, |to| to.push_str(text));
    }

    /// A text that `write` appends to the body itself, without a string of its own.
    #[inline]
    pub(crate) fn text_by(&mut self, name: &'static str, write: impl FnOnce(&mut String)) {
        self.name(name);
        self.push(write);
    }

    /// Any value, under any name.
    #[expect(clippy::expect_used, reason = "strings and values are always written")]
    pub(crate) fn value(&mut self, name: &str, value: &serde_json::Value) {
        let name = serde_json::to_string(name).expect("a string is always written");
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(&name);
        self.0.push(':');
        self.0.push_str(&value.to_string());
    }

    pub(crate) fn texts<'a>(&mut self, name: &'static str, texts: impl Iterator<Item = &'a str>) {
        self.name(name);
        self.0.push('[');
        for (index, text) in texts.enumerate() {
            if index > 0 {
                self.0.push(',');
            }
            self.push(|to| to.push_str(text));
        }
        self.0.push(']');
    }

    #[inline]
    #[expect(
        clippy::expect_used,
        clippy::arithmetic_side_effects,
        clippy::string_slice,
        reason = "a text begins after its quotation mark; an empty one would make the body no JSON"
    )]
    fn push(&mut self, write: impl FnOnce(&mut String)) {
        self.0.push('"');
        let start = self.0.len();
        write(&mut self.0);
        if needs_escape(&self.0[start..]) {
            let text = self.0.split_off(start);
            let escaped = serde_json::to_string(&text).expect("a string is always written");
            self.0.truncate(start - 1);
            self.0.push_str(&escaped);
        } else {
            self.0.push('"');
        }
    }

    pub(crate) fn end(self) -> Bytes {
        self.end_as_text().into()
    }

    pub(crate) fn end_as_text(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// Whether JSON has to escape characters of the text. Reads all bytes, even after a match, so that the
/// compiler can check many of them in one instruction.
pub(crate) fn needs_escape(text: &str) -> bool {
    text.bytes().fold(false, |found, byte| found | matches!(byte, 0..b' ' | b'"' | b'\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_written_as_serde_writes_them() {
        let bytes = (0..=0x7f_u8).map(|byte| format!("a{}b", char::from(byte)));
        for text in bytes.chain(["".into(), "größe 🦀 \u{2028}".into(), "\"\\\n".into()]) {
            let mut object = Object::new();
            object.text("text", &text);
            object.texts("texts", [&*text, "b"].into_iter());
            object.number("number", u64::MAX);
            object.value(&text, &serde_json::json!([text, 7]));
            let json = serde_json::to_string(&text).unwrap();
            let json = format!(
                r#"{{"text":{json},"texts":[{json},"b"],"number":{},{json}:[{json},7]}}"#,
                u64::MAX
            );
            assert_eq!(object.end(), json);
        }
    }
}
