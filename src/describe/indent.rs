//! Breaks JSON into indented lines: [`indented`].

use serde::de::IgnoredAny;

/// JSON with a line for each member; any other text unchanged.
///
/// It works on the text: to parse and write a value may change the order of its members.
pub(super) fn indented(text: &str) -> String {
    if serde_json::from_str::<IgnoredAny>(text).is_err() {
        return text.to_owned();
    }
    let mut lines = Lines::default();
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => {
                lines.written.push('"');
                let mut escaped = false;
                for character in characters.by_ref() {
                    lines.written.push(character);
                    match character {
                        '"' if !escaped => break,
                        _ => escaped = character == '\\' && !escaped,
                    }
                }
            }
            '{' | '[' => {
                while characters.next_if(|next| next.is_ascii_whitespace()).is_some() {}
                lines.written.push(character);
                match characters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => lines.written.push(end),
                    None => lines.break_at(lines.depth + 1),
                }
            }
            '}' | ']' => {
                lines.break_at(lines.depth.saturating_sub(1));
                lines.written.push(character);
            }
            ',' => {
                lines.written.push(',');
                lines.break_at(lines.depth);
            }
            ':' => lines.written.push_str(": "),
            character if character.is_ascii_whitespace() => {}
            character => lines.written.push(character),
        }
    }
    lines.written
}

#[derive(Default)]
struct Lines {
    written: String,
    depth: usize,
}

impl Lines {
    fn break_at(&mut self, depth: usize) {
        self.depth = depth;
        self.written.push('\n');
        self.written.extend(std::iter::repeat_n("  ", depth));
    }
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
