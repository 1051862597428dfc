//! The path that a client sent, and the ways in which routers may read it: [`SentPath`].

use http::request::Parts;
use percent_encoding::percent_decode;

use super::automaton::MAX_SEGMENTS;

/// The whole path that the client sent, even inside of a nested axum router.
#[derive(Debug)]
pub(crate) struct SentPath<'a> {
    pub(crate) text: &'a str,
    /// `None` for a plain path.
    pub(super) odd: Option<Box<Odd>>,
}

/// The readings of a path that is not plain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Odd {
    /// Each reading as decoded segments, without the empty one after a trailing slash. The first
    /// reading only splits at slashes; in the others, dot segments, empty segments, backslashes and
    /// encoded slashes may be resolved.
    pub(super) readings: Vec<Vec<DecodedSegment>>,
    /// A router that decodes the path before it splits it splits at an encoded slash.
    has_encoded_slash: bool,
    /// Empty segments, dot segments or backslashes, which routers treat in different ways.
    has_loose_segments: bool,
}

pub(super) type DecodedSegment = Vec<u8>;

impl<'a> SentPath<'a> {
    #[inline]
    pub(crate) fn from_request(request: &'a Parts) -> Self {
        #[cfg(feature = "axum")]
        if let Some(axum::extract::OriginalUri(uri)) = request.extensions.get() {
            return Self::new(uri.path());
        }
        Self::new(request.uri.path())
    }

    #[inline]
    pub(crate) fn new(text: &'a str) -> Self {
        let odd = if is_plain(text.as_bytes()) { None } else { Some(Odd::new(text)) };
        Self { text, odd }
    }

    /// Whether all routers read it in the same way.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.odd.is_none()
    }

    /// Whether routers split it into different segments.
    pub(crate) fn is_ambiguous(&self) -> bool {
        self.is_loose() || self.odd.as_ref().is_some_and(|odd| odd.has_encoded_slash)
    }

    /// Whether they do so even if none of them splits at an encoded slash, which is part of its
    /// segment (RFC 3986, section 2.2).
    pub(super) fn is_loose(&self) -> bool {
        self.odd.as_ref().is_some_and(|odd| odd.has_loose_segments)
    }
}

/// Whether no byte can be read in two ways. A segment that begins with a dot is not plain here;
/// [`Odd`] finds out whether it is a dot segment.
#[inline]
fn is_plain(path: &[u8]) -> bool {
    let ends_well = path.len() == 1 || path.last() != Some(&b'/');
    path.first() == Some(&b'/') && ends_well && !has_odd_bytes(path)
}

/// Compares eight bytes at a time, as this runs for each request.
#[inline]
fn has_odd_bytes(path: &[u8]) -> bool {
    let (eights, rest) = path.as_chunks::<8>();
    let (mut odd, mut before) = (0, 0);
    for eight in eights {
        odd |= odd_bytes(*eight, &mut before);
    }
    if !rest.is_empty() {
        // The last eight bytes: they overlap the chunk before.
        let last = path.last_chunk::<8>().copied().unwrap_or_else(|| {
            let mut padded = [b'-'; 8];
            padded.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            padded
        });
        odd |= odd_bytes(last, &mut 0);
    }
    odd != 0
}

/// Not 0 if there is `%`, `\`, a byte that is not ASCII, or a slash before another slash or a dot.
/// `before` is 0x80 if a slash comes before these bytes, and else 0; it is updated for the bytes that
/// follow.
#[inline]
#[expect(clippy::arithmetic_side_effects, reason = "the highest bit of each byte is free")]
fn odd_bytes(eight: [u8; 8], before: &mut u64) -> u64 {
    const LOW: u64 = u64::from_le_bytes([0x7f; 8]);
    let eight = u64::from_le_bytes(eight);
    // The highest bit of each byte that equals `byte`, if all bytes are ASCII. No addition carries.
    let are = |byte: u8, eight: u64| {
        let other = eight ^ u64::from_le_bytes([byte; 8]);
        !((other & LOW) + LOW) & !LOW
    };
    // A dot and a slash differ in their lowest bit.
    let dots_and_slashes = are(b'/', eight | u64::from_le_bytes([1; 8]));
    let slashes = are(b'/', eight);
    let pairs = (slashes << 8 | *before) & dots_and_slashes;
    *before = slashes >> 56;
    (eight & !LOW) | are(b'%', eight) | are(b'\\', eight) | pairs
}

