//! The page as blocks of text and tables, which `html` and `markdown` write: [`Block`].

use http::StatusCode;

#[cfg(feature = "calendar")]
use super::ScheduleDescription;
use super::{
    Description, HeaderDescription, PolicyDescription, RefusalDescription, Requests,
    ResponseDescription, indent::indented,
};
use crate::{algorithm::Algorithm, policy::english, quota::Quota};

pub(super) enum Block {
    Heading(&'static str),
    Text(Cell),
    List(Vec<Cell>),
    Table {
        caption: &'static str,
        columns: Vec<String>,
        groups: Vec<Group>,
    },
    /// An HTTP message, with its line breaks.
    Message(String),
}

/// Rows of a table that belong together. The first cell of each row is its heading.
pub(super) struct Group {
    pub(super) heading: Option<Cell>,
    pub(super) rows: Vec<Vec<Cell>>,
}

pub(super) type Cell = Vec<Span>;

pub(super) enum Span {
    Text(String),
    Strong(String),
    Code(String),
    /// A remark on the span before it.
    Note(String),
}

fn text(text: impl Into<String>) -> Span {
    Span::Text(text.into())
}

fn note(note: impl Into<String>) -> Span {
    Span::Note(note.into())
}

/// A table of one group, without a heading.
fn table(caption: &'static str, columns: Vec<String>, rows: Vec<Vec<Cell>>) -> Block {
    Block::Table { caption, columns, groups: vec![Group { heading: None, rows }] }
}

impl Description {
    pub(super) fn document(&self) -> Vec<Block> {
        let mut blocks = vec![Block::Text(vec![text(
            "Each request uses one unit of every policy that applies to it, unless the policy says \
             otherwise. It passes if all of them let it pass. A request that one policy refuses \
             uses no units of the others.",
        )])];
        blocks.extend(self.limits());
        blocks.extend(self.by_plan());
        blocks.extend(self.algorithms());
        if !self.exempt.is_empty() {
            blocks.push(Block::Heading("Not counted"));
            let exempt = self.exempt.iter().map(|requests| vec![requests_span(requests)]);
            blocks.push(Block::List(exempt.collect()));
        }
        blocks.extend(self.responses.iter().flat_map(ResponseDescription::document));
        blocks
    }

    fn policies(&self) -> impl Iterator<Item = &PolicyDescription> {
        let of_categories = self.categories.iter().flat_map(|category| &category.policies);
        self.every_request.iter().chain(of_categories).chain(&self.check_only)
    }

    fn limits(&self) -> Vec<Block> {
        let columns = || ["Policy", "Limit", "Counted per"].map(String::from).to_vec();
        let rows = |policies: &[PolicyDescription]| policies.iter().map(row).collect();
        let section = |heading, caption, policies: &[PolicyDescription]| match policies {
            [] => Vec::new(),
            _ => vec![Block::Heading(heading), table(caption, columns(), rows(policies))],
        };
        let mut blocks =
            section("Every request", "Policies that apply to every request", &self.every_request);
        if !self.categories.is_empty() {
            let groups = self.categories.iter().map(|category| {
                let mut heading = vec![Span::Strong(category.name.clone())];
                for requests in &category.requests {
                    heading.extend([text(" "), requests_span(requests)]);
                }
                Group { heading: Some(heading), rows: rows(&category.policies) }
            });
            let groups = groups.collect();
            let caption = "Policies by category of requests";
            blocks.push(Block::Heading("By category"));
            blocks.push(Block::Text(vec![text(
                "A request belongs to the first category that matches it. A policy in several \
                 categories is one quota for all of them.",
            )]));
            blocks.push(Block::Table { caption, columns: columns(), groups });
        }
        blocks.extend(section(
            "Beside requests",
            "Policies for work other than requests",
            &self.check_only,
        ));
        blocks
    }

    /// A table of plans, with a column for each policy that has plans.
    fn by_plan(&self) -> Vec<Block> {
        let mut policies: Vec<&PolicyDescription> = Vec::new();
        let mut plans: Vec<&str> = Vec::new();
        for policy in self.policies().filter(|policy| !policy.plans.is_empty()) {
            if policies.iter().all(|known| known.name != policy.name) {
                policies.push(policy);
            }
            for plan in &policy.plans {
                if !plans.contains(&&*plan.name) {
                    plans.push(&plan.name);
                }
            }
        }
        if policies.is_empty() {
            return Vec::new();
        }
        let limit = |policy: &PolicyDescription, plan: Option<&str>| {
            let quota = policy.plans.iter().find(|known| Some(&*known.name) == plan);
            let quota = quota.map_or(policy.quota, |plan| plan.quota);
            vec![text(limit_text(policy, &quota))]
        };
        let row = |plan: Option<&str>| {
            let name = vec![text(plan.unwrap_or("no plan"))];
            let limits = policies.iter().map(|policy| limit(policy, plan));
            std::iter::once(name).chain(limits).collect()
        };
        let rows = plans.into_iter().map(Some).chain([None]).map(row).collect();
        let names = policies.iter().map(|policy| policy.name.clone());
        let columns = std::iter::once("Plan".to_owned()).chain(names).collect();
        vec![Block::Heading("By plan"), table("Limits of each plan, by policy", columns, rows)]
    }

