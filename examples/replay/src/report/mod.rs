//! The result of a replay: [`Report`], as data and JSON; `table` and `html` write it.

mod chart;
mod html;
mod table;

use jiff::Timestamp;
use serde::Serialize;
use tower_quota::{Algorithm, Quota};

use crate::{
    log::Log,
    subject::{Note, Subject},
    suggest::Suggestion,
    tally::{Counts, KeyTally, Minutes, PolicyTally, Tally},
};

/// The report has so many keys of each policy.
pub const KEYS: usize = 10;

/// The answer of a replay. `Display` is a table for a terminal; durations in JSON are in seconds, and times
/// are UTC.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub log: LogPart,
    /// The limits, and then those beside them.
    pub limits: Vec<LimitsPart>,
}

/// The log.
#[derive(Clone, Debug, Serialize)]
pub struct LogPart {
    pub files: Vec<String>,
    pub requests: u64,
    pub from: String,
    pub to: String,
    pub text_lines: u64,
    pub json_lines: u64,
    /// Lines that are no request.
    pub no_requests: u64,
    /// Requests that began before one of an earlier line.
    pub out_of_order: u64,
    pub broken: u64,
    pub first_broken: Vec<BrokenPart>,
}

/// A line that cannot be read.
#[derive(Clone, Debug, Serialize)]
pub struct BrokenPart {
    pub line: u64,
    pub reason: &'static str,
}

/// What a file of limits would have done.
#[derive(Clone, Debug, Serialize)]
pub struct LimitsPart {
    pub file: String,
    pub passed: u64,
    pub refused: u64,
    /// Requests that no policy counts.
    pub uncounted: u64,
    pub held: u64,
    pub longest_hold_seconds: f64,
    /// Requests of callers that an override blocks.
    pub blocked: u64,
    pub policies: Vec<PolicyPart>,
    /// Policies that cannot be seen in the log.
    pub unseen: Vec<Note>,
    /// What a server would do otherwise.
    pub notes: Vec<Note>,
    pub minutes: Vec<MinutePart>,
}

/// What a policy would have done.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyPart {
    pub name: String,
    pub algorithm: Algorithm,
    pub quota: Quota,
    pub dry_run: bool,
    pub passed: u64,
    pub refused: u64,
    pub without_key: u64,
    pub unreadable_key: u64,
    pub in_penalty: u64,
    pub keys: usize,
    pub refused_keys: usize,
    /// The keys with the most refusals, then those with the most requests.
    pub loudest: Vec<KeyPart>,
    pub suggestions: Vec<SuggestionPart>,
    pub minutes: Vec<MinutePart>,
}

/// What a policy would have done to one key.
#[derive(Clone, Debug, Serialize)]
pub struct KeyPart {
    pub kind: String,
    pub key: String,
    pub passed: u64,
    pub refused: u64,
    pub first_refused: Option<String>,
    pub busiest_minute: String,
    pub requests_in_it: u64,
}

/// The smallest quota that refuses only the loudest keys.
#[derive(Clone, Debug, Serialize)]
pub struct SuggestionPart {
    pub but_the_loudest: usize,
    pub quota: Quota,
    pub refused_keys: usize,
}

/// A minute with requests.
#[derive(Clone, Debug, Serialize)]
pub struct MinutePart {
    pub minute: String,
    pub passed: u64,
    pub refused: u64,
    #[serde(skip)]
    since_1970: u64,
}

impl Report {
    #[must_use]
    pub fn new(files: Vec<String>, log: &Log, limits: Vec<LimitsPart>) -> Self {
        let facts = &log.facts;
        let (from, to) = log.span().unwrap_or_default();
        let broken = facts.broken.first.iter();
        Self {
            log: LogPart {
                files,
                requests: log.lines.len() as u64,
                from: time(from),
                to: time(to),
                text_lines: facts.text,
                json_lines: facts.json,
                no_requests: facts.no_requests,
                out_of_order: facts.out_of_order,
                broken: facts.broken.count,
                first_broken: broken.map(|&(line, reason)| BrokenPart { line, reason }).collect(),
            },
            limits,
        }
    }

    /// One page, which needs nothing else.
    #[must_use]
    pub fn to_html(&self) -> String {
        html::page(self)
    }
}