impl Odd {
    #[cold]
    #[inline(never)]
    fn new(path: &str) -> Box<Self> {
        let mut odd =
            Self { readings: Vec::new(), has_encoded_slash: false, has_loose_segments: false };
        // The target is `*` or has no path (RFC 9112, section 3.2).
        let Some(path) = path.strip_prefix('/') else { return Box::new(odd) };
        let as_sent = without_slash(decoded(split(path.as_bytes())));
        let has = |found: fn(&DecodedSegment) -> bool| as_sent.iter().any(found);
        let has_backslash = path.contains('\\');
        odd.has_encoded_slash = has(|segment| segment.contains(&b'/'));
        // A router may merge an encoded slash with the slash beside it.
        let has_slash_at_end = has(|segment| segment.starts_with(b"/") || segment.ends_with(b"/"));
        odd.has_loose_segments =
            has_backslash || has_slash_at_end || has(Vec::is_empty) || has(is_dots);
        let encoded_dots = odd.has_encoded_slash && has_dots(&split(&decode(path.as_bytes())));
        odd.has_loose_segments |= encoded_dots;
        odd.readings.push(as_sent);
        if odd.has_encoded_slash || odd.has_loose_segments {
            odd.resolve(path.as_bytes());
        }
        if has_backslash {
            odd.resolve(path.replace('\\', "/").as_bytes());
        }
        Box::new(odd)
    }

    /// Adds the readings of routers that decode before or after they split, that resolve dot segments
    /// (RFC 3986, section 5.2.4) before or after that or not at all, and that merge slashes or not.
    fn resolve(&mut self, path: &[u8]) {
        for (segments, is_encoded) in
            [(split(path), true), (decoded(split(path)), false), (split(&decode(path)), false)]
        {
            let mut add =
                |segments| self.add(if is_encoded { decoded(segments) } else { segments });
            if has_dots(&segments) {
                add(without_dots(segments.iter().filter(|segment| !segment.is_empty())));
                add(without_dots(segments.iter()));
            }
            add(segments);
        }
    }

    fn add(&mut self, segments: Vec<DecodedSegment>) {
        let segments = without_slash(segments);
        if !self.readings.contains(&segments) {
            self.readings.push(segments);
        }
    }
}

fn decode(path: &[u8]) -> Vec<u8> {
    percent_decode(path).collect()
}

fn decoded(segments: Vec<DecodedSegment>) -> Vec<DecodedSegment> {
    segments.iter().map(|segment| decode(segment)).collect()
}

/// The segments between slashes. More empty ones in a row than a pattern has segments change no
/// match, so these are dropped.
fn split(path: &[u8]) -> Vec<DecodedSegment> {
    let mut empty = 0_usize;
    let segments = path.split(|byte| *byte == b'/').filter(|segment| {
        empty = if segment.is_empty() { empty.saturating_add(1) } else { 0 };
        empty <= MAX_SEGMENTS
    });
    segments.map(<[u8]>::to_vec).collect()
}

fn without_slash(mut segments: Vec<DecodedSegment>) -> Vec<DecodedSegment> {
    segments.pop_if(|last| last.is_empty());
    segments
}

fn is_dots(segment: &DecodedSegment) -> bool {
    matches!(&**segment, b"." | b"..")
}

fn has_dots(segments: &[DecodedSegment]) -> bool {
    segments.iter().any(is_dots)
}

