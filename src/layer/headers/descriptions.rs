//! Descriptions of the headers, for documentation.

use http::HeaderName;

use super::{
    HeaderStyle, ResetFormat,
    style::{Family, POLICY},
};

impl HeaderStyle {
    /// Its headers, each with a sentence that explains it.
    pub(super) fn meanings(self) -> impl Iterator<Item = (HeaderName, &'static str)> {
        self.names().into_iter().enumerate().map(move |(place, name)| {
            let meaning = match (self.family, place) {
                (Family::XRateLimit | Family::RateLimit, place) => self.meaning_of_triple(place),
                (Family::Dictionary, _) => {
                    "The limit, the units that remain, and the seconds until more of them come back."
                }
                (Family::Lists, _) if name == POLICY => {
                    "Each policy: its limit (q), what it counts if not requests (qu), and the seconds in which the limit comes back (w)."
                }
                (Family::Lists, _) => {
                    "Each policy: the units that remain (r), and the seconds within which no more than these are to be used (t)."
                }
            };
            (name, meaning)
        })
    }

    fn meaning_of_triple(self, place: usize) -> &'static str {
        match (place, self.reset_format()) {
            (0, _) => "The limit: the most units that can remain.",
            (1, _) => "The units that remain.",
            (_, ResetFormat::UnixSeconds) => {
                "When more units come back, in seconds since 1970 UTC (a Unix timestamp)."
            }
            (_, ResetFormat::Seconds | ResetFormat::Omitted) => {
                "The seconds until more units come back."
            }
        }
    }
}
