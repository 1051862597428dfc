//! Makes a limiter and a layer of limits, and finds all that cannot be: [`limiter`], [`layer`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    ConfigError, ConfigProblem, Key, Limits, OnRejection, Registry, Requests, WithoutKey,
    error::MAX_LISTED,
    key::Prefixes,
    nearest::nearest,
    phrases::in_file,
    problems::{Problems, steps},
    text,
};
use crate::{
    category::Category,
    key::{self, Caller, KeyExtractor},
    layer::{RateLimitLayer, RateLimitLayerBuilder, response::plain_text},
    limiter::{Limiter, LimiterBuilder},
    matcher::Matcher,
    policy::Policy,
};

pub(super) fn limiter(limits: &Limits, registry: &Registry) -> Result<LimiterBuilder, ConfigError> {
    let (builder, problems) = check(limits, registry);
    ConfigError::if_any(problems)?;
    Ok(builder)
}

pub(super) fn layer(
    limits: &Limits,
    limiter: Limiter,
    registry: &Registry,
) -> Result<RateLimitLayerBuilder, ConfigError> {
    ConfigError::if_any(problems(limits, registry))?;
    let mut build = Build::new(limits, registry);
    Ok(build.layer(RateLimitLayer::builder(limiter)))
}

/// All problems of the limits, beside mistakes in their syntax.
pub(super) fn problems(limits: &Limits, registry: &Registry) -> Vec<ConfigProblem> {
    check(limits, registry).1
}

fn check(limits: &Limits, registry: &Registry) -> (LimiterBuilder, Vec<ConfigProblem>) {
    let mut build = Build::new(limits, registry);
    build.find_in_registry();
    build.find_in_client_ip();
    build.find_in_use();
    build.find_in_overrides();
    let builder = build.limiter();
    for problem in builder.problems() {
        build.problems.add_of_build(&problem);
    }
    if let Ok(without_policies) = Limiter::builder().build() {
        let layer = build.layer(RateLimitLayer::builder(without_policies));
        for problem in layer.problems(builder.request_policies()) {
            build.problems.add_of_build(&problem);
        }
    }
    (builder, build.problems.found)
}

/// Limits on their way to a builder. What cannot be is a problem, and something harmless stands in
/// its place so that the rest is checked.
pub(super) struct Build<'a> {
    pub(super) limits: &'a Limits,
    registry: &'a Registry,
    pub(super) problems: Problems<'a>,
}

impl<'a> Build<'a> {
    fn new(limits: &'a Limits, registry: &'a Registry) -> Self {
        Self { limits, registry, problems: Problems::new(limits) }
    }

    fn find_in_registry(&mut self) {
        for problem in &self.registry.problems {
            let problem =
                ConfigProblem { file: String::new(), position: None, text: problem.clone() };
            self.problems.found.push(problem);
        }
    }

    /// The address is read for many policies, and what is wrong with it is said once.
    fn find_in_client_ip(&mut self) {
        let client_ip = self.limits.client_ip.extractor(Prefixes::default());
        if let Some(problem) = client_ip.problem() {
            self.problems.add(&steps(["client_ip"]), &in_file(&problem));
        }
    }

    /// Policies that are not there or not used, and limits that limit nothing.
    fn find_in_use(&mut self) {
        let limits = self.limits;
        let mut used = BTreeSet::new();
        let of_categories = limits.categories.iter().enumerate().map(|(index, category)| {
            (steps(["categories", &index.to_string(), "policies"]), &category.policies)
        });
        let lists = [
            (steps(["every_request"]), &limits.every_request),
            (steps(["check_only"]), &limits.check_only),
        ];
        let of_policies = limits
            .policies
            .iter()
            .map(|(name, policy)| (steps(["policies", name, "or_else"]), &policy.or_else));
        for (list, names) in lists.into_iter().chain(of_categories).chain(of_policies) {
            for (index, name) in names.iter().enumerate() {
                used.insert(name);
                if !limits.policies.contains_key(name) {
                    self.add_unknown_policy(&[&*list, &[index.to_string()]].concat(), name);
                }
            }
        }
        let lists_are_whole = !["every_request", "check_only", "categories"]
            .iter()
            .any(|list| limits.source.is_repaired(&steps([*list])));
        for name in limits.policies.keys().filter(|name| lists_are_whole && !used.contains(name)) {
            let text = format!(
                "policy `{name}`: nothing uses it; name it in `every_request`, in the `policies` of a \
                 category, in the `or_else` of another or in `check_only`, or delete it"
            );
            self.problems.found.push(limits.source.problem(&steps(["policies", name]), text));
        }
        let has_policies = !limits.policies.is_empty() || !used.is_empty();
        if limits.no_limits && has_policies {
            let text = "`no_limits` is set, and there are policies; leave `no_limits` out, or the policies";
            self.problems.add(&steps(["no_limits"]), text);
        }
        // A category without a policy has a problem of its own.
        if !limits.no_limits && !has_policies && limits.categories.is_empty() {
            let text = "no request would be limited; add a policy, or write `no_limits = true` if that \
                        is meant";
            self.problems.add(&[], text);
        }
    }