    /// When units come back, for each algorithm in use.
    fn algorithms(&self) -> Vec<Block> {
        let has_calendar = self.policies().any(PolicyDescription::counts_by_calendar);
        let meaning = |algorithm| match algorithm {
            Algorithm::TokenBucket => {
                ": units come back evenly, one after the other, up to what can be used at once."
            }
            Algorithm::FixedWindow if has_calendar => {
                ": all units come back when a window of the clock begins: a minute on the minute, \
                 an hour on the hour (UTC), counted from the beginning of 1970. A window of the \
                 calendar begins at midnight in its time zone, unless the limit says another time."
            }
            Algorithm::FixedWindow => {
                ": all units come back when a window of the clock begins (UTC): a minute on the \
                 minute, an hour on the hour. Windows are counted from the beginning of 1970."
            }
            Algorithm::SlidingWindow => {
                ": a unit comes back when the window's length has passed since it was used, or \
                 1/60 of it later at most."
            }
            Algorithm::InFlight => {
                ": a unit comes back when the response to its request has ended, or when its \
                 connection has closed."
            }
        };
        let mut used = vec![
            Algorithm::TokenBucket,
            Algorithm::FixedWindow,
            Algorithm::SlidingWindow,
            Algorithm::InFlight,
        ];
        used.retain(|algorithm| self.policies().any(|policy| policy.algorithm == *algorithm));
        #[expect(clippy::string_slice, reason = "the name of an algorithm is ASCII")]
        let item = |algorithm| {
            let mut name = algorithm_name(algorithm);
            name[..1].make_ascii_uppercase();
            vec![Span::Strong(name), text(meaning(algorithm))]
        };
        if used.is_empty() {
            return Vec::new();
        }
        let items = used.into_iter().map(item).collect();
        vec![Block::Heading("When units come back"), Block::List(items)]
    }
}

/// `token bucket`
fn algorithm_name(algorithm: Algorithm) -> String {
    algorithm.as_str().replace('_', " ")
}

fn limit_text(policy: &PolicyDescription, quota: &Quota) -> String {
    english::limit(quota, policy.algorithm, policy.unit.as_deref())
}

fn requests_span(requests: &Requests) -> Span {
    match requests {
        Requests::Endpoint { .. } => Span::Code(requests.to_string()),
        _ => text(requests.to_string()),
    }
}

/// A row of a policy: its name, limit and keys, with remarks.
fn row(policy: &PolicyDescription) -> Vec<Cell> {
    let mut name = vec![text(&*policy.name)];
    if policy.dry_run {
        name.push(note("tried out: refuses nothing"));
    }
    let mut limit =
        vec![text(limit_text(policy, &policy.quota)), note(algorithm_name(policy.algorithm))];
    #[cfg(feature = "calendar")]
    limit.extend(policy.schedules.iter().map(|schedule| {
        let ScheduleDescription { hours, zone, quota } = schedule;
        note(format!("{hours} in {zone}: {}", limit_text(policy, quota)))
    }));
    match (policy.plans.is_empty(), policy.other_quotas) {
        (true, false) => {}
        (false, false) => limit.push(note("or as the plan says")),
        (true, true) => limit.push(note("or by arrangement")),
        (false, true) => limit.push(note("or as the plan says, or by arrangement")),
    }
    match (policy.cost_by_request, policy.cost_by_response) {
        (false, false) => {}
        (true, false) => limit.push(note("units depend on the request")),
        (_, true) => limit.push(note("units depend on the response")),
    }
    if policy.settles_at_end {
        limit.push(note("units are reserved, and settled when the response has ended"));
    }
    if !policy.or_else.is_empty() {
        limit.push(note(format!("when it is used up: {}", policy.or_else.join(", then "))));
    }
    if !policy.hold.is_zero() {
        let hold = english::duration(policy.hold);
        let turns = policy.fair.as_ref().map(|fair| format!(", in turns by {}", fair.tenant));
        let turns = turns.unwrap_or_default();
        limit.push(note(format!("waits up to {hold} before it refuses{turns}")));
    }
    limit.extend(policy.penalty.as_ref().map(|penalty| note(penalty.words.clone())));
    let mut keys = vec![text(english::keys(policy.global, &policy.keys))];
    if !policy.keys.is_empty() {
        let refused = policy.refuses_without_key;
        keys.push(note(if refused { "else refused" } else { "else not counted" }));
    }
    vec![name, limit, keys]
}

impl ResponseDescription {
    fn document(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        if !self.headers.is_empty() {
            blocks.push(Block::Heading("Headers"));
            let row = |header: &HeaderDescription| {
                vec![vec![Span::Code(header.name.clone())], vec![text(&*header.meaning)]]
            };
            let columns = ["Header", "Meaning"].map(String::from).to_vec();
            let rows = self.headers.iter().map(row).collect();
            blocks.push(table("Headers of responses", columns, rows));
            if let Some(policy) = &self.header_policy {
                blocks.push(Block::Text(vec![
                    text("While requests pass, headers for one policy show "),
                    Span::Strong(policy.clone()),
                    text(". On a refusal, they show the policy that refuses."),
                ]));
            }
        }
        blocks.extend(self.refusal.iter().flat_map(RefusalDescription::document));
        blocks
    }
}

impl RefusalDescription {
    fn document(&self) -> [Block; 3] {
        let status = StatusCode::from_u16(self.status).ok();
        let phrase = status.and_then(|status| status.canonical_reason()).unwrap_or_default();
        let mut message = format!("HTTP/1.1 {} {phrase}\n", self.status);
        for (name, value) in &self.headers {
            message.push_str(&format!("{name}: {value}\n"));
        }
        message.push('\n');
        message.push_str(&indented(&self.body));
        [
            Block::Heading("When a limit is reached"),
            Block::Text(vec![
                text("The answer to a request with the id "),
                Span::Code(self.request_id.clone()),
                text(" when the quota of "),
                Span::Strong(self.policy.clone()),
                text(" is used up:"),
            ]),
            Block::Message(message),
        ]
    }
}
