//! Joins quota headers with those that an inner layer, or the handler, has already written.
//!
//! A response shows the limit that its caller reaches first. A header with room for one policy
//! keeps the numbers with the smaller share left; a list gets the members of all layers.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::style::{POLICY, STRUCTURED};

/// The numbers of one policy in a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) limit: u64,
    pub(super) remaining: u64,
    pub(super) reset: u64,
}

impl Numbers {
    /// Whether the caller reaches this limit before the other: a smaller share is left, or it takes
    /// longer until more is.
    #[expect(clippy::arithmetic_side_effects, reason = "128 bits hold the product of two 64")]
    pub(super) fn is_tighter_than(&self, other: &Self) -> bool {
        let scaled = |own: &Self, by: &Self| u128::from(own.remaining) * u128::from(by.limit);
        let share = if self.limit == 0 || other.limit == 0 {
            // A limit of 0 has no share.
            self.remaining.cmp(&other.remaining)
        } else {
            scaled(self, other).cmp(&scaled(other, self))
        };
        share.then(other.reset.cmp(&self.reset)).is_lt()
    }

    /// The numbers of a family of three headers. The limit is no longer in the map.
    pub(super) fn in_triple(
        headers: &HeaderMap,
        limit: &HeaderValue,
        [_, remaining, reset]: &[HeaderName; 3],
    ) -> Option<Self> {
        // The first number: 100 in `100`, and in `100, 100;w=60`.
        let first = |value: &HeaderValue| {
            value.to_str().ok()?.split([',', ';']).next()?.trim().parse().ok()
        };
        Some(Self {
            limit: first(limit)?,
            remaining: first(headers.get(remaining)?)?,
            reset: headers.get(reset).and_then(first).unwrap_or(0),
        })
    }

    /// The numbers of the field `RateLimit`: those of a dictionary, or the tightest of a list.
    pub(super) fn in_field(headers: &HeaderMap) -> Option<Self> {
        let Some(limits) = members(headers.get_all(STRUCTURED)) else {
            let dictionary = split(headers.get(STRUCTURED)?.to_str().ok()?, ',')?;
            return Some(Self {
                limit: number(&dictionary, "limit")?,
                remaining: number(&dictionary, "remaining")?,
                reset: number(&dictionary, "reset").unwrap_or(0),
            });
        };
        let policies = members(headers.get_all(POLICY))?;
        let numbers = limits.iter().filter_map(|limit| {
            Some(Self {
                limit: number(&find(&policies, limit)?.parts, "q")?,
                remaining: number(&limit.parts, "r")?,
                reset: number(&limit.parts, "t").unwrap_or(0),
            })
        });
        numbers.reduce(|first, other| if other.is_tighter_than(&first) { other } else { first })
    }
}

/// A member of a list of policies, as it is written.
struct Member<'a> {
    text: &'a str,
    /// The name of the policy, and the partition key.
    identity: (&'a str, Option<&'a str>),
    /// The name and the parameters.
    parts: Vec<&'a str>,
}

/// The members of a list of policies, from all lines of a field: strings (RFC 9651, section 3.3.3)
/// with parameters. `None` if the field is no such list.
fn members<'a>(lines: impl IntoIterator<Item = &'a HeaderValue>) -> Option<Vec<Member<'a>>> {
    let mut members = Vec::new();
    for line in lines {
        for text in split(line.to_str().ok()?, ',')? {
            let text = text.trim();
            let parts = split(text, ';')?;
            let name = parts.first().filter(|name| is_string(name))?;
            members.push(Member { text, identity: (name, value(&parts, "pk")), parts });
        }
    }
    (!members.is_empty()).then_some(members)
}

/// The parts of a text between the separators outside of its strings; `None` if a string has no
/// end.
fn split(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut in_string, mut is_escaped) = (false, false);
    let is_end = |character| {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = in_string,
            '"' => in_string = !in_string,
            _ => {}
        }
        character == separator && !in_string
    };
    let parts = text.split(is_end).collect();
    (!in_string).then_some(parts)
}

