//! Breaks JSON into indented lines: [`indented`].

use serde_json::{Deserializer, Serializer};

/// JSON with a line for each member, in the same order; any other text unchanged.
pub(super) fn indented(text: &str) -> String {
    let (mut json, mut lines) = (Deserializer::from_str(text), Vec::new());
    let written = serde_transcode::transcode(&mut json, &mut Serializer::pretty(&mut lines));
    let is_json = written.and_then(|()| json.end()).is_ok();
    let lines = is_json.then(|| String::from_utf8(lines).ok()).flatten();
    lines.unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_strings_their_text() {
        let json = r#"{"z":1,"a":[true,{}, [ ] ,"b: {\"c\", \\"],"n":150.0}"#;
        let lines = [
            "{",
            r#"  "z": 1,"#,
            r#"  "a": ["#,
            "    true,",
            "    {},",
            "    [],",
            r#"    "b: {\"c\", \\""#,
            "  ],",
            r#"  "n": 150.0"#,
            "}",
        ];
        assert_eq!(indented(json), lines.join("\n"));
        assert_eq!(indented(&indented(json)), lines.join("\n"));
    }

    #[test]
    fn what_is_no_json_stays_as_it_is() {
        for text in ["", "slow down: {", "{\"a\":1} and more", "Retry, please."] {
            assert_eq!(indented(text), text);
        }
    }
}
