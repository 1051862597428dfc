//! Reads limits from TOML, finds all mistakes in it, and remembers where each setting is: [`load`].

use std::{collections::BTreeMap, io, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ConfigError, ConfigProblem, Limits, Registry, build,
    error::{MAX_LISTED, Position},
    mistakes, repair,
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
    let lines = Lines::new(text);
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
        if found.len() == MAX_LISTED {
            return Err(ConfigError::of_first(found));
        }
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

/// A text, whose bytes are in lines and columns. A place is found without a look at all that is
/// before it: a file has a place for each of its settings.
struct Lines<'a> {
    text: &'a [u8],
    /// Where lines begin.
    starts: Vec<usize>,
    /// How many characters are before each block of bytes.
    before_blocks: Vec<usize>,
}

impl<'a> Lines<'a> {
    const BLOCK: usize = 64;

    fn new(text: &'a str) -> Self {
        let ends = text.match_indices('\n').map(|(end, _)| end.saturating_add(1));
        let text = text.as_bytes();
        let before_blocks = text.chunks(Self::BLOCK).scan(0_usize, |before, block| {
            let this = *before;
            *before = before.saturating_add(characters(block));
            Some(this)
        });
        let before_blocks = before_blocks.collect();
        Self { text, starts: std::iter::once(0).chain(ends).collect(), before_blocks }
    }

    fn position(&self, byte: usize) -> Position {
        let line = self.starts.partition_point(|start| *start <= byte);
        let start = self.starts.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let column = self.characters_before(byte).saturating_sub(self.characters_before(start));
        Position { line, column: column.saturating_add(1) }
    }

    fn characters_before(&self, byte: usize) -> usize {
        let byte = byte.min(self.text.len());
        let block = byte.checked_div(Self::BLOCK).unwrap_or_default();
        let of_block = block.saturating_mul(Self::BLOCK);
        match self.before_blocks.get(block) {
            Some(before) => before.saturating_add(characters(&self.text[of_block..byte])),
            // The end of a text that fills its last block.
            None => characters(self.text),
        }
    }
}

/// How many characters begin in the bytes of a text.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0b1100_0000 != 0b1000_0000).count()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_place_is_its_line_and_its_column(text in "[a-c\né✓]{0,200}") {
            let lines = Lines::new(&text);
            for (byte, _) in text.char_indices().chain([(text.len(), ' ')]) {
                let before = &text[..byte];
                let line = before.matches('\n').count() + 1;
                let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
                prop_assert_eq!(lines.position(byte), Position { line, column });
            }
        }
    }

    fn file(policies: usize, settings: &str) -> String {
        let policy = |index: usize| {
            format!(
                "[policies.p{index}]\nalgorithm = \"fixed_window\"\nquota = \"1 per day\"\n{settings}\n"
            )
        };
        let names: Vec<_> = (0..policies).map(|index| format!("\"p{index}\"")).collect();
        let tables: String = (0..policies).map(policy).collect();
        format!("check_only = [{}]\n{tables}", names.join(", "))
    }

    /// It takes some seconds without optimisation, and took minutes when the whole file was read again
    /// for each mistake.
    #[test]
    fn a_large_file_with_many_mistakes_is_checked_in_time_and_told_in_part() {
        let bad_hours =
            "schedules = [{ hours = \"Mo-Fr 25:00\", zone = \"UTC\", quota = \"1 per day\" }]";
        let long = format!("unit = \"{}\"\nhold = 1", "x".repeat(3 << 20));
        let list: String = (0..20_000).map(|index| format!("\"q{index}\", ")).collect();
        for (text, bound) in [
            (file(4_000, "unknown = 1"), 50_000),
            (file(4_000, "quotas = 1"), 50_000),
            (file(4_000, bad_hours), 50_000),
            (file(4_000, "unit = \"\""), 30_000),
            (file(1, &long), 2_000),
            (format!("exempt = [{list}]\nevery_request = [{list}]"), 30_000),
            (list, 1_000),
        ] {
            let started = Instant::now();
            let error = load("", &text, &Registry::new()).unwrap_err();
            let (told, length) = (error.problems().len(), error.to_string().len());
            assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
            assert!(told <= MAX_LISTED + 1 && length < bound, "{told} problems, {length} bytes");
        }
        let text = file(4_000, "");
        let started = Instant::now();
        assert!(load("", &text, &Registry::new()).is_ok());
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    }
}
