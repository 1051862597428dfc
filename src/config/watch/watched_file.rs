//! Which text of a file is to be applied: [`WatchedFile`].

use std::{io, path::Path, sync::Arc};

use crate::limiter::Limiter;

/// How many times in a row the file must not be readable until that is reported: an editor or a
/// deployment replaces it by another one.
const UNREADABLE_AFTER: u32 = 5;

/// What is known of the file.
pub(super) struct WatchedFile {
    pub(super) path: Arc<Path>,
    /// The text that was applied, or could not be.
    applied: Option<String>,
    /// The text of the last read.
    seen: Option<String>,
    /// How many reads in a row have failed.
    unreadable: u32,
}

impl WatchedFile {
    pub(super) fn new(path: Arc<Path>) -> Self {
        Self { path, applied: None, seen: None, unreadable: 0 }
    }

    /// The text to apply; `None` if there is none, or none that is whole for sure. If `by_signal`,
    /// the text counts as whole and new: the operator says so.
    pub(super) fn take_new(&mut self, read: io::Result<String>, by_signal: bool) -> Option<String> {
        let text = match read {
            Ok(text) => text,
            Err(error) => {
                self.seen = None;
                self.unreadable = self.unreadable.saturating_add(1);
                // A missing file may be on its way. What is no file will not become one.
                let after = match error.kind() {
                    io::ErrorKind::NotFound => UNREADABLE_AFTER,
                    _ => 1,
                };
                if by_signal || self.unreadable == after {
                    Limiter::report_unread(&self.path, &error);
                }
                return None;
            }
        };
        self.unreadable = 0;
        let is_whole = by_signal || self.seen.as_ref() == Some(&text);
        let is_new = by_signal || self.applied.as_ref() != Some(&text);
        if is_whole && is_new {
            self.seen = Some(text.clone());
            return Some(self.applied.insert(text).clone());
        }
        self.seen = Some(text);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> WatchedFile {
        WatchedFile::new(Path::new("limits.toml").into())
    }

    /// What is applied after each of these reads; `!` fails.
    fn applied(reads: &[(&str, bool)]) -> Vec<Option<String>> {
        let mut file = file();
        let read = |text: &str| match text {
            "!" => Err(io::ErrorKind::NotFound.into()),
            text => Ok(text.to_owned()),
        };
        let taken = reads.iter().map(|(text, by_signal)| file.take_new(read(text), *by_signal));
        taken.collect()
    }

    #[test]
    fn a_text_is_applied_once_when_two_reads_have_found_it_or_at_a_signal() {
        let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
        for (reads, expected) in [
            (&[("a", false), ("a", false), ("a", false)][..], vec![None, a.clone(), None]),
            // Half written, then whole.
            (
                &[("a", false), ("ab", false), ("b", false), ("b", false)],
                vec![None, None, None, b.clone()],
            ),
            // Missing for a moment, and the same afterwards; or another.
            (
                &[("a", false), ("a", false), ("!", false), ("a", false), ("a", false)],
                vec![None, a.clone(), None, None, None],
            ),
            (
                &[("a", false), ("!", false), ("a", false), ("a", false)],
                vec![None, None, None, a.clone()],
            ),
            // By a signal: at once, and again.
            (&[("a", true), ("a", true), ("a", false)], vec![a.clone(), a.clone(), None]),
            (&[("!", true), ("b", true), ("b", false)], vec![None, b.clone(), None]),
            // Back to what was applied before.
            (
                &[("a", true), ("b", true), ("a", false), ("a", false)],
                vec![a.clone(), b.clone(), None, a.clone()],
            ),
        ] {
            assert_eq!(applied(reads), expected, "{reads:?}");
        }
    }
}
