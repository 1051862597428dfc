//! Collects the problems of limits, each with its place in the file: [`Problems`].

use super::{ConfigProblem, Limits, phrases::in_file, source::Steps};
use crate::error::{BuildProblem, named};

/// The problems of limits that were found so far.
pub(super) struct Problems<'a> {
    limits: &'a Limits,
    pub(super) found: Vec<ConfigProblem>,
}

impl<'a> Problems<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self { limits, found: Vec::new() }
    }

    /// Adds a problem of the setting at the end of `steps`.
    pub(super) fn add(&mut self, steps: &[String], problem: &str) {
        let text = match self.culprit(steps) {
            Some(culprit) => format!("{culprit}: {problem}"),
            None => problem.to_owned(),
        };
        self.add_text(steps, text);
    }

    /// Adds a problem that `build()` would find.
    pub(super) fn add_of_build(&mut self, problem: &BuildProblem) {
        let steps = self.steps_to(problem);
        self.add_text(&steps, in_file(&problem.to_string()));
    }

    fn add_text(&mut self, steps: &[String], text: String) {
        if !self.limits.source.is_repaired(steps) {
            self.found.push(self.limits.source.problem(steps, text));
        }
    }

    /// Whose setting it is, as `build()` names it.
    fn culprit(&self, steps: &[String]) -> Option<String> {
        let (first, rest) = steps.split_first()?;
        match (&**first, rest.first()) {
            ("policies", Some(name)) => Some(named("policy", name)),
            ("categories", Some(index)) => {
                let category = self.limits.categories.get(index.parse::<usize>().ok()?)?;
                Some(named("category", &category.name))
            }
            ("overrides", Some(index)) => {
                Some(format!("override {}", index.parse::<usize>().ok()?.saturating_add(1)))
            }
            ("exempt", _) => Some("an exemption".to_owned()),
            ("no_limits", _) => None,
            (first, _) => Some(first.to_owned()),
        }
    }

    /// The way to the setting that a problem is about.
    fn steps_to(&self, problem: &BuildProblem) -> Steps {
        let (method, index) = problem.setting();
        let culprit = problem.culprit();
        let field = match method {
            "on" => "requests",
            "policy" => "policies",
            "key" => "keys",
            "schedule" => "schedules",
            method => method,
        };
        let mut steps: Steps = Vec::new();
        let name_of = |kind: &str| match culprit == named(kind, "") {
            true => Some(""),
            false => culprit.strip_prefix(kind)?.strip_prefix(" `")?.strip_suffix('`'),
        };
        let policy = name_of("policy").and_then(|name| self.limits.policies.get_key_value(name));
        let categories = &self.limits.categories;
        let category = name_of("category")
            .and_then(|name| categories.iter().rposition(|category| category.name == name));
        let mut index = index.map(|index| index.to_string());
        match (policy, category) {
            (Some((name, policy)), _) => {
                steps.extend(["policies".to_owned(), name.clone()]);
                let nth = problem.setting().1;
                if field == "plans" {
                    let plan = nth.and_then(|nth| policy.plans.as_slice().get(nth));
                    index = plan.map(|(plan, _)| plan.clone());
                } else if field == "fair_weights" {
                    index = nth.and_then(|nth| policy.fair_weights.keys().nth(nth)).cloned();
                }
            }
            (_, Some(category)) => steps.extend(["categories".to_owned(), category.to_string()]),
            _ if matches!(field, "headers" | "header_policy" | "jitter_retry_after") => {
                steps.push("layer".to_owned())
            }
            _ if culprit == "caller" => steps.push("caller".to_owned()),
            _ => {}
        }
        steps.extend(Some(field).filter(|field| !field.is_empty()).map(str::to_owned));
        steps.extend(index);
        steps
    }
}

/// The way to a setting.
pub(super) fn steps<const N: usize>(steps: [&str; N]) -> Steps {
    steps.map(str::to_owned).to_vec()
}