impl LimitsPart {
    /// `suggestions` are those of each policy of the tally, in the same order.
    #[must_use]
    pub fn new(subject: &Subject, tally: &Tally, suggestions: &[Vec<Suggestion>]) -> Self {
        let policies = tally.policies.iter().zip(suggestions);
        let unseen = subject.unseen.iter();
        Self {
            file: subject.file.clone(),
            passed: tally.all.passed,
            refused: tally.all.refused,
            uncounted: tally.uncounted,
            held: tally.held,
            longest_hold_seconds: tally.longest_hold as f64 / 1e9,
            blocked: tally.blocked,
            policies: policies
                .map(|(tally, found)| PolicyPart::new(subject, tally, found))
                .collect(),
            unseen: unseen.map(|(about, text)| Note::new(about, text.clone())).collect(),
            notes: subject.notes.clone(),
            minutes: minutes(&tally.minutes),
        }
    }
}

impl PolicyPart {
    fn new(subject: &Subject, tally: &PolicyTally, suggestions: &[Suggestion]) -> Self {
        let policy = &subject.limits.policies[&tally.name];
        let suggestions =
            suggestions.iter().map(|&Suggestion { but_the_loudest, quota, refused_keys }| {
                SuggestionPart { but_the_loudest, quota, refused_keys }
            });
        Self {
            name: tally.name.clone(),
            algorithm: policy.algorithm,
            quota: policy.quota,
            dry_run: tally.is_dry_run,
            passed: tally.all.passed,
            refused: tally.all.refused,
            without_key: tally.without_key,
            unreadable_key: tally.unreadable,
            in_penalty: tally.penalized,
            keys: tally.keys.len(),
            refused_keys: tally.refused_keys(),
            loudest: tally.loudest().into_iter().take(KEYS).map(KeyPart::new).collect(),
            suggestions: suggestions.collect(),
            minutes: minutes(&tally.minutes),
        }
    }
}

impl KeyPart {
    fn new(tally: &KeyTally) -> Self {
        let (minute, requests_in_it) = tally.busiest;
        Self {
            kind: tally.kind.clone(),
            key: tally.text.clone(),
            passed: tally.all.passed,
            refused: tally.all.refused,
            first_refused: tally.first_refused.map(time),
            busiest_minute: time(minute * MINUTE),
            requests_in_it,
        }
    }
}

const MINUTE: u64 = 60_000_000_000;

fn minutes(minutes: &Minutes) -> Vec<MinutePart> {
    let part = |&(minute, Counts { passed, refused }): &(u64, Counts)| MinutePart {
        minute: time(minute * MINUTE),
        passed,
        refused,
        since_1970: minute,
    };
    minutes.iter().map(part).collect()
}

/// A time to the second, as `2025-10-10T12:00:00Z`.
fn time(nanos: u64) -> String {
    let seconds = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).map_or_else(|_| "?".to_owned(), |time| time.to_string())
}

/// A number with commas between thousands.
fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A quota as in a file.
fn quota(quota: &Quota) -> String {
    match serde_json::to_value(quota) {
        Ok(serde_json::Value::String(text)) => text,
        _ => format!("{quota:?}"),
    }
}

/// What part of `all` this is, such as `1.9 %`.
fn share(part: u64, all: u64) -> String {
    if part == 0 || all == 0 {
        return "0 %".to_owned();
    }
    let percent = part as f64 * 100.0 / all as f64;
    if percent < 0.1 { "less than 0.1 %".to_owned() } else { format!("{percent:.1} %") }
}

/// Whom a suggestion would refuse.
fn whom(loudest: usize) -> String {
    match loudest {
        0 => "no key".to_owned(),
        1 => "only the loudest key".to_owned(),
        loudest => format!("only the loudest {loudest} keys"),
    }
}

/// Why some of a policy's refusals have nothing to do with its quota; empty if there are none.
fn other_refusals(policy: &PolicyPart) -> String {
    let counts = [
        (policy.without_key, "without a key"),
        (policy.unreadable_key, "with an unreadable key"),
        (policy.in_penalty, "in a penalty's block"),
    ];
    let there = counts.iter().filter(|(count, _)| *count > 0);
    there.map(|(count, what)| format!("{} {what}", number(*count))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_shares() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(share(0, 10), "0 %");
        assert_eq!(share(1, 10), "10.0 %");
        assert_eq!(share(1, 10_000), "less than 0.1 %");
        assert_eq!(time(1_760_097_600_999_999_999), "2025-10-10T12:00:00Z");
    }
}
