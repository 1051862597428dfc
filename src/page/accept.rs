//! The format that a request prefers (`Accept`, RFC 9110, section 12.5.1): [`preferred`].

use http::{HeaderMap, header::ACCEPT};

/// Returns the format with the highest quality in the request's `Accept`; `formats` have content types.
/// Ties go to the format that the header names most specifically, then to the first. If no format is
/// acceptable, it is the first.
pub(crate) fn preferred<'f, T, const N: usize>(
    headers: &HeaderMap,
    formats: &'f [(&'static str, T); N],
) -> &'f (&'static str, T) {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let accept = lines.collect::<Vec<_>>().join(",");
    let preference = |format: &&(&str, T)| Preference::new(&accept, format.0);
    // `max_by_key` returns the last of equals, so the order is reversed.
    let acceptable = formats.iter().rev().filter(|format| preference(format).quality > 0);
    acceptable.max_by_key(preference).unwrap_or(&formats[0])
}

/// How much the request prefers a media type.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
struct Preference {
    /// In thousandths.
    quality: u16,
    /// 2 for the type itself, 1 for `text/*`, 0 for `*/*`.
    specificity: u8,
}

impl Preference {
    /// By the range of `accept` that names the content type most specifically.
    #[expect(clippy::cast_possible_truncation, reason = "a weight is no more than 1,000")]
    fn new(accept: &str, content_type: &str) -> Self {
        let media_type = content_type.split(';').next().unwrap_or(content_type);
        let preferences = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let specificity = specificity(parts.next()?, media_type)?;
            let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            let weight = weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0));
            Some(Self { quality: (weight.clamp(0.0, 1.0) * 1_000.0) as u16, specificity })
        });
        preferences
            .max_by_key(|preference| (preference.specificity, preference.quality))
            .unwrap_or_default()
    }
}

fn specificity(range: &str, media_type: &str) -> Option<u8> {
    if range == "*/*" {
        return Some(0);
    }
    if range.eq_ignore_ascii_case(media_type) {
        return Some(2);
    }
    let (kind, _) = media_type.split_once('/')?;
    range.strip_suffix("/*").filter(|range| range.eq_ignore_ascii_case(kind)).map(|_| 1)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_format_of_highest_quality_is_chosen_then_the_most_specific_then_the_first() {
        let formats =
            [("text/html; charset=utf-8", 0), ("text/markdown", 1), ("application/json", 2)];
        for (accept, chosen) in [
            ("", 0),
            ("*/*", 0),
            ("image/png", 0),
            ("text/*", 0),
            ("application/*", 2),
            ("application/json, */*", 2),
            ("text/html;q=0.5, Text/Markdown", 1),
            ("text/html;q=0, text/*;q=0.1", 1),
            ("text/html;q=wrong, application/json;q=0.001", 2),
            ("text/html;q=0, text/markdown;q=0, application/json;q=0", 0),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", 0),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(preferred(&headers, &formats).1, chosen, "{accept}");
        }
        assert_eq!(preferred(&HeaderMap::new(), &formats).1, 0);
    }
}
