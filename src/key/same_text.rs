//! Which texts are the same key: [`same_text`].

/// The longest text that may be a number.
const MAX_NUMBER: usize = 64;

/// The same text for all values that handlers may treat as the same one: trimmed, in lower case, and a
/// number in its shortest form, such as `7` for `"007"`, `"+7"` and `7.0`.
pub(crate) fn same_text(text: &str) -> String {
    let text = text.trim();
    number(text).unwrap_or_else(|| text.to_lowercase())
}

fn number(text: &str) -> Option<String> {
    let may_be = |byte: u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    if text.len() > MAX_NUMBER || !text.bytes().all(may_be) {
        return None;
    }
    match text.parse::<i128>() {
        Ok(whole) if is_whole(whole) => Some(whole.to_string()),
        _ => text.parse().ok().filter(|number: &f64| number.is_finite()).map(shortest),
    }
}

/// Whether JSON parsers keep this whole number exactly.
fn is_whole(number: i128) -> bool {
    (i64::MIN.into()..=u64::MAX.into()).contains(&number)
}

#[expect(clippy::cast_possible_truncation, reason = "what does not fit is not whole here")]
fn shortest(number: f64) -> String {
    // Beyond the range of `i128`, it is the nearest number of that range, and not whole here.
    let whole = number as i128;
    match number.fract() == 0.0 && is_whole(whole) {
        true => whole.to_string(),
        false => format!("{number:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_handlers_may_treat_as_the_same_are_one_key() {
        for (one, others) in [
            ("a@b.c", &[" A@B.C\t", "a@B.c"][..]),
            ("7", &["007", "+7", "7.0", "7e0", "0.7e1", " 7 "]),
            ("0", &["-0", "0.0", "-0.0", "+0", "00"]),
            ("-3", &["-03", "-3.0"]),
            ("18446744073709551615", &["018446744073709551615"]),
            ("1e20", &["100000000000000000000", "1.0E20"]),
            ("100000000000000000", &["1e17"]),
            ("0.5", &[".5", "5e-1"]),
            ("true", &["TRUE"]),
        ] {
            for other in others {
                assert_eq!(same_text(other), same_text(one), "{other}");
            }
        }
        for text in
            ["1.2.3.4", "2024-01-01", "1e999", "+", "e", "-", "inf", "nan", "0x7", "7a", "7 7"]
        {
            assert_eq!(same_text(text), text);
        }
        assert_eq!(same_text(&"7".repeat(MAX_NUMBER + 1)).len(), MAX_NUMBER + 1);
    }
}
