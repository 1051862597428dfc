//! Says what is wrong in a TOML file, and what to write instead: [`of_syntax`] and [`of_setting`].

use std::{fmt, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue, Error},
};

use super::{
    nearest::instead,
    one_entry,
    repair::{Node, example},
};
use crate::error::named;

/// What serde does not accept.
pub(super) enum Mistake<'a> {
    UnknownField { name: &'a str, known: Vec<&'a str> },
    UnknownVariant { name: &'a str, known: Vec<&'a str> },
    MissingField(&'a str),
    WrongType { is: &'a str, expected: &'a str },
    SecondEntry(&'a str),
    Other(&'a str),
}

impl<'a> Mistake<'a> {
    /// Reads the message, as serde words it.
    pub(super) fn of(error: &'a Error) -> Self {
        let message = error.message();
        let mut names = message.split('`').skip(1).step_by(2);
        if message.starts_with("unknown field `") {
            let name = names.next().unwrap_or_default();
            return Self::UnknownField { name, known: names.collect() };
        }
        if message.starts_with("unknown variant `") {
            let name = names.next().unwrap_or_default();
            return Self::UnknownVariant { name, known: names.collect() };
        }
        if message.starts_with("missing field `") {
            return Self::MissingField(names.next().unwrap_or_default());
        }
        if message.ends_with(one_entry::SECOND) {
            return Self::SecondEntry(message);
        }
        if message == "wanted string or table" {
            return Self::WrongType { is: "this", expected: "a text or a table" };
        }
        if message.starts_with("wanted exactly 1 element") {
            return Self::WrongType { is: "this", expected: "a table with one entry" };
        }
        let of_type = message
            .strip_prefix("invalid type: ")
            .or_else(|| message.strip_prefix("invalid value: "));
        match of_type.and_then(|types| types.split_once(", expected ")) {
            Some((is, expected)) => {
                // A number that is too large for most types: `… as i128`.
                let is = is.split_once(" as ").map_or(is, |(is, _)| is);
                Self::WrongType { is, expected }
            }
            None => Self::Other(message),
        }
    }
}

/// What is wrong with the syntax, and where. One slip makes several errors, so only the first is reported.
pub(super) fn of_syntax<'a>(
    errors: &[Error],
    text: &'a str,
) -> impl Iterator<Item = (usize, String)> + use<'a> {
    const TWICE: &str = "duplicate key";
    const COMMA: &str = "missing comma between array elements, expected `,`";
    let span = |error: &Error| error.span().unwrap_or_default();
    let mut errors: Vec<_> =
        errors.iter().map(|error| (span(error), error.message().to_owned())).collect();
    errors.sort_by_key(|(span, _)| span.start);
    // A list that is not closed takes in all that follows.
    let open = errors.iter().position(|(_, message)| message == COMMA);
    errors.truncate(open.map_or(errors.len(), |index| index.saturating_add(1)));
    let line_of = |span: &Range<usize>| {
        text.get(..span.start)
            .unwrap_or_default()
            .rfind('\n')
            .map_or(0, |end| end.saturating_add(1))
    };
    let is_header = |line: usize| text.get(line..).is_some_and(|line| line.starts_with('['));
    errors.dedup_by(|(later, message), (first, of_first)| {
        let (first, later) = (line_of(first), line_of(later));
        let is_of_table = message == TWICE && of_first == TWICE && is_header(first);
        first == later || is_of_table && !is_header(later)
    });
    errors.into_iter().map(move |(span, message)| {
        let (start, line) = (span.start, line_of(&span));
        let word = text.get(span).unwrap_or_default().trim_matches(['"', '\'']).escape_debug();
        match &*message {
            TWICE if is_header(line) => {
                let problem = "is written twice; write it once, or give the second another name";
                (start, format!("`{word}` {problem}"))
            }
            TWICE => (start, format!("`{word}` is written twice; write it once")),
            message => (start, format!("this is no TOML: {message}")),
        }
    })
}

