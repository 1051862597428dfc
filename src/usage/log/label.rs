//! Labels of keys: they identify a key to its owner, and disclose it to no reader of the log.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::sync::Arc;

use crate::key::Key;

/// Longer labels are cut.
const MAX_LABEL: usize = 64;
/// The fewest characters that stay hidden where the last four are shown.
const MIN_HIDDEN: usize = 12;
const SHOWN: usize = 4;
/// A longer prefix is no prefix of an API key: `sk_live_` and `github_pat_` are shorter.
const MAX_PREFIX: usize = 12;

/// The prefix and the last four characters of an API key: `pk_live_…9f2c`. For a key that does not
/// look like one, its kind.
pub(crate) fn label_of_api_key(kind: &str, key: &Key<'_>) -> String {
    masked(key.as_bytes()).unwrap_or_else(|| kind.to_owned())
}

/// `None` for a name or an email address: a secret consists of letters, digits and dashes, and has a
/// digit. This runs for each request, so it reads the key once.
fn masked(key: &[u8]) -> Option<String> {
    let (mut hidden, mut has_digit) = (0_usize, false);
    for byte in key.iter().rev().take_while(|byte| **byte != b'_') {
        has_digit |= byte.is_ascii_digit();
        if !byte.is_ascii_alphanumeric() && *byte != b'-' {
            return None;
        }
        hidden = hidden.saturating_add(1);
    }
    let (prefix, _) = key.split_at_checked(key.len().saturating_sub(hidden))?;
    let is_prefix = prefix.len() <= MAX_PREFIX
        && prefix.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b'_');
    if !is_prefix || !has_digit || hidden < MIN_HIDDEN + SHOWN {
        return None;
    }
    let text = |bytes| str::from_utf8(bytes).ok();
    Some([text(prefix)?, "…", text(key.last_chunk::<SHOWN>()?)?].concat())
}

/// Cuts a label to 64 characters.
pub(crate) fn cut_label(label: &str) -> Arc<str> {
    if label.len() <= MAX_LABEL {
        return label.into();
    }
    let end = label.char_indices().nth(MAX_LABEL);
    end.and_then(|(end, _)| label.get(..end)).unwrap_or(label).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label(key: &str) -> String {
        label_of_api_key("api key", &key.into())
    }

    #[test]
    fn an_api_key_is_known_by_prefix_and_last_four() {
        assert_eq!(label("pk_live_4f9a1c77b2e05d3388aa9f2c"), "pk_live_…9f2c");
        assert_eq!(label("4f9a1c77-b2e0-5d33-88aa-9f2c00000001"), "…0001");
        assert_eq!(label("sk_0123456789abcdef"), "sk_…cdef");
    }

    #[test]
    fn a_possible_name_or_a_short_key_is_not_shown() {
        for key in [
            "",
            "pk_live_mine",
            "sk_123456789abcdef",
            "reader@example.com",
            "some_body_with_a_long_and_winding_name",
            "a-name-of-letters-and-dashes",
            "NAME_0123456789abcdef",
            "a_prefix_that_is_long_0123456789abcdef",
            "0123456789 abcdef0123",
            "sk_01234567890éééé",
        ] {
            assert_eq!(label(key), "api key", "{key}");
        }
        let address = Key::from(std::net::IpAddr::from([192, 0, 2, 1]));
        assert_eq!(label_of_api_key("ip", &address), "ip");
    }

    #[test]
    fn long_labels_are_cut_between_characters() {
        assert_eq!(&*cut_label("short"), "short");
        assert_eq!(cut_label(&"é".repeat(100)).chars().count(), MAX_LABEL);
    }
}
