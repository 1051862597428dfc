//! Breaks JSON into indented lines: [`indented`].

use serde::de::IgnoredAny;

/// JSON with a line for each member; any other text unchanged.
///
/// It works on the text: to parse and write a value may change the order of its members.
pub(super) fn indented(text: &str) -> String {
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return text.to_owned();
    }
    let (mut written, mut depth) = (String::new(), 0_usize);
    let new_line = |depth| format!("\n{}", "  ".repeat(depth));
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                written.push('"');
                let mut is_escaped = false;
                written.extend(characters.by_ref().take_while(|character| {
                    let ends = *character == '"' && !is_escaped;
                    is_escaped = *character == '\\' && !is_escaped;
                    !ends
                }));
                written.push('"');
            }
            '{' | '[' => {
                depth += 1;
                written.push(character);
                written.push_str(&new_line(depth));
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                written.truncate(written.trim_end().len());
                // An empty object or list stays on its line.
                if !written.ends_with(['{', '[']) {
                    written.push_str(&new_line(depth));
                }
                written.push(character);
            }
            ',' => written.push_str(&format!(",{}", new_line(depth))),
            ':' => written.push_str(": "),
            character if character.is_ascii_whitespace() => {}
            character => written.push(character),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_strings_their_text() {
        let json = r#"{"z":1,"a":[true,{}, [ ] ,"b: {\"c\", \\"],"n":1.50e2}"#;
        let lines = [
            "{",
            r#"  "z": 1,"#,
            r#"  "a": ["#,
            "    true,",
            "    {},",
            "    [],",
            r#"    "b: {\"c\", \\""#,
            "  ],",
            r#"  "n": 1.50e2"#,
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
