//! Joins quota headers with those that an inner layer, or the handler, has already written.
//!
//! A response shows the limit that its caller reaches first. A header with room for one policy
//! keeps the numbers with the smaller share left; a list gets the members of all layers.

use std::cmp::{Ordering, Reverse};

use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

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
        let scaled = |of: &Self, by: &Self| u128::from(of.remaining) * u128::from(by.limit);
        let share = scaled(self, other).cmp(&scaled(other, self));
        // A limit of 0 has no share.
        let share = if self.limit == 0 || other.limit == 0 {
            self.remaining.cmp(&other.remaining)
        } else {
            share
        };
        share.then(Reverse(self.reset).cmp(&Reverse(other.reset))) == Ordering::Less
    }

    /// The numbers of a family of three headers. The limit is no longer in the map.
    pub(super) fn in_triple(
        headers: &HeaderMap,
        limit: &HeaderValue,
        [_, remaining, reset]: &[HeaderName; 3],
    ) -> Option<Self> {
        Some(Self {
            limit: first_number(limit)?,
            remaining: first_number(headers.get(remaining)?)?,
            reset: headers.get(reset).and_then(first_number).unwrap_or(0),
        })
    }

    /// The numbers of the field `RateLimit`, a dictionary or a list.
    pub(super) fn in_field(headers: &HeaderMap) -> Option<Self> {
        match Members::of(headers, STRUCTURED) {
            Some(limits) => limits.tightest(&Members::of(headers, POLICY)?),
            None => Self::in_dictionary(headers.get(STRUCTURED)?.to_str().ok()?),
        }
    }

    fn in_dictionary(text: &str) -> Option<Self> {
        let member = |name: &str| {
            let mut members = text.split(',').filter_map(|member| member.trim().split_once('='));
            members.find(|(key, _)| *key == name)?.1.parse().ok()
        };
        Some(Self {
            limit: member("limit")?,
            remaining: member("remaining")?,
            reset: member("reset").unwrap_or(0),
        })
    }
}

/// The first number: 100 in `100`, and in `100, 100;w=60`.
fn first_number(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.split([',', ';']).next()?.trim().parse().ok()
}

/// The members of a list of policies, from all lines of a field.
pub(super) struct Members(Vec<Member>);

/// A string with parameters, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    text: String,
    /// The length of the name at the beginning of `text`, quotation marks included.
    name: usize,
}

impl Members {
    /// The members of a field; `None` if it is no such list.
    fn of(headers: &HeaderMap, name: HeaderName) -> Option<Self> {
        let mut members = Vec::new();
        for line in headers.get_all(name) {
            read_line(line.to_str().ok()?, &mut members)?;
        }
        (!members.is_empty()).then_some(Self(members))
    }

    fn in_line(line: &HeaderValue) -> Option<Self> {
        let mut members = Vec::new();
        read_line(line.to_str().ok()?, &mut members)?;
        Some(Self(members))
    }

    /// The tightest numbers of those policies whose limit is in `policies`.
    fn tightest(&self, policies: &Self) -> Option<Numbers> {
        let numbers = self.0.iter().filter_map(|member| {
            let policy = policies.of_policy(member)?;
            Some(Numbers {
                limit: policy.parameter("q")?,
                remaining: member.parameter("r")?,
                reset: member.parameter("t").unwrap_or(0),
            })
        });
        numbers.reduce(|first, other| if other.is_tighter_than(&first) { other } else { first })
    }

    fn of_policy(&self, member: &Member) -> Option<&Member> {
        self.0.iter().find(|own| own.is_of(member))
    }

    /// The members of both lists, each policy once. If both have a policy, the member of `others`
    /// is kept if it `win`s.
    fn join(&self, others: &Self, win: impl Fn(&Member) -> bool) -> Self {
        let keeps = |own: &&Member| others.of_policy(own).is_none() || !win(own);
        let takes = |other: &&Member| self.of_policy(other).is_none() || win(other);
        let own = self.0.iter().filter(keeps);
        Self(own.chain(others.0.iter().filter(takes)).cloned().collect())
    }

