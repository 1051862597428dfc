//! What a file of limits would have done to the requests of an access log.
//!
//! - `log` reads the log, and `subject` the limits: with stand-ins for functions of a program, and with
//!   what the log does not show left out.
//! - `engine` sends the requests through the crate's layer. Its witnesses are a `tally`, and the tries of
//!   `suggest`, which leave out keys that have `enough`. `keys` reads keys once more, to show them.
//! - `report` is the answer.
//!
//! [`run`] does all of it; `main.rs` is its command line.

pub mod engine;
pub mod enough;
pub mod keys;
pub mod log;
pub mod report;
pub mod subject;
pub mod suggest;
pub mod tally;

use std::{path::PathBuf, sync::Arc};

use crate::{
    log::Log,
    report::{LimitsPart, Report},
    subject::{StandIns, Subject},
    tally::Tally,
};

/// What to replay, and how.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The limits, and then those beside them.
    pub limits: Vec<PathBuf>,
    pub stand_ins: StandIns,
    /// Whether the application has written the log, and not the proxy in front of it.
    pub own_log: bool,
    /// Whether keys that are no addresses are shown in full.
    pub shows_keys: bool,
    /// For each number, a quota is suggested that refuses no more keys. In ascending order.
    pub loudest: Vec<usize>,
}

/// What a replay is doing.
#[derive(Clone, Debug)]
pub enum Step {
    /// So many requests will be sent through the limits of a file.
    Replay { file: String, requests: u64 },
    /// So many more requests were sent.
    Sent(u64),
    /// The search for a quota of this policy begins.
    Suggest { policy: String },
}

/// Reads the limits.
///
/// # Errors
/// A file cannot be read, or has mistakes; or a stand-in is for no function of any file.
pub fn subjects(settings: &Settings) -> Result<Vec<Subject>, String> {
    let mut subjects = Vec::new();
    for file in &settings.limits {
        let mut subject = Subject::read(file, &settings.stand_ins)?;
        if !settings.own_log {
            subject.stands_at_the_proxy();
        }
        subjects.push(subject);
    }
    Subject::check_stand_ins(&subjects, &settings.stand_ins)?;
    Ok(subjects)
}

/// Replays a log, and reports what each file of limits would have done. `files` are the names of the log.
///
/// # Errors
/// The log has no request, or limits cannot be built.
pub fn run(
    settings: &Settings,
    mut subjects: Vec<Subject>,
    files: Vec<String>,
    log: Log,
    mut progress: impl FnMut(Step),
) -> Result<Report, String> {
    if log.lines.is_empty() {
        let first = log.facts.broken.first.first();
        let why = first.map_or(String::new(), |(line, reason)| format!("; line {line}: {reason}"));
        return Err(format!(
            "{}: there is no request of the common, combined or JSON format in it{why}",
            files.join(", ")
        ));
    }
    let log = Arc::new(log);
    let count = u32::try_from(log.lines.len()).map_err(|_| "the log has too many lines")?;
    let mut parts = Vec::new();
    for subject in &mut subjects {
        subject.look_at(&log);
        progress(Step::Replay { file: subject.file.clone(), requests: u64::from(count) });
        let tally = Tally::new(&log, subject, settings.shows_keys);
        let (limits, registry) = (&subject.limits, &subject.registry);
        let sent = |requests| progress(Step::Sent(requests));
        let tally = engine::replay(limits, registry, &log, 0..count, tally, sent)?;
        let mut suggestions = Vec::new();
        for policy in &tally.policies {
            progress(Step::Suggest { policy: policy.name.clone() });
            suggestions.push(suggest::suggest(subject, &log, policy, &settings.loudest)?);
        }
        parts.push(LimitsPart::new(subject, &tally, &suggestions));
    }
    Ok(Report::new(files, &log, parts))
}
