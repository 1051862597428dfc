//! A report as tables for a terminal.

use std::fmt;

use super::{LimitsPart, PolicyPart, Report, number, other_refusals, quota, share, whom};

/// The table has so many of the worst minutes.
const WORST: usize = 5;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_log(f)?;
        if let [first, second, ..] = &*self.limits {
            write_beside(f, first, second)?;
        }
        self.limits.iter().try_for_each(|limits| write_limits(f, limits))
    }
}

impl Report {
    fn write_log(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let log = &self.log;
        let (files, requests) = (log.files.join(", "), number(log.requests));
        writeln!(
            f,
            "{files}: {requests} requests, from {} to {} (all times are UTC)",
            log.from, log.to
        )?;
        if log.no_requests > 0 {
            writeln!(
                f,
                "  {} lines are no request that an application gets",
                number(log.no_requests)
            )?;
        }
        if log.broken > 0 {
            let first = log.first_broken.iter();
            let first = first.map(|broken| format!("line {}: {}", broken.line, broken.reason));
            let first = first.collect::<Vec<_>>().join("; ");
            writeln!(
                f,
                "  {} lines cannot be read, and are left out: {first}",
                number(log.broken)
            )?;
        }
        Ok(())
    }
}

fn write_beside(
    f: &mut fmt::Formatter<'_>,
    first: &LimitsPart,
    second: &LimitsPart,
) -> fmt::Result {
    let mut rows = vec![vec![String::new(), first.file.clone(), second.file.clone()]];
    let both = |what: &str, of: &dyn Fn(&LimitsPart) -> String| {
        vec![what.to_owned(), of(first), of(second)]
    };
    rows.push(both("passed", &|limits| number(limits.passed)));
    rows.push(both("refused", &|limits| number(limits.refused)));
    let mut names: Vec<&str> = [first, second]
        .iter()
        .flat_map(|limits| limits.policies.iter().map(|policy| &*policy.name))
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        rows.push(both(&format!("refused by `{name}`"), &|limits| {
            let policy = limits.policies.iter().find(|policy| policy.name == name);
            policy.map_or("–".to_owned(), |policy| {
                format!("{}, {} keys", number(policy.refused), number(policy.refused_keys as u64))
            })
        }));
    }
    writeln!(f)?;
    write_rows(f, &rows)
}

fn write_limits(f: &mut fmt::Formatter<'_>, limits: &LimitsPart) -> fmt::Result {
    let all = limits.passed + limits.refused;
    write!(f, "\n{}: {} requests pass", limits.file, number(limits.passed))?;
    write!(f, ", {} are refused ({})", number(limits.refused), share(limits.refused, all))?;
    if limits.held > 0 {
        let longest = limits.longest_hold_seconds;
        write!(f, ", {} are held for {longest:.1} s at most", number(limits.held))?;
    }
    if limits.uncounted > 0 {
        write!(f, ", {} are not counted by any policy", number(limits.uncounted))?;
    }
    if limits.blocked > 0 {
        write!(f, ", {} are of blocked callers", number(limits.blocked))?;
    }
    writeln!(f)?;
    for unseen in &limits.unseen {
        writeln!(f, "  policy `{}` cannot be seen in this log: {}", unseen.about, unseen.text)?;
    }
    for note in &limits.notes {
        writeln!(f, "  note on `{}`: {}", note.about, note.text)?;
    }
    if !limits.policies.is_empty() {
        write_policies(f, &limits.policies)?;
    }
    for policy in limits.policies.iter().filter(|policy| !policy.loudest.is_empty()) {
        write_keys(f, policy)?;
    }
    let mut worst: Vec<_> = limits.minutes.iter().filter(|minute| minute.refused > 0).collect();
    worst.sort_by_key(|minute| (u64::MAX - minute.refused, minute.since_1970));
    if !worst.is_empty() {
        writeln!(f, "\n  the worst minutes")?;
        let mut rows = vec![["minute", "passed", "refused"].map(str::to_owned).to_vec()];
        let rest = worst.iter().take(WORST);
        rows.extend(rest.map(|minute| {
            vec![minute.minute.clone(), number(minute.passed), number(minute.refused)]
        }));
        write_rows(f, &rows)?;
    }
    Ok(())
}

fn write_policies(f: &mut fmt::Formatter<'_>, policies: &[PolicyPart]) -> fmt::Result {
    let heads = ["policy", "quota", "passed", "refused", "keys", "refused keys"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for policy in policies {
        let dry_run = if policy.dry_run { " (dry run)" } else { "" };
        rows.push(vec![
            format!("{}{dry_run}", policy.name),
            quota(&policy.quota),
            number(policy.passed),
            number(policy.refused),
            number(policy.keys as u64),
            number(policy.refused_keys as u64),
        ]);
    }
    writeln!(f)?;
    write_rows(f, &rows)?;
    for policy in policies {
        let others = other_refusals(policy);
        if !others.is_empty() {
            writeln!(f, "  of those refused by `{}`: {others}", policy.name)?;
        }
    }
    let suggestions = policies.iter().filter(|policy| !policy.suggestions.is_empty());
    for (index, policy) in suggestions.enumerate() {
        if index == 0 {
            writeln!(f, "\n  the smallest quota that refuses")?;
        }
        let of = |one: &super::SuggestionPart| {
            format!("{}: {}", whom(one.but_the_loudest), quota(&one.quota))
        };
        let all = policy.suggestions.iter().map(of).collect::<Vec<_>>().join("; ");
        writeln!(f, "  {}: {all}", policy.name)?;
    }
    Ok(())
}

fn write_keys(f: &mut fmt::Formatter<'_>, policy: &PolicyPart) -> fmt::Result {
    writeln!(f, "\n  the loudest keys of `{}`", policy.name)?;
    let heads = ["key", "passed", "refused", "first refused", "busiest minute", "requests in it"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for key in &policy.loudest {
        rows.push(vec![
            format!("{} {}", key.kind, key.key),
            number(key.passed),
            number(key.refused),
            key.first_refused.clone().unwrap_or_else(|| "never".to_owned()),
            key.busiest_minute.clone(),
            number(key.requests_in_it),
        ]);
    }
    write_rows(f, &rows)
}

/// Writes rows with columns of equal width: texts to the left, numbers to the right.
fn write_rows(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let is_number = |cell: &String| cell.chars().all(|c| c.is_ascii_digit() || c == ',');
    let is_right: Vec<_> = (0..columns)
        .map(|column| rows.iter().skip(1).filter_map(|row| row.get(column)).all(is_number))
        .collect();
    for row in rows {
        let mut line = String::from("  ");
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[column] - cell.chars().count());
            let cell = if is_right[column] { [&*padding, cell] } else { [cell, &*padding] };
            line.extend(cell);
            line.push_str("  ");
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}
