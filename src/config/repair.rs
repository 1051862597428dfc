//! Changes a setting that does not parse, so that the rest of a file can be checked: [`repair`].

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue, Error},
};

use super::{mistakes::Mistake, nearest::nearest, source::Steps};

/// A part of a file.
pub(super) struct Node {
    pub(super) steps: Steps,
    /// Whether it is the name of the setting, and not its value.
    pub(super) is_name: bool,
}

/// Valid values of settings, as in a file: of all that must be there, and of others.
const EXAMPLES: [(&str, &str); 25] = [
    ("algorithm", "\"token_bucket\""),
    ("quota", "\"100 per minute\""),
    ("name", "\"read\""),
    ("requests", "[\"GET /v1/{*rest}\"]"),
    ("path", "\"/v1/{tenant}\""),
    ("by", "\"bearer\""),
    ("values", "[\"…\"]"),
    ("hours", "\"Mo-Fr 08:00-18:00\""),
    ("zone", "\"Europe/Berlin\""),
    ("replicas", "3"),
    ("count_locally", "{ replicas = 3 }"),
    ("keys", "[\"ip\"]"),
    ("without_key", "\"refuse\""),
    ("plans", "{ free = \"100 per minute\" }"),
    ("penalty", "{ after = 5, refusals_within = \"1 minute\", blocks = [\"2 minutes\"] }"),
    ("blocks", "[\"2 minutes\"]"),
    ("hold", "\"2 seconds\""),
    ("fair_by", "\"bearer\""),
    ("fair_weights", "{ free = 1 }"),
    ("jitter_retry_after", "\"2 seconds\""),
    ("on_store_failure", "\"refuse\""),
    ("headers", "[\"x_ratelimit\"]"),
    ("exempt", "[\"/health\"]"),
    ("until", "2027-01-31T00:00:00Z"),
    ("trust_proxies", "[\"10.0.0.0/8\"]"),
];

/// A valid value of a setting.
pub(super) fn example(setting: &str) -> Option<&'static str> {
    EXAMPLES.iter().find(|(name, _)| *name == setting).map(|(_, value)| *value)
}

/// The innermost part of the file that is exactly where the error is, and may be what it is about.
pub(super) fn node_of(tree: &Spanned<DeTable<'_>>, error: &Error) -> Option<Node> {
    let mistake = Mistake::of(error);
    let searched = Searched {
        span: error.span()?,
        is_list: matches!(mistake, Mistake::WrongType { is: "sequence", .. }),
        is_name: matches!(mistake, Mistake::UnknownField { .. } | Mistake::UnknownVariant { .. }),
    };
    let mut steps = Vec::new();
    let is_name = find_in_table(tree.get_ref(), &searched, &mut steps)?;
    Some(Node { steps, is_name })
}

/// What is searched at a place: there may be a name and its table, or a list and its first item.
struct Searched {
    span: Range<usize>,
    is_list: bool,
    is_name: bool,
}

fn find_in_table(table: &DeTable<'_>, searched: &Searched, steps: &mut Steps) -> Option<bool> {
    for (name, value) in table.iter() {
        steps.push(name.get_ref().to_string());
        let is_here = name.span() == searched.span;
        if is_here && searched.is_name {
            return Some(true);
        }
        if let Some(is_name) = find_in_value(value, searched, steps) {
            return Some(is_name);
        }
        if is_here {
            return Some(true);
        }
        steps.pop();
    }
    None
}

fn find_in_value(
    value: &Spanned<DeValue<'_>>,
    searched: &Searched,
    steps: &mut Steps,
) -> Option<bool> {
    let inner = match value.get_ref() {
        DeValue::Table(table) => find_in_table(table, searched, steps),
        DeValue::Array(items) => items.iter().enumerate().find_map(|(index, item)| {
            steps.push(index.to_string());
            let found = find_in_value(item, searched, steps);
            if found.is_none() {
                steps.pop();
            }
            found
        }),
        _ => None,
    };
    let is_list = matches!(value.get_ref(), DeValue::Array(_));
    let is_it = value.span() == searched.span && (is_list || !searched.is_list);
    inner.or_else(|| is_it.then_some(false))
}