    pub(super) fn add_unknown_policy(&mut self, at: &[String], name: &str) {
        // A policy whose own table was wrong is there.
        if self.limits.source.is_repaired(&steps(["policies", name])) {
            return;
        }
        let name = name.escape_debug();
        // Those after them are only counted.
        let known = self.limits.policies.keys().map(|name| &**name);
        let known = known.filter(|_| self.problems.found.len() < MAX_LISTED);
        let instead = match nearest(&name.to_string(), known) {
            Some(nearest) => format!("write `{nearest}`"),
            None => format!("add the table `[policies.{}]`", text::key(&name.to_string())),
        };
        let text = format!("no policy is named `{name}`; {instead}");
        self.problems.add(at, &text);
    }

    fn limiter(&mut self) -> LimiterBuilder {
        let limits = self.limits;
        let mut builder = Limiter::builder();
        if let Some(caller) = &limits.caller {
            let caller = Caller::new(self.key(caller, &steps(["caller"])));
            builder = builder.caller(match self.registry.caller_secret {
                Some(secret) => caller.secret(secret),
                None => caller,
            });
        }
        if let Some(requests) = limits.max_held {
            builder = builder.max_held(requests);
        }
        if let Some(requests) = limits.max_held_per_caller {
            builder = builder.max_held_per_caller(requests);
        }
        if let Some(requests) = limits.max_held_per_key {
            builder = builder.max_held_per_key(requests);
        }
        for (index, requests) in limits.exempt.iter().enumerate() {
            let steps = steps(["exempt", &index.to_string()]);
            builder = builder.exempt(self.matcher(requests, &steps));
        }
        // A policy of several categories is one policy, and these have clones of it.
        let policies = self.policies();
        let named = |name: &String| policies.get(&**name).cloned();
        for policy in limits.every_request.iter().filter_map(named) {
            builder = builder.policy(policy);
        }
        for (index, category) in limits.categories.iter().enumerate() {
            let mut built = Category::new(&*category.name).hold(category.hold);
            for (nth, requests) in category.requests.iter().enumerate() {
                let steps = steps(["categories", &index.to_string(), "requests", &nth.to_string()]);
                built = built.on(self.matcher(requests, &steps));
            }
            for policy in category.policies.iter().filter_map(named) {
                built = built.policy(policy);
            }
            builder = builder.category(built);
        }
        for policy in limits.check_only.iter().filter_map(named) {
            builder = builder.check_only(policy);
        }
        builder
    }