fn without_dots<'a>(segments: impl Iterator<Item = &'a DecodedSegment>) -> Vec<DecodedSegment> {
    let mut resolved = Vec::new();
    for segment in segments {
        match &**segment {
            b"." => {}
            b".." => drop(resolved.pop()),
            _ => resolved.push(segment.clone()),
        }
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings(path: &str) -> Vec<String> {
        let odd = SentPath::new(path).odd.unwrap();
        let joined = odd.readings.iter().map(|segments| segments.join(&b'|'));
        joined.map(|reading| String::from_utf8(reading).unwrap()).collect()
    }

    #[test]
    fn a_plain_path_has_one_reading() {
        for path in ["/", "/a", "/v1/users/7", "/a.b/c", "/~a/b-c_d;e=f,g:h@i!$&'()*+"] {
            assert!(SentPath::new(path).is_plain(), "{path}");
        }
        for path in ["", "*", "//", "/a/", "/a//b", "/%61", "/a/.", "/./a", "/..", "/a\\b", "/é"] {
            assert!(!SentPath::new(path).is_plain(), "{path}");
        }
    }

    #[test]
    fn an_odd_byte_is_seen_wherever_it_is() {
        for length in 1..40 {
            let plain = format!("/{}", "a".repeat(length));
            assert!(is_plain(plain.as_bytes()), "{plain}");
            for at in 1..=length {
                for odd in ["%", "\\", "\u{e9}", "//", "/.", "/..", "/./"] {
                    let path = format!("{}{odd}{}", &plain[..at], &plain[at..]);
                    assert!(!is_plain(path.as_bytes()), "{path}");
                }
                for even in [".", "$", "&", "[", "]", "/a", "./a", "-", "\u{7f}", "\0"] {
                    let path = format!("{}{even}{}", &plain[..at], &plain[at..]);
                    let begins = at == 1 && even.starts_with(['.', '/']);
                    assert_eq!(is_plain(path.as_bytes()), !begins, "{path}");
                }
            }
        }
    }

    #[test]
    fn only_what_splits_differently_is_ambiguous() {
        for path in ["/a/", "/a%20b/c", "/.well-known/jwks.json", "/...", "/é", "*", "/a%"] {
            assert!(!SentPath::new(path).is_ambiguous(), "{path}");
        }
        for path in ["//a", "/a//", "/a/./b", "/a/%2e%2E/b", "/..", "/a\\b", "/a%2fb", "/a%2F"] {
            assert!(SentPath::new(path).is_ambiguous(), "{path}");
        }
        assert!(!SentPath::new("/a%2Fb").is_loose());
        for path in ["/a%2F", "/%2Fa", "/a%2F/b", "/a/%2f/b"] {
            assert!(SentPath::new(path).is_loose(), "{path}");
        }
        assert!(SentPath::new("/a%2F..%2Fb").is_loose());
    }

    #[test]
    fn an_odd_path_has_the_readings_of_different_routers() {
        assert_eq!(readings("/a/b/"), ["a|b"]);
        assert_eq!(readings("/%61//b"), ["a||b"]);
        assert_eq!(readings("/a%2Fb/c"), ["a/b|c", "a|b|c"]);
        assert_eq!(readings("/a/%2e%2e/b"), ["a|..|b", "b"]);
        assert_eq!(readings("/a//../b"), ["a||..|b", "b", "a|b"]);
        assert_eq!(readings("/a\\b"), ["a\\b", "a|b"]);
        assert_eq!(readings("/a/./x/%2e%2e/b"), ["a|.|x|..|b", "a|x|..|b", "a|b"]);
        assert_eq!(readings("/../../b"), ["..|..|b", "b"]);
        assert_eq!(readings("*"), [""; 0]);
    }

    #[test]
    fn a_flood_of_slashes_is_cut_short() {
        let slashes = "/".repeat(60_000);
        let odd = SentPath::new(&slashes).odd.unwrap();
        assert!(odd.readings.iter().all(|segments| segments.len() <= MAX_SEGMENTS));
    }
}