/// Changes the node so that it makes this mistake no more, and returns what was changed.
pub(super) fn repair(tree: &mut Spanned<DeTable<'_>>, node: Node, error: &Error) -> Option<Steps> {
    let Node { mut steps, is_name } = node;
    let root = tree.get_mut();
    match Mistake::of(error) {
        Mistake::UnknownField { name, known } if is_name => {
            steps.pop();
            let table = table_at(root, &steps)?;
            let (key, value) = table.remove_entry(name)?;
            // The value of a misspelt setting is checked as well.
            if let Some(meant) = nearest(name, known).filter(|meant| !table.contains_key(*meant)) {
                table.insert(Spanned::new(key.span(), meant.to_owned().into()), value);
            }
            steps.push(name.to_owned());
            Some(steps)
        }
        Mistake::SecondEntry(_) if is_name => {
            let (name, around) = steps.split_last()?;
            table_at(root, around)?.remove(&**name)?;
            Some(steps)
        }
        Mistake::MissingField(name) => {
            let (span, table) = (span_of(root, &steps)?, table_at(root, &steps)?);
            let value = Spanned::new(span.clone(), parse(example(name)?)?);
            table.insert(Spanned::new(span, name.to_owned().into()), value);
            steps.push(name.to_owned());
            Some(steps)
        }
        _ => {
            // The name of a setting's kind stands for the whole setting.
            if is_name {
                steps.pop();
            }
            replace_or_remove(root, &steps)?;
            Some(steps)
        }
    }
}

/// Replaces a setting by an example, or removes it; also the table of a kind, which has nothing else in
/// it.
fn replace_or_remove(root: &mut DeTable<'_>, steps: &[String]) -> Option<()> {
    let (last, around) = steps.split_last()?;
    let parent = value_at(root, around);
    let is_empty = match parent {
        Some(DeValue::Array(items)) => {
            let index = last.parse::<usize>().ok()?;
            *items = std::mem::replace(items, DeArray::new())
                .into_iter()
                .enumerate()
                .filter_map(|(nth, item)| (nth != index).then_some(item))
                .collect();
            false
        }
        Some(DeValue::Table(table)) => take_out(table, last)?,
        Some(_) => return None,
        None if around.is_empty() => take_out(root, last).map(|_| false)?,
        None => return None,
    };
    if is_empty { replace_or_remove(root, around) } else { Some(()) }
}

/// Whether the table is then empty.
fn take_out(table: &mut DeTable<'_>, name: &str) -> Option<bool> {
    match (example(name).and_then(parse), table.get_mut(name)) {
        (Some(value), Some(wrong)) => *wrong.get_mut() = value,
        _ => drop(table.remove(name)?),
    }
    Some(table.is_empty())
}

fn parse(text: &'static str) -> Option<DeValue<'static>> {
    DeValue::parse(text).ok().map(Spanned::into_inner)
}

fn table_at<'a, 'i>(root: &'a mut DeTable<'i>, steps: &[String]) -> Option<&'a mut DeTable<'i>> {
    if steps.is_empty() {
        return Some(root);
    }
    match value_at(root, steps)? {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}

fn value_at<'a, 'i>(root: &'a mut DeTable<'i>, steps: &[String]) -> Option<&'a mut DeValue<'i>> {
    let (first, rest) = steps.split_first()?;
    let mut value = root.get_mut(&**first)?.get_mut();
    for step in rest {
        value = match value {
            DeValue::Table(table) => table.get_mut(&**step)?.get_mut(),
            DeValue::Array(items) => items.get_mut(step.parse::<usize>().ok()?)?.get_mut(),
            _ => return None,
        };
    }
    Some(value)
}

fn span_of(root: &DeTable<'_>, steps: &[String]) -> Option<Range<usize>> {
    let (first, rest) = steps.split_first()?;
    let mut value = root.get(&**first)?;
    for step in rest {
        value = match value.get_ref() {
            DeValue::Table(table) => table.get(&**step)?,
            DeValue::Array(items) => items.get(step.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(value.span())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_values() {
        for (setting, value) in EXAMPLES {
            assert!(parse(value).is_some(), "{setting} = {value}");
        }
    }
}