    /// All policies by their names. Those that others fall back on come first.
    fn policies(&mut self) -> BTreeMap<&'a str, Policy> {
        let limits = self.limits;
        let mut built: BTreeMap<&str, Policy> = BTreeMap::new();
        let mut left: Vec<_> = limits
            .policies
            .iter()
            .map(|(name, policy)| (&**name, self.policy(name, policy), &policy.or_else))
            .collect();
        while !left.is_empty() {
            let is_known =
                |name: &String| built.contains_key(&**name) || !limits.policies.contains_key(name);
            let (ready, rest): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|(_, _, or_else)| or_else.iter().all(is_known));
            if ready.is_empty() {
                for (name, policy, _) in rest {
                    let text =
                        "it falls back on itself, perhaps over others; leave one of them out";
                    self.problems.add(&steps(["policies", name, "or_else"]), text);
                    built.insert(name, policy);
                }
                break;
            }
            for (name, policy, or_else) in ready {
                let others: Vec<_> = or_else.iter().filter_map(|name| built.get(&**name)).collect();
                let policy = others.into_iter().cloned().fold(policy, Policy::or_else);
                built.insert(name, policy);
            }
            left = rest;
        }
        built
    }

    fn policy(&mut self, name: &str, policy: &super::Policy) -> Policy {
        let at = |field: &str| steps(["policies", name, field]);
        let mut built = Policy::new(name, policy.algorithm, policy.quota);
        for (index, key) in policy.keys.iter().enumerate() {
            let key = self.key(key, &steps(["policies", name, "keys", &index.to_string()]));
            built = if index == 0 { built.key(key) } else { built.or_key(key) };
        }
        built = match policy.without_key {
            Some(WithoutKey::Skip) => built.or_skip(),
            Some(WithoutKey::Refuse) => built.or_refuse(),
            None => built,
        };
        if policy.global {
            built = built.global();
        }
        if policy.unreadable_as_missing {
            built = built.unreadable_as_missing();
        }
        let (plans, weights) = (policy.plans.as_slice().to_vec(), policy.fair_weights.clone());
        let plan_of = policy.plan.as_ref().map(|plan| {
            self.registry.plans.get("plan", plan).cloned().unwrap_or_else(|problem| {
                self.problems.add(&at("plan"), &problem);
                Arc::new(|_| None)
            })
        });
        match plan_of {
            Some(plan_of) => {
                if !weights.is_empty() {
                    let plan_of = Arc::clone(&plan_of);
                    built = built.fair_weights(weights.clone(), move |request| plan_of(request));
                }
                if !plans.is_empty() || weights.is_empty() {
                    built = built.plans(plans, move |request| plan_of(request));
                }
            }
            None => {
                let tables = [("plans", plans.is_empty()), ("fair_weights", weights.is_empty())];
                for (table, _) in tables.into_iter().filter(|(_, is_empty)| !is_empty) {
                    let text = format!(
                        "nothing says which plan a request has; add `plan`, the name of a \
                         registered function, or leave `{table}` out"
                    );
                    self.problems.add(&at(table), &text);
                }
            }
        }
        for (index, schedule) in policy.schedules.iter().enumerate() {
            built = self.schedule(
                built,
                schedule,
                &[at("schedules"), vec![index.to_string()]].concat(),
            );
        }
        if let Some(quota_by) = &policy.quota_by {
            match self.registry.quotas.get("quota_by", quota_by).cloned() {
                Ok(quota_by) => built = built.quota_by(move |request| quota_by(request)),
                Err(problem) => self.problems.add(&at("quota_by"), &problem),
            }
        }
        if let Some(cost) = &policy.cost {
            match self.registry.costs.get("cost", cost).cloned() {
                Ok(cost) => built = built.cost(move |request| cost(request)),
                Err(problem) => self.problems.add(&at("cost"), &problem),
            }
        }
        if let Some(settle) = &policy.settle {
            match self.registry.settles.get("settle", settle).cloned() {
                Ok(settle) => built = built.settle(move |response| settle(response)),
                Err(problem) => self.problems.add(&at("settle"), &problem),
            }
        }
        if policy.settle_at_end {
            built = built.settle_at_end();
        }
        if let Some(penalty) = &policy.penalty {
            built = built.penalty(penalty.build());
        }
        if let Some(unit) = &policy.unit {
            built = built.unit(unit.clone());
        }
        if let Some(hold) = policy.hold {
            built = built.hold(hold);
        }
        if let Some(wait) = policy.retry_after {
            built = built.retry_after(wait);
        }
        if let Some(tenant) = &policy.fair_by {
            built = built.fair_by(self.key(tenant, &at("fair_by")));
        }
        if policy.dry_run {
            built = built.dry_run();
        }
        if let Some(shard) = &policy.shard {
            built = built.shard(self.key(shard, &at("shard")));
        }
        built.on_store_failure(policy.on_store_failure).lease(policy.lease)
    }

    #[cfg(feature = "calendar")]
    fn schedule(&mut self, policy: Policy, schedule: &super::Schedule, _: &[String]) -> Policy {
        let hours = crate::calendar::hours(&schedule.hours, &schedule.zone);
        policy.schedule(hours, schedule.quota)
    }

    #[cfg(not(feature = "calendar"))]
    fn schedule(&mut self, policy: Policy, _: &super::Schedule, steps: &[String]) -> Policy {
        let text = "this program has no calendar; leave the schedule out, or build it with the \
                    feature `calendar`";
        self.problems.add(steps, text);
        policy
    }

    pub(super) fn key(&mut self, key: &Key, steps: &[String]) -> Arc<dyn KeyExtractor> {
        match key {
            Key::Ip(prefixes) => Arc::new(self.client_ip(*prefixes)),
            Key::Bearer => Arc::new(key::bearer()),
            Key::Header(name) => Arc::new(key::header(name)),
            Key::Query(name) => Arc::new(key::query(name.clone())),
            Key::Cookie(name) => Arc::new(key::cookie(name.clone())),
            Key::BodyField(name) => Arc::new(key::body_field(name.clone())),
            Key::PathParam(param) => Arc::new(key::path_param(&param.path, param.name.clone())),
            Key::Registered(name) => match self.registry.keys.get("key", name) {
                Ok(extractor) => Arc::clone(extractor),
                Err(problem) => {
                    self.problems.add(steps, &problem);
                    Arc::new(key::from_fn(name.clone(), |_| None))
                }
            },
            Key::Together(keys) => {
                let parts = keys
                    .iter()
                    .enumerate()
                    .map(|(index, key)| self.key(key, &[steps, &[index.to_string()]].concat()));
                let parts: Vec<_> = parts.collect();
                match <[_; 2]>::try_from(parts) {
                    Ok([a, b]) => Arc::new((a, b)),
                    Err(parts) => match <[_; 3]>::try_from(parts) {
                        Ok([a, b, c]) => Arc::new((a, b, c)),
                        Err(parts) => match <[_; 4]>::try_from(parts) {
                            Ok([a, b, c, d]) => Arc::new((a, b, c, d)),
                            Err(parts) => {
                                let text = format!(
                                    "a key of several parts has two to four; this has {}",
                                    parts.len()
                                );
                                self.problems.add(steps, &text);
                                Arc::new(key::from_fn("keys", |_| None))
                            }
                        },
                    },
                }
            }
        }
    }

    /// How the client's address is read. What is wrong with `[client_ip]` is said elsewhere.
    fn client_ip(&self, prefixes: Prefixes) -> key::ClientIp {
        let settings = &self.limits.client_ip;
        if settings.extractor(Prefixes::default()).problem().is_some() {
            return super::ClientIp::default().extractor(prefixes);
        }
        settings.extractor(prefixes)
    }

    fn matcher(&mut self, requests: &Requests, at: &[String]) -> Matcher {
        match requests {
            Requests::Endpoint { methods, path } if methods.is_empty() => Matcher::path(path),
            Requests::Endpoint { methods, path } => Matcher::methods(methods.iter().cloned(), path),
            Requests::ClientIp(networks) => {
                Matcher::client_ip(self.client_ip(Prefixes::default()), networks)
            }
            Requests::Key(keys) => {
                let by = self.key(&keys.by, &[at, &steps(["key", "by"])].concat());
                Matcher::key(by, keys.values.iter().map(|value| &**value))
            }
            Requests::Function(name) => {
                match self.registry.matchers.get("matcher", name).cloned() {
                    Ok(matches) => Matcher::from_fn(move |request| matches(request)),
                    Err(problem) => {
                        self.problems.add(&[at, &steps(["function"])].concat(), &problem);
                        Matcher::from_fn(|_| false)
                    }
                }
            }
        }
    }

    fn layer(&mut self, mut builder: RateLimitLayerBuilder) -> RateLimitLayerBuilder {
        let layer = &self.limits.layer;
        if let Some(styles) = &layer.headers {
            builder = builder.headers(styles.iter().map(|style| style.style()));
        }
        if let Some(policy) = &layer.header_policy {
            builder = builder.header_policy(policy.clone());
        }
        if let Some(has_header) = layer.retry_after {
            builder = builder.retry_after(has_header);
        }
        if layer.expose_decision {
            builder = builder.expose_decision();
        }
        builder = builder.jitter_retry_after(layer.jitter_retry_after);
        match &layer.on_rejection {
            // The default, whose headers are prepared.
            OnRejection::Json => builder,
            OnRejection::PlainText => builder.on_rejection(plain_text()),
            OnRejection::Problem(problem) => builder.on_rejection(problem.problem().renderer()),
            OnRejection::Function(name) => {
                match self.registry.rejections.get("on_rejection", name).cloned() {
                    Ok(render) => builder.on_rejection(move |rejection| render(rejection)),
                    Err(problem) => {
                        let steps = steps(["layer", "on_rejection", "function"]);
                        self.problems.add(&steps, &problem);
                        builder
                    }
                }
            }
        }
    }
}