/// What is wrong with a setting. `node` is where.
pub(super) fn of_setting(
    error: &Error,
    tree: &Spanned<DeTable<'_>>,
    node: Option<&Node>,
) -> String {
    let steps = node.map_or(&[][..], |node| &node.steps);
    let setting = steps.iter().rev().find(|step| step.parse::<usize>().is_err());
    let setting = setting.map_or("", |step| step);
    // A caller's key in a wrong place is not shown.
    let may_be_key = steps.first().is_some_and(|first| first == "overrides") || setting == "values";
    let problem = match Mistake::of(error) {
        Mistake::UnknownField { name, known } => {
            let problem = match may_be_key {
                true => "this is no setting here".to_owned(),
                false => format!("`{}` is no setting here", name.escape_debug()),
            };
            match instead(name, known) {
                Some(instead) => format!("{problem}; {instead}"),
                None => format!("{problem}; leave it out"),
            }
        }
        Mistake::UnknownVariant { name, known } => {
            let instead = instead(name, known).unwrap_or_default();
            format!("`{}` is not known; {instead}", name.escape_debug())
        }
        Mistake::MissingField(name) => match example(name) {
            Some(value) => format!("it has no `{name}`; add one like `{name} = {value}`"),
            None => format!("it has no `{name}`; add it"),
        },
        Mistake::WrongType { is, expected } => {
            let is = if may_be_key { "this".to_owned() } else { in_words(is) };
            format!("`{setting}` cannot be {is}; write {}", wanted(expected, setting))
        }
        Mistake::SecondEntry(message) | Mistake::Other(message) => message.to_owned(),
    };
    match culprit(steps, tree) {
        Some(culprit) => format!("{culprit}: {problem}"),
        None => problem,
    }
}

/// ``policy `read` ``, as `build()` names it; `None` for a setting of the whole limiter.
fn culprit(steps: &[String], tree: &Spanned<DeTable<'_>>) -> Option<String> {
    let (first, rest) = steps.split_first()?;
    let second = rest.first();
    match &**first {
        "policies" => match rest {
            [name, plans, plan, ..] if plans == "plans" => {
                Some(format!("{}: plan `{plan}`", named("policy", name)))
            }
            _ => second.map(|name| named("policy", name)),
        },
        "categories" => {
            let index: usize = second?.parse().ok()?;
            let DeValue::Array(items) = tree.get_ref().get("categories")?.get_ref() else {
                return None;
            };
            let DeValue::Table(category) = items.get(index)?.get_ref() else { return None };
            match category.get("name").map(Spanned::get_ref) {
                Some(DeValue::String(name)) => Some(named("category", name)),
                _ => Some(format!("category {}", index.saturating_add(1))),
            }
        }
        "overrides" => {
            let index: usize = second?.parse().ok()?;
            Some(format!("override {}", index.saturating_add(1)))
        }
        "exempt" if second.is_some() => Some("an exemption".to_owned()),
        "layer" | "client_ip" if second.is_some() => Some(first.clone()),
        _ => None,
    }
}

fn in_words(is: &str) -> String {
    match is {
        "sequence" => "a list".to_owned(),
        "map" => "a table".to_owned(),
        "unit variant" => "a name alone".to_owned(),
        // It may be a secret.
        is if is.starts_with("string ") => "a text".to_owned(),
        is => is
            .replace("boolean ", "")
            .replace("integer ", "the number ")
            .replace("floating point ", "the number "),
    }
}

fn whole_number(max: impl fmt::Display) -> String {
    format!("a whole number from 0 to {max}")
}

/// What serde expects of a setting.
fn wanted(expected: &str, setting: &str) -> String {
    let like = example(setting).map(|value| format!(" like `{value}`")).unwrap_or_default();
    match expected {
        "a string" => format!("a text{like}"),
        "a boolean" => "`true` or `false`".to_owned(),
        "a sequence" if matches!(setting, "categories" | "overrides") => format!("`[[{setting}]]`"),
        "a sequence" => format!("a list{like}"),
        "u8" => whole_number(u8::MAX),
        "u32" => whole_number(u32::MAX),
        "u64" => whole_number(u64::MAX),
        "usize" => whole_number(usize::MAX),
        "a map" if setting == "policies" => "`[policies.read]`".to_owned(),
        "a map" => "a table".to_owned(),
        "newtype variant" | "struct variant" => {
            "a table of it and its settings, like `{ count_locally = { replicas = 3 } }`".to_owned()
        }
        expected if expected.starts_with("struct ") => "a table".to_owned(),
        expected => expected.to_owned(),
    }
}