/// Whether the text is one string, and nothing else.
fn is_string(text: &str) -> bool {
    let inside = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    let unescaped = inside.map(|inside| inside.replace(r"\\", "").replace(r#"\""#, ""));
    unescaped.is_some_and(|rest| !rest.contains(['"', '\\']))
}

/// The value of `key=value` among the parts.
fn value<'a>(parts: &[&'a str], key: &str) -> Option<&'a str> {
    parts.iter().find_map(|part| part.trim().strip_prefix(key)?.strip_prefix('='))
}

fn number(parts: &[&str], key: &str) -> Option<u64> {
    value(parts, key)?.parse().ok()
}

/// The member of a list with the policy of `member`, and the same partition of it.
fn find<'a>(list: &'a [Member<'a>], member: &Member<'_>) -> Option<&'a Member<'a>> {
    list.iter().find(|other| other.identity == member.identity)
}

/// Joins our lists with those in the headers; `None` if the headers have no such lists.
///
/// If both have a policy, the member with the fewer units is kept, with its quota.
#[cold]
pub(super) fn join_lists(
    headers: &HeaderMap,
    policies: &HeaderValue,
    limits: &HeaderValue,
) -> Option<(HeaderValue, HeaderValue)> {
    let [our_policies, our_limits] = [members([policies])?, members([limits])?];
    let their_policies = members(headers.get_all(POLICY))?;
    let their_limits = members(headers.get_all(STRUCTURED))?;
    let they_have_fewer = |member: &Member<'_>| {
        let [theirs, ours] =
            [&their_limits, &our_limits].map(|limits| number(&find(limits, member)?.parts, "r"));
        theirs.zip(ours).is_some_and(|(theirs, ours)| theirs < ours)
    };
    let join = |ours: &[Member<'_>], theirs: &[Member<'_>]| {
        let kept = ours.iter().filter(|own| find(theirs, own).is_none() || !they_have_fewer(own));
        let added =
            theirs.iter().filter(|other| find(ours, other).is_none() || they_have_fewer(other));
        let texts: Vec<_> = kept.chain(added).map(|member| member.text).collect();
        HeaderValue::try_from(texts.join(", ")).ok()
    };
    join(&our_policies, &their_policies).zip(join(&our_limits, &their_limits))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(remaining: u64, limit: u64, reset: u64) -> Numbers {
        Numbers { limit, remaining, reset }
    }

    #[test]
    fn the_smaller_share_is_tighter_and_then_the_longer_reset() {
        for (tighter, other) in [
            (numbers(3, 100, 0), numbers(2, 4, 0)),
            (numbers(0, 100, 0), numbers(1, 1_000_000, 9)),
            (numbers(u64::MAX - 1, u64::MAX, 0), numbers(1, 1, 0)),
            (numbers(1, 2, 60), numbers(2, 4, 30)),
            (numbers(0, 0, 0), numbers(1, 4, 0)),
        ] {
            assert!(tighter.is_tighter_than(&other), "{tighter:?} {other:?}");
            assert!(!other.is_tighter_than(&tighter), "{tighter:?} {other:?}");
        }
        assert!(!numbers(1, 2, 3).is_tighter_than(&numbers(1, 2, 3)));
    }

    #[test]
    fn lines_are_read_as_lists_of_strings_or_not_at_all() {
        let read = |line: &str| {
            let line = HeaderValue::from_str(line).unwrap();
            let members = members([&line])?;
            Some(members.iter().map(|member| member.text).collect::<Vec<_>>().join("|"))
        };
        for (line, members) in [
            (r#""a";r=1;t=2"#, Some(r#""a";r=1;t=2"#)),
            (r#" "a";r=1 ,"b" "#, Some(r#""a";r=1|"b""#)),
            (r#""a,\"b";q=1;qu="x,y";w=3, "c""#, Some(r#""a,\"b";q=1;qu="x,y";w=3|"c""#)),
            (r#""a";pk=:Zm9v:"#, Some(r#""a";pk=:Zm9v:"#)),
            ("", None),
            ("limit=1, remaining=0", None),
            (r#""a"#, None),
            (r#""a\"#, None),
            (r#""a" b"#, None),
            (r#""a" "b""#, None),
            (r#""a" ;r=1"#, None),
            (r#""a\b""#, None),
            (r#""a\\";r=1"#, Some(r#""a\\";r=1"#)),
            (r#""a","#, None),
            (r#""a";qu="b"#, None),
            ("größe", None),
        ] {
            assert_eq!(read(line).as_deref(), members, "{line}");
        }
    }

    #[test]
    fn of_a_list_the_tightest_numbers_are_read() {
        for (policies, limits, expected) in [
            (r#""a";q=9, "b";q=9"#, r#""a";r=5;t=1, "b";r=2;t=7"#, Some(numbers(2, 9, 7))),
            (r#""a";q=9, "b";q=9"#, r#""a";r=2, "b";r=5;t=7"#, Some(numbers(2, 9, 0))),
            (r#""a";q=9"#, r#""b";r=5"#, None),
            ("", r#""a";r=5"#, None),
            ("", "limit=9, remaining=2;x, reset=7", None),
            ("", "limit=9, remaining=2, reset=7", Some(numbers(2, 9, 7))),
        ] {
            let lines = [(POLICY, policies), (STRUCTURED, limits)].into_iter();
            let lines = lines.filter(|(_, line)| !line.is_empty());
            let headers = lines.map(|(name, line)| (name, HeaderValue::from_static(line)));
            assert_eq!(Numbers::in_field(&headers.collect()), expected, "{policies} {limits}");
        }
    }

    #[test]
    fn a_list_without_policies_is_not_joined() {
        let mut headers = HeaderMap::new();
        headers.insert(STRUCTURED, HeaderValue::from_static(r#""a";r=3"#));
        let own = [r#""b";q=5"#, r#""b";r=3"#].map(HeaderValue::from_static);
        assert_eq!(join_lists(&headers, &own[0], &own[1]), None);
    }

    #[test]
    fn joined_lists_have_each_policy_of_a_partition_once() {
        for (ours, theirs, both) in [
            (
                [r#""a";q=5;w=1"#, r#""a";r=3"#],
                [r#""b";q=6"#, r#""b";r=4"#],
                [r#""a";q=5;w=1, "b";q=6"#, r#""a";r=3, "b";r=4"#],
            ),
            (
                [r#""a";q=5"#, r#""a";r=3"#],
                [r#""a";q=6"#, r#""a";r=2;t=1"#],
                [r#""a";q=6"#, r#""a";r=2;t=1"#],
            ),
            (
                [r#""a";q=5"#, r#""a";r=3"#],
                [r#""a";q=6"#, r#""a";qu=";r=2";r=4"#],
                [r#""a";q=5"#, r#""a";r=3"#],
            ),
            (
                [r#""a";q=5"#, r#""a";r=3"#],
                [r#""a";q=6"#, r#""a";r=3"#],
                [r#""a";q=5"#, r#""a";r=3"#],
            ),
            // Without its quota, a policy cannot replace ours.
            (
                [r#""a";q=5"#, r#""a";r=3"#],
                [r#""b";q=6"#, r#""a";r=2, "b";r=4"#],
                [r#""a";q=5, "b";q=6"#, r#""a";r=2, "b";r=4"#],
            ),
            (
                [r#""a";q=5;pk=:x:"#, r#""a";r=3;pk=:x:"#],
                [r#""a";q=5;pk=:y:"#, r#""a";r=2;pk=:y:"#],
                [r#""a";q=5;pk=:x:, "a";q=5;pk=:y:"#, r#""a";r=3;pk=:x:, "a";r=2;pk=:y:"#],
            ),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(POLICY, HeaderValue::from_static(theirs[0]));
            headers.insert(STRUCTURED, HeaderValue::from_static(theirs[1]));
            let [policies, limits] = ours.map(HeaderValue::from_static);
            let (policies, limits) = join_lists(&headers, &policies, &limits).unwrap();
            assert_eq!([policies, limits], both);
        }
    }
}
