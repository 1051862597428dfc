//! One segment of a pattern: [`Segment`].

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// A literal text, which a parameter may follow: `users`, `{id}`, `v{version}`.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) literal: Box<str>,
    /// `literal`, percent-decoded.
    pub(super) decoded: Box<[u8]>,
    pub(super) param: Option<Box<str>>,
}

impl Segment {
    /// Parses a segment, and returns whether it is `{*rest}`.
    ///
    /// # Errors
    /// What is wrong with it and what to write instead, to follow "the path `…`".
    pub(super) fn parse(text: &str) -> Result<(Self, bool), String> {
        if let Some(name) = text.strip_prefix(':') {
            return Err(format!("has `{text}`, which matches only itself; write `{{{name}}}`"));
        }
        if let Some(name) = text.strip_prefix('*') {
            let name = if name.is_empty() { "rest" } else { name };
            return Err(format!("has `{text}`, which matches only itself; write `{{*{name}}}`"));
        }
        let broken = || {
            format!("has `{text}`, which does not parse; write one like `{{id}}` or `{{*path}}`")
        };
        let (mut literal, mut param) = (String::new(), None::<String>);
        let mut left = text.chars().peekable();
        while let Some(character) = left.next() {
            match character {
                '{' | '}' if left.next_if_eq(&character).is_some() => literal.push(character),
                '{' => {
                    let name = left.collect::<String>();
                    let name = name.strip_suffix('}').ok_or_else(broken)?;
                    param = Some(name.to_owned());
                    break;
                }
                '}' => return Err(broken()),
                '?' | '#' => {
                    let problem = "a path ends before it; leave it and what follows out";
                    return Err(format!("has `{character}`: {problem}"));
                }
                _ => literal.push(character),
            }
        }
        let is_rest = param.as_ref().is_some_and(|name| name.starts_with('*'));
        let param: Option<Box<str>> =
            param.map(|name| name.strip_prefix('*').unwrap_or(&name).into());
        if param.as_ref().is_some_and(|name| name.is_empty() || name.contains(['*', '{', '}'])) {
            return Err(broken());
        }
        let decoded = Cow::from(percent_decode_str(&literal)).into();
        Ok((Self { literal: literal.into(), decoded, param }, is_rest))
    }

    pub(super) fn is_param(&self, name: &str) -> bool {
        self.param.as_deref() == Some(name)
    }

    /// Whether it has no literal text, and so matches anything.
    pub(super) fn is_any(&self) -> bool {
        self.literal.is_empty()
    }

    /// Whether it matches a decoded segment of a path.
    pub(super) fn matches(&self, sent: &[u8]) -> bool {
        match self.param {
            None => *sent == *self.decoded,
            Some(_) => sent.starts_with(&self.decoded),
        }
    }

    /// Whether it matches every text that `other` matches.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match self.param {
            None => other.param.is_none() && self.literal == other.literal,
            // A parameter is never empty.
            Some(_) => other
                .literal
                .strip_prefix(&*self.literal)
                .is_some_and(|more| other.param.is_some() || !more.is_empty()),
        }
    }

    /// Whether a text may match both.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        match (&self.param, &other.param) {
            (None, None) => self.decoded == other.decoded,
            (Some(_), None) => other.decoded.starts_with(&self.decoded),
            (None, Some(_)) => self.decoded.starts_with(&other.decoded),
            (Some(_), Some(_)) => {
                self.decoded.starts_with(&other.decoded) || other.decoded.starts_with(&self.decoded)
            }
        }
    }
}