    fn value(&self) -> Option<HeaderValue> {
        let texts: SmallVec<[&str; 8]> = self.0.iter().map(|member| &*member.text).collect();
        HeaderValue::try_from(texts.join(", ")).ok()
    }
}

impl Member {
    /// Whether both are the same policy and the same partition of it.
    fn is_of(&self, other: &Self) -> bool {
        self.name() == other.name() && self.raw_parameter("pk") == other.raw_parameter("pk")
    }

    /// The name, and the parameters.
    fn parts(&self) -> (&str, &str) {
        self.text.split_at_checked(self.name).unwrap_or((&self.text, ""))
    }

    fn name(&self) -> &str {
        self.parts().0
    }

    fn raw_parameter(&self, key: &str) -> Option<&str> {
        let mut parameters = self.parts().1.split(';').filter_map(|one| one.split_once('='));
        parameters.find(|(name, _)| name.trim() == key).map(|(_, value)| value.trim())
    }

    fn parameter(&self, key: &str) -> Option<u64> {
        self.raw_parameter(key)?.parse().ok()
    }
}

/// Adds the members of a line: strings (RFC 9651, section 3.3.3) with parameters, none of which has
/// a comma outside of a string.
fn read_line(line: &str, members: &mut Vec<Member>) -> Option<()> {
    let mut rest = line.trim();
    loop {
        let name = string_length(rest)?;
        let mut end = name;
        while let Some(byte) = rest.as_bytes().get(end).filter(|byte| **byte != b',') {
            let length = if *byte == b'"' { string_length(rest.get(end..)?)? } else { 1 };
            end = end.checked_add(length)?;
        }
        let text = rest.get(..end)?.trim_end();
        if !matches!(text.as_bytes().get(name), None | Some(b';')) {
            return None;
        }
        members.push(Member { text: text.to_owned(), name });
        match rest.get(end.checked_add(1)?..) {
            None => return Some(()),
            Some(next) => rest = next.trim_start(),
        }
    }
}

/// The length of the string at the beginning of a text, quotation marks included.
fn string_length(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate();
    bytes.next().filter(|(_, byte)| *byte == b'"')?;
    while let Some((place, byte)) = bytes.next() {
        match byte {
            b'"' => return place.checked_add(1),
            b'\\' => drop(bytes.next()?),
            _ => {}
        }
    }
    None
}

/// Joins our lists with those in the headers; `false` if the headers have no such lists.
///
/// If both have a policy, the member with the fewer units is kept, with its quota.
pub(super) fn join_lists(
    headers: &mut HeaderMap,
    policies: &HeaderValue,
    limits: &HeaderValue,
) -> bool {
    let join = || {
        let theirs = [Members::of(headers, POLICY)?, Members::of(headers, STRUCTURED)?];
        let ours = [Members::in_line(policies)?, Members::in_line(limits)?];
        let ([our_policies, our_limits], [their_policies, their_limits]) = (&ours, &theirs);
        let they_have_fewer = |member: &Member| {
            let [ours, theirs] =
                [our_limits, their_limits].map(|limits| limits.of_policy(member)?.parameter("r"));
            ours.zip(theirs).is_some_and(|(ours, theirs)| theirs < ours)
        };
        let policies = our_policies.join(their_policies, they_have_fewer).value();
        policies.zip(our_limits.join(their_limits, they_have_fewer).value())
    };
    let Some((policies, limits)) = join() else { return false };
    headers.insert(POLICY, policies);
    headers.insert(STRUCTURED, limits);
    true
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
            let mut members = Vec::new();
            read_line(line, &mut members)?;
            Some(members.iter().map(|member| member.text.clone()).collect::<Vec<_>>().join("|"))
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
            (r#""a","#, None),
            (r#""a";qu="b"#, None),
            ("größe", None),
        ] {
            assert_eq!(read(line).as_deref(), members, "{line}");
        }
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
                [r#""a";q=6"#, r#""a";r=4"#],
                [r#""a";q=5"#, r#""a";r=3"#],
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
            assert!(join_lists(&mut headers, &policies, &limits));
            assert_eq!([&headers[POLICY], &headers[STRUCTURED]], both);
        }
    }
}
