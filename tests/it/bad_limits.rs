//! Files of limits that cannot be, and what is said of each of them.
//!
//! A file in `bad_limits/` ends with all of its problems, as comments.
#![cfg(all(feature = "calendar", feature = "config"))]

use std::{
    fs,
    path::{Path, PathBuf},
};

use tower_quota::{
    config::{Limits, Registry},
    key,
};

fn registry() -> Registry {
    Registry::new()
        .key("tenant", key::from_fn("tenant", |_| None))
        .key("region", key::from_fn("region", |_| None))
        .matcher("internal", |_| false)
        .plan("plan of the key", |_| None)
        .cost("rows", |_| 1)
        .settle("rows", |_| None)
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("it/bad_limits");
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

const PROBLEM: &str = "#> ";

#[test]
fn each_problem_of_a_bad_file_has_its_line_and_what_to_write() {
    let files = files();
    assert!(files.len() >= 40, "{} files", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&file).unwrap();
        let expected: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(PROBLEM)).collect();
        let told = Limits::from_toml(&text, &registry()).expect_err(name).to_string();
        if told.lines().ne(expected.iter().copied()) {
            wrong.push(format!("{name} says\n{told}\n"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is said of a file is in the words of a file, and shows no key.
#[test]
fn no_problem_says_what_to_write_in_rust_or_shows_a_key() {
    for file in files() {
        let problems = fs::read_to_string(&file).unwrap();
        for problem in problems.lines().filter(|line| line.starts_with(PROBLEM)) {
            let is_of_registry = problem.contains("`Registry::");
            assert!(is_of_registry || !problem.contains("::"), "{problem}");
            assert!(is_of_registry || !problem.contains("(…)"), "{problem}");
            assert!(!problem.contains("`."), "{problem}");
            assert!(!problem.contains("sk_live"), "a key is a secret: {problem}");
        }
    }
}
