//! The format that a request prefers (`Accept`, RFC 9110, section 12.5.1): [`preferred`].

use http::{HeaderMap, header::ACCEPT};

/// The format that the request wants most, of `formats` by their content types. Of those that it wants
/// alike: the one that it names most closely, then the first. Where it wants none: the first.
pub(crate) fn preferred<'f, T, const N: usize>(
    headers: &HeaderMap,
    formats: &'f [(&'static str, T); N],
) -> &'f (&'static str, T) {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let accept = lines.collect::<Vec<_>>().join(",");
    let wish = |format: &&(&str, T)| Wish::new(&accept, format.0);
    // Of those with the same wish, the last is the greatest.
    let wanted = formats.iter().rev().filter(|format| wish(format).quality > 0);
    wanted.max_by_key(wish).unwrap_or(&formats[0])
}

/// How much a media type is wanted.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord)]
struct Wish {
    /// In thousandths.
    quality: u16,
    /// 2 for the type itself, 1 for `text/*`, 0 for `*/*`.
    closeness: u8,
}

impl Wish {
    /// By the range of `accept` that names the content type most closely.
    #[expect(clippy::cast_possible_truncation, reason = "a weight is no more than 1,000")]
    fn new(accept: &str, content_type: &str) -> Self {
        let media_type = content_type.split(';').next().unwrap_or(content_type);
        let wishes = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let closeness = closeness(parts.next()?, media_type)?;
            let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            let weight = weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0));
            Some(Self { quality: (weight.clamp(0.0, 1.0) * 1_000.0) as u16, closeness })
        });
        wishes.max_by_key(|wish| (wish.closeness, wish.quality)).unwrap_or_default()
    }
}

fn closeness(range: &str, media_type: &str) -> Option<u8> {
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
    fn the_most_wanted_format_is_chosen_then_the_most_closely_named_then_the_first() {
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
