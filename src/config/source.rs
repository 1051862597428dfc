//! Reads limits from TOML, finds all mistakes in it, and remembers where each setting is: [`load`].

use std::{collections::BTreeMap, io, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, ConfigProblem, Limits, Registry, build, error::Position, mistakes, repair,
};

/// The way to a setting, by names and by indexes in lists: `policies`, `read`, `keys`, `0`.
pub(super) type Steps = Vec<String>;

/// Where the settings of limits are in their file; empty if they are from no file.
#[derive(Clone, Default)]
pub(super) struct Source {
    file: String,
    places: BTreeMap<Steps, Position>,
    /// What had to be changed so that the rest could be checked.
    repaired: Vec<Steps>,
}

/// Where limits are written does not make them others.
impl PartialEq for Source {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.file)
    }
}

impl Source {
    /// A problem with the setting at the end of `steps`, or with the nearest one around it.
    pub(super) fn problem(&self, steps: &[String], text: String) -> ConfigProblem {
        let mut around = (0..=steps.len()).rev().filter_map(|length| steps.get(..length));
        let position = around.find_map(|steps| self.places.get(steps).copied());
        ConfigProblem { file: self.file.clone(), position, text }
    }

    /// Whether the setting, a part of it, or what it is a part of had to be changed. Then a problem of
    /// it may be only of the change.
    pub(super) fn is_repaired(&self, steps: &[String]) -> bool {
        let touches = |other: &Steps| other.starts_with(steps) || steps.starts_with(other);
        self.repaired.iter().any(touches)
    }
}

/// A file that cannot be read.
pub(super) fn unreadable(file: &str, error: &io::Error) -> ConfigError {
    let text = format!("it cannot be read: {error}");
    let problem = ConfigProblem { file: file.to_owned(), position: None, text };
    ConfigError::of(vec![problem])
}

/// The limits of a TOML text, if a limiter and a layer can be built of them.
pub(super) fn load(file: &str, text: &str, registry: &Registry) -> Result<Limits, ConfigError> {
    let (mut tree, errors) = DeTable::parse_recoverable(text);
    let lines = Lines(text);
    let at = |span: Option<Range<usize>>| span.map(|span| lines.position(span.start));
    let problem = |position, text| ConfigProblem { file: file.to_owned(), position, text };
    if !errors.is_empty() {
        let found = mistakes::of_syntax(&errors, text);
        let found = found.map(|(start, text)| problem(at(Some(start..start)), text));
        return Err(ConfigError::of(found.collect()));
    }
    let mut found = Vec::new();
    let mut repaired = Vec::new();
    // serde stops at the first mistake. So each is repaired, and the rest is read again.
    let mut limits = loop {
        let error = match read(&tree) {
            Ok(limits) => break limits,
            Err(error) => error,
        };
        let node = repair::node_of(&tree, &error);
        found.push(problem(at(error.span()), mistakes::of_setting(&error, &tree, node.as_ref())));
        match node.and_then(|node| repair::repair(&mut tree, node, &error)) {
            // What is wrong once more would be so for ever.
            Some(steps) if !repaired.contains(&steps) => repaired.push(steps),
            _ => return Err(ConfigError::of(found)),
        }
    };
    let mut places = BTreeMap::new();
    add_places(tree.get_ref(), &mut Vec::new(), &lines, &mut places);
    limits.source = Source { file: file.to_owned(), places, repaired };
    found.extend(build::problems(&limits, registry));
    ConfigError::if_any(found)?;
    Ok(limits)
}

fn read(tree: &Spanned<DeTable<'_>>) -> Result<Limits, toml::de::Error> {
    serde::Deserialize::deserialize(toml::Deserializer::from(tree.clone()))
}

fn add_places(
    table: &DeTable<'_>,
    steps: &mut Steps,
    lines: &Lines<'_>,
    places: &mut BTreeMap<Steps, Position>,
) {
    for (name, value) in table.iter() {
        // A table begins at its header or, within a line, at its name.
        let start = match value.get_ref() {
            DeValue::Table(_) => value.span().start.min(name.span().start),
            _ => value.span().start,
        };
        steps.push(name.get_ref().to_string());
        places.insert(steps.clone(), lines.position(start));
        add_places_in(value.get_ref(), steps, lines, places);
        steps.pop();
    }
}

fn add_places_in(
    value: &DeValue<'_>,
    steps: &mut Steps,
    lines: &Lines<'_>,
    places: &mut BTreeMap<Steps, Position>,
) {
    match value {
        DeValue::Table(table) => add_places(table, steps, lines, places),
        DeValue::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                steps.push(index.to_string());
                places.insert(steps.clone(), lines.position(item.span().start));
                add_places_in(item.get_ref(), steps, lines, places);
                steps.pop();
            }
        }
        _ => {}
    }
}

/// A text, whose bytes are in lines and columns.
struct Lines<'a>(&'a str);

impl Lines<'_> {
    fn position(&self, byte: usize) -> Position {
        let before = self.0.get(..byte).unwrap_or(self.0);
        let line = before.matches('\n').count().saturating_add(1);
        let start = before.rfind('\n').map_or(0, |end| end.saturating_add(1));
        let in_line = before.get(start..).unwrap_or_default();
        Position { line, column: in_line.chars().count().saturating_add(1) }
    }
}
