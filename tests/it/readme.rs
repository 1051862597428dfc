//! What the README states is so: each cell of its comparison has a test or a link, and nothing that it names is
//! missing.

use std::{collections::BTreeMap, fs, path::Path};

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn between<'t>(text: &'t str, start: &str, end: &str) -> &'t str {
    text.split_once(start).and_then(|(_, rest)| rest.split_once(end)).expect(start).0
}

/// The cells of each row of the first table after a heading.
fn table<'t>(readme: &'t str, heading: &str) -> Vec<Vec<&'t str>> {
    let section = between(readme, heading, "\n## ");
    let rows = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).filter(|line| !line.contains("---"));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// The addresses at the end of the file, by name.
fn definitions(readme: &str) -> BTreeMap<&str, &str> {
    let lines = readme.lines().filter(|line| line.starts_with('['));
    lines.filter_map(|line| line.strip_prefix('[')?.split_once("]: ")).collect()
}

/// Of `[text](target)` and `[text](target "title")`.
fn links(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.split("](").skip(1).map(|rest| {
        let link = rest.split(')').next().unwrap();
        link.split_once(' ')
            .map_or((link, None), |(target, title)| (target, Some(title.trim_matches('"'))))
    })
}

fn is_test(source: &str, name: &str) -> bool {
    source.split_once(&format!("fn {name}(")).is_some_and(|(before, _)| {
        let attributes = before.rsplit("\n\n").next().unwrap();
        ["#[test]", "#[tokio::test"].iter().any(|attribute| attributes.contains(attribute))
    })
}

#[test]
fn each_cell_of_the_comparison_has_a_test_or_a_link() {
    let readme = read("README.md");
    let definitions = definitions(&readme);
    let rows = table(&readme, "## Why this one");
    assert!(rows.len() > 10, "{rows:?}");
    for row in &rows[1..] {
        let [_, ours, theirs @ ..] = &row[..] else { panic!("{row:?}") };
        let (file, test) = links(ours).next().unwrap_or_else(|| panic!("no test: {ours}"));
        let test = test.unwrap_or_else(|| panic!("no name of a test: {ours}"));
        assert!(is_test(&read(file), test), "{file} has no test `{test}`");
        assert_eq!(theirs.len(), 3, "{row:?}");
        for cell in theirs.iter().filter(|cell| **cell != "–") {
            let name = cell.strip_suffix(']').and_then(|cell| cell.rsplit_once("]["));
            let name = name.unwrap_or_else(|| panic!("no link: {cell}")).1;
            assert!(definitions.contains_key(name), "{name}");
        }
    }
    for name in definitions.keys() {
        assert!(
            rows.iter()
                .flatten()
                .any(|cell| cell.ends_with(&format!("[{name}]"))
                    || cell.contains(&format!("[{name}] "))),
            "{name} is not used"
        );
    }
}

/// A new version of a peer may do better: then the row has to be read again.
#[test]
fn the_comparison_is_with_the_versions_that_are_measured() {
    let (readme, lock) = (read("README.md"), read("Cargo.lock"));
    let definitions = definitions(&readme);
    for (name, peer) in [("tg", "tower_governor"), ("g", "governor")] {
        let version = between(&lock, &format!("name = \"{peer}\"\nversion = \""), "\"");
        assert_eq!(definitions[name], format!("https://docs.rs/{peer}/{version}/{peer}/"));
        let release = version.rsplit_once('.').unwrap().0;
        assert!(readme.contains(&format!("[{peer}][{name}] {release} |")), "{peer} {release}");
    }
    for (name, url) in &definitions {
        let peer = name.split('-').next().unwrap();
        let version = definitions[peer].split('/').nth(4).unwrap();
        assert!(url.contains(&format!("/{version}/")) || url.contains("/issues/"), "{url}");
    }
}

#[test]
fn each_file_that_is_linked_exists() {
    for (file, folder) in [("README.md", ""), ("benches/README.md", "benches/")] {
        let text = read(file);
        for (target, _) in links(&text).filter(|(target, _)| !target.starts_with("https://")) {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder).join(target);
            assert!(path.exists(), "{file} links to {target}");
        }
    }
}

#[test]
fn the_first_server_is_the_example() {
    let code = between(&read("README.md"), "```rust,no_run\n", "```").to_owned();
    let example = read("examples/quickstart.rs");
    assert_eq!(code, example.split_once("\n\n").unwrap().1);
}

#[test]
fn examples_and_the_version_of_rust_are_those_of_the_package() {
    let (readme, manifest) = (read("README.md"), read("Cargo.toml"));
    let msrv = between(&manifest, "rust-version = \"", "\"");
    assert!(readme.contains(&format!("It needs Rust {msrv}.")), "{msrv}");
    let example = between(&readme, "--example ", "\n");
    assert!(manifest.contains(&format!("[[example]]\nname = \"{example}\"")), "{example}");
    for row in &table(&readme, "## Servers to run and copy")[1..] {
        let name = row[0].trim_matches('`');
        assert!(manifest.contains(&format!("[[example]]\nname = \"{name}\"")), "{name}");
    }
}

#[test]
fn the_rows_of_speed_are_those_of_the_benchmarks() {
    let (readme, benches) = (read("README.md"), read("benches/README.md"));
    let rows: Vec<_> =
        between(&readme, "<!-- speed", "<!-- end of speed -->").lines().skip(3).collect();
    assert_eq!(rows.len(), 6, "{rows:?}");
    for row in rows {
        assert!(benches.lines().any(|line| line == row), "{row}");
    }
}
