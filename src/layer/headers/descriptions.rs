//! Descriptions of the headers, for documentation.

use http::HeaderName;

use super::{HeaderStyle, ResetFormat, style::Family};

impl HeaderStyle {
    /// Its headers, each with a sentence that explains it.
    pub(super) fn describe(self) -> impl Iterator<Item = (HeaderName, &'static str)> {
        let meanings: &[_] = match (self.family, self.reset_format()) {
            (Family::Dictionary, _) => {
                &["The limit, the units that remain, and the seconds until more of them come back."]
            }
            (Family::Lists, _) => &[
                "Each policy: its limit (q), what it counts if not requests (qu), and the seconds in which the limit comes back (w).",
                "Each policy: the units that remain (r), and the seconds within which no more than these are to be used (t).",
            ],
            (_, ResetFormat::UnixSeconds) => &[
                LIMIT,
                REMAINING,
                "When more units come back, in seconds since 1970 UTC (a Unix timestamp).",
            ],
            _ => &[LIMIT, REMAINING, "The seconds until more units come back."],
        };
        self.names().into_iter().zip(meanings.iter().copied())
    }
}

const LIMIT: &str = "The limit: the most units that can remain.";
const REMAINING: &str = "The units that remain.";
