//! A report as one HTML page, in the look of the crate's pages. It has no script, and loads nothing.

use std::fmt::{self, Write};

use super::{
    LimitsPart, PolicyPart, Report, chart::Chart, number, other_refusals, quota, share, whom,
};

/// The colours of the crate's own pages.
const THEME: &str = include_str!("../../../../src/page/theme.css");
const STYLE: &str = include_str!("page.css");

pub(super) fn page(report: &Report) -> String {
    let mut page = String::new();
    write_page(&mut page, report).expect("a string takes all that is written");
    page
}

fn write_page(page: &mut String, report: &Report) -> fmt::Result {
    let log = &report.log;
    write!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>What limits would have done</title>\n\
         <style>\n{THEME}{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>What limits would have done</h1>\n"
    )?;
    writeln!(
        page,
        "<p>{} requests of {}, from <time>{}</time> to <time>{}</time>. All times are UTC.</p>",
        number(log.requests),
        escaped(&log.files.join(", ")),
        log.from,
        log.to
    )?;
    if log.no_requests > 0 {
        let count = number(log.no_requests);
        writeln!(page, "<p>{count} lines are no request that an application gets.</p>")?;
    }
    if log.broken > 0 {
        let count = number(log.broken);
        write!(page, "<p>{count} lines cannot be read, and are left out. The first:</p>\n<ul>")?;
        for broken in &log.first_broken {
            write!(page, "<li>line {}: {}</li>", broken.line, broken.reason)?;
        }
        page.push_str("</ul>\n");
    }
    let charts: Vec<_> = report.limits.iter().map(|limits| Chart::new(&limits.minutes)).collect();
    // Charts beside each other have one scale.
    let highest = charts.iter().flatten().map(Chart::highest).max().unwrap_or(0);
    for (limits, chart) in report.limits.iter().zip(&charts) {
        write_limits(page, limits, chart.as_ref(), highest)?;
    }
    page.push_str("</main>\n</body>\n</html>\n");
    Ok(())
}

fn write_limits(
    page: &mut String,
    limits: &LimitsPart,
    chart: Option<&Chart>,
    highest: u64,
) -> fmt::Result {
    let all = limits.passed + limits.refused;
    write!(page, "<section>\n<h2>{}</h2>\n<dl class=\"numbers\">", escaped(&limits.file))?;
    let mut numbers = vec![
        ("passed", number(limits.passed), String::new()),
        ("refused", number(limits.refused), share(limits.refused, all)),
    ];
    if limits.held > 0 {
        let longest = format!("{:.1} s at most", limits.longest_hold_seconds);
        numbers.push(("held", number(limits.held), longest));
    }
    if limits.uncounted > 0 {
        numbers.push(("under no policy", number(limits.uncounted), String::new()));
    }
    if limits.blocked > 0 {
        numbers.push(("of blocked callers", number(limits.blocked), String::new()));
    }
    for (what, count, more) in numbers {
        write!(page, "<div><dt>{what}</dt><dd>{count} <small>{more}</small></dd></div>")?;
    }
    page.push_str("</dl>\n");
    if let Some(chart) = chart {
        let minutes = match chart.minutes_a_bar {
            1 => "a minute".to_owned(),
            minutes => format!("{minutes} minutes"),
        };
        write!(
            page,
            "<figure>\n{}<figcaption><span class=\"passed\">passed</span> <span class=\"refused\">refused</span> \
             <span>a bar is {minutes}</span></figcaption>\n</figure>\n",
            chart.svg(highest)
        )?;
    }
    if !limits.unseen.is_empty() || !limits.notes.is_empty() {
        page.push_str("<ul class=\"notes\">");
        for unseen in &limits.unseen {
            let (about, text) = (escaped(&unseen.about), with_code(&unseen.text));
            write!(page, "<li><b>{about}</b> cannot be seen in this log: {text}.</li>")?;
        }
        for note in &limits.notes {
            let (about, text) = (escaped(&note.about), with_code(&note.text));
            write!(page, "<li><b>{about}</b>: {text}.</li>")?;
        }
        page.push_str("</ul>\n");
    }
    for policy in &limits.policies {
        write_policy(page, policy)?;
    }
    page.push_str("</section>\n");
    Ok(())
}

fn write_policy(page: &mut String, policy: &PolicyPart) -> fmt::Result {
    let dry_run = if policy.dry_run { " <small>dry run</small>" } else { "" };
    write!(page, "<article>\n<h3>{}{dry_run}</h3>\n<p>", escaped(&policy.name))?;
    write!(page, "<b>{}</b>: ", escaped(&quota(&policy.quota)))?;
    let (passed, refused) = (number(policy.passed), number(policy.refused));
    let (keys, refused_keys) = (number(policy.keys as u64), number(policy.refused_keys as u64));
    write!(
        page,
        "{passed} passed, {refused} refused; {refused_keys} of {keys} keys were refused."
    )?;
    let others = other_refusals(policy);
    if !others.is_empty() {
        write!(page, " Of those refused: {others}.")?;
    }
    page.push_str("</p>\n");
    if !policy.suggestions.is_empty() {
        page.push_str("<p>The smallest quota that refuses ");
        for (index, one) in policy.suggestions.iter().enumerate() {
            let comma = if index > 0 { "; " } else { "" };
            let (whom, quota) = (whom(one.but_the_loudest), quota(&one.quota));
            write!(page, "{comma}{whom}: <b>{}</b>", escaped(&quota))?;
        }
        page.push_str(".</p>\n");
    }
    if !policy.loudest.is_empty() {
        page.push_str(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"keys\"><table>\n<thead><tr><th>key</th><th class=\"n\">passed</th>\
             <th class=\"n\">refused</th><th>first refused</th><th>busiest minute</th>\
             <th class=\"n\">in it</th></tr></thead>\n<tbody>\n",
        );
        for key in &policy.loudest {
            let refused = if key.refused > 0 { " refused" } else { "" };
            writeln!(
                page,
                "<tr><td><small>{}</small> {}</td><td class=\"n\">{}</td><td class=\"n{refused}\">{}</td>\
                 <td>{}</td><td>{}</td><td class=\"n\">{}</td></tr>",
                escaped(&key.kind),
                escaped(&key.key),
                number(key.passed),
                number(key.refused),
                key.first_refused.as_deref().unwrap_or("never"),
                key.busiest_minute,
                number(key.requests_in_it)
            )?;
        }
        page.push_str("</tbody></table></div>\n");
    }
    page.push_str("</article>\n");
    Ok(())
}

/// A text in HTML whose `names` are code.
fn with_code(text: &str) -> String {
    let parts = escaped(text);
    let parts: Vec<_> = parts.split('`').collect();
    if parts.len() % 2 == 0 {
        return parts.join("`"); // a name has a backtick itself
    }
    let mut html = String::new();
    for (index, part) in parts.into_iter().enumerate() {
        let (begin, end) = if index % 2 == 0 { ("", "") } else { ("<code>", "</code>") };
        html.extend([begin, part, end]);
    }
    html
}

/// A text in HTML: what callers sent is no markup.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c => escaped.push(c),
        }
    }
    escaped
}
