//! Finds overrides of a file that cannot be: [`Build::find_in_overrides`].

use std::{collections::HashSet, net::IpAddr, slice, sync::Arc};

use super::{Key, Override, build::Build, phrases::in_file, problems::steps};
use crate::{
    clock::Clock,
    key::{KeyExtractor, canonical, from_fn},
    override_record::{MAX_TIME, reason_problem},
    policy::quota_problem,
    store::MAX_OVERRIDES,
};

impl Build<'_> {
    pub(super) fn find_in_overrides(&mut self) {
        let limits = self.limits;
        if limits.overrides.is_empty() {
            return;
        }
        let for_requests = !limits.every_request.is_empty() || !limits.categories.is_empty();
        if limits.caller.is_none() && for_requests {
            let text = "nothing says who a request comes from, so that no override would apply; add \
                        `caller`, as in `caller = \"bearer\"`";
            self.problems.add(&steps(["overrides"]), text);
        }
        if limits.overrides.len() > MAX_OVERRIDES {
            let text = format!("there are more than {MAX_OVERRIDES}; delete some of them");
            self.problems.add(&steps(["overrides"]), &text);
        }
        let caller = self.caller(limits.caller.as_ref());
        let now = Clock::system().now().unix();
        let mut seen = HashSet::new();
        for (index, one) in limits.overrides.iter().enumerate() {
            let place = steps(["overrides", &index.to_string()]);
            let at = |field: &str| [&*place, &steps([field])].concat();
            self.find_in_effect(one, &place);
            if one.until.saturating_sub(now) > MAX_TIME {
                let text = "its end is more than 366 days ahead; write an earlier `until`";
                self.problems.add(&at("until"), text);
            }
            if let Some(problem) = one.reason.as_deref().and_then(reason_problem) {
                let text = format!("{problem}; write a shorter text in one line");
                self.problems.add(&at("reason"), &text);
            }
            let Some(key) = one.caller_key() else {
                let text = "it has no `key`; add that of the caller, as in `key = \"…\"`";
                self.problems.add(&at("key"), text);
                continue;
            };
            match canonical(&*caller, key)
                .filter(|_| has_addresses(limits.caller.as_ref(), &one.key))
            {
                None => {
                    let text = "no request has this `key`; write it as the `caller` finds it: without \
                                blanks around it, an address like `\"192.0.2.7\"`, and several keys \
                                together as a list";
                    self.problems.add(&at("key"), text);
                }
                Some(key) => {
                    let place = (key.as_bytes().to_vec(), one.policy.as_deref());
                    if !seen.insert(place) {
                        let text = "an override before it is of the same caller and policy; delete one \
                                    of them";
                        self.problems.add(&at("key"), text);
                    }
                }
            }
        }
    }

    /// What finds the caller. What is wrong with it is said elsewhere.
    fn caller(&mut self, caller: Option<&Key>) -> Arc<dyn KeyExtractor> {
        match caller {
            Some(caller) => {
                let found = self.problems.found.len();
                let extractor = self.key(caller, &steps(["caller"]));
                self.problems.found.truncate(found);
                extractor
            }
            None => Arc::new(from_fn("caller", |_| None)),
        }
    }

    /// What it does: a block, or a quota under a policy.
    fn find_in_effect(&mut self, one: &Override, place: &[String]) {
        let at = |field: &str| [place, &steps([field])].concat();
        let problem = match (one.block, &one.policy, one.quota) {
            (true, None, None) | (false, Some(_), Some(_)) => None,
            (true, ..) => Some(
                "it has `block` beside a `policy` or a `quota`; leave one of them out, or write two \
                 overrides",
            ),
            (false, None, None) => {
                Some("it changes nothing; add `block = true`, or a `policy` and its `quota`")
            }
            (false, Some(_), None) => {
                Some("it has no `quota`; add one like `quota = \"100 per minute\"`")
            }
            (false, None, Some(_)) => Some("it has no `policy`; add one like `policy = \"read\"`"),
        };
        if let Some(problem) = problem {
            self.problems.add(place, problem);
        }
        let Some(name) = &one.policy else { return };
        let Some(policy) = self.limits.policies.get(name) else {
            self.add_unknown_policy(&at("policy"), name);
            return;
        };
        let is_repaired = self.limits.source.is_repaired(&steps(["policies", name, "algorithm"]));
        let problem = one.quota.filter(|quota| quota.units() > 0 && !is_repaired);
        if let Some(problem) = problem.and_then(|quota| quota_problem(policy.algorithm, &quota)) {
            let text = format!("policy `{name}` cannot have this quota: {}", in_file(&problem));
            self.problems.add(&at("quota"), &text);
        }
    }
}

/// Whether a text is an address where the caller is one. Four or sixteen letters are none, though they
/// may be the bytes of one.
fn has_addresses(caller: Option<&Key>, key: &[String]) -> bool {
    let kinds = match caller {
        Some(Key::Together(kinds)) => kinds,
        caller => caller.map_or(&[][..], slice::from_ref),
    };
    let fits = |(part, kind): (&String, &Key)| {
        !matches!(kind, Key::Ip(_)) || part.parse::<IpAddr>().is_ok()
    };
    key.iter().zip(kinds).all(fits)
}
