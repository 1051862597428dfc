//! A file of limits that is replayed: [`Subject`], with stand-ins for the functions of its program, and
//! what of it cannot be seen in a log.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use serde::Serialize;
use tower_quota::{
    Algorithm, Quota,
    config::{Key, Layer, Limits, OnRejection, Policy, Registry, Requests},
    key::{self, KeyExtractor},
};

use crate::{
    keys::{self, KeyReader},
    log::Log,
};

/// What the operator says of functions that a file names.
#[derive(Clone, Debug, Default)]
pub struct StandIns {
    /// The headers that registered keys are read from.
    pub keys: BTreeMap<String, String>,
    /// The statuses with which a request costs 1 under `settle`; with another, it costs 0.
    pub settles: BTreeMap<String, Vec<u16>>,
}

/// Limits that are replayed.
pub struct Subject {
    pub file: String,
    pub limits: Limits,
    pub registry: Registry,
    stand_ins: StandIns,
    named: Named,
    /// Policies that no line can be counted by, and why.
    pub unseen: BTreeMap<String, String>,
    /// What is replayed otherwise than a server would do it.
    pub notes: Vec<Note>,
}

/// Something that the reader of a report has to know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Note {
    /// The policy, the category or the setting.
    pub about: String,
    pub text: String,
}

impl Note {
    pub fn new(about: &str, text: impl Into<String>) -> Self {
        Self { about: about.to_owned(), text: text.into() }
    }
}

/// Functions that a file names.
#[derive(Default)]
struct Named {
    keys: BTreeSet<String>,
    matchers: BTreeSet<String>,
    plans: BTreeSet<String>,
    quotas: BTreeSet<String>,
    costs: BTreeSet<String>,
    settles: BTreeSet<String>,
    rejection: Option<String>,
}

impl Subject {
    /// Reads a file of limits. Functions of its program get stand-ins.
    ///
    /// # Errors
    /// The text of the [`ConfigError`](tower_quota::config::ConfigError), with all mistakes; or a
    /// stand-in is for a function that the file does not name.
    pub fn read(file: &Path, stand_ins: &StandIns) -> Result<Self, String> {
        // A file that cannot be read has no names, and the second reading says why.
        let text = fs::read_to_string(file).unwrap_or_default();
        let named = Named::of(&toml::from_str(&text).unwrap_or_default());
        let registry = named.registry(stand_ins);
        let limits = Limits::read(file, &registry).map_err(|error| error.to_string())?;
        let mut subject = Self {
            file: file.display().to_string(),
            limits,
            registry,
            stand_ins: stand_ins.clone(),
            named,
            unseen: BTreeMap::new(),
            notes: Vec::new(),
        };
        subject.note_functions();
        Ok(subject)
    }

    /// Checks that each stand-in is for a function that one of the files names.
    ///
    /// # Errors
    /// One is not.
    pub fn check_stand_ins(subjects: &[Self], stand_ins: &StandIns) -> Result<(), String> {
        let check = |option: &str, name: &String, of: fn(&Named) -> &BTreeSet<String>| {
            let is_named = subjects.iter().any(|subject| of(&subject.named).contains(name));
            let known: BTreeSet<_> = subjects
                .iter()
                .flat_map(|subject| of(&subject.named))
                .map(|name| &**name)
                .collect();
            let known = known.into_iter().collect::<Vec<_>>().join("`, `");
            let instead = match &*known {
                "" => "leave it out".to_owned(),
                known => format!("write one of `{known}`"),
            };
            let text = || format!("{option} {name}: no limits name this function; {instead}");
            if is_named { Ok(()) } else { Err(text()) }
        };
        stand_ins.keys.keys().try_for_each(|name| check("--key", name, |named| &named.keys))?;
        stand_ins
            .settles
            .keys()
            .try_for_each(|name| check("--settle", name, |named| &named.settles))
    }

    /// The headers that these limits read, in lower case.
    pub fn headers(&self) -> BTreeSet<String> {
        let mut headers = BTreeSet::new();
        for key in all_keys(&self.limits) {
            add_headers(key, &self.stand_ins, &mut headers);
        }
        headers.extend(self.forwarded_header());
        headers
    }

    /// The header in which proxies write the client's address; `None` if no proxy is trusted.
    fn forwarded_header(&self) -> Option<String> {
        let client_ip = &self.limits.client_ip;
        let trusts = client_ip.trust_proxies.is_some() || client_ip.trust_hops.is_some();
        let header = client_ip.header.as_deref().unwrap_or("x-forwarded-for");
        trusts.then(|| header.to_ascii_lowercase())
    }

    /// The log is that of the application's proxy: this one is the peer no more, but writes the log.
    pub fn stands_at_the_proxy(&mut self) {
        if let Some(hops) = &mut self.limits.client_ip.trust_hops {
            *hops = hops.saturating_sub(1);
        }
    }

    /// Finds what of these limits cannot be seen in the log, and leaves it out: a request
    /// is not refused because the log lacks what the request had.
    pub fn look_at(&mut self, log: &Log) {
        let headers = self.stand_ins.keys.clone();
        let is_seen = |key: &Key| {
            keys::is_seen(key, log, &|name| headers.get(name).map(|name| name.to_ascii_lowercase()))
        };
        self.limits.layer = Layer::default();
        for (name, policy) in &mut self.limits.policies {
            // Which server of a cluster counts does not matter.
            policy.shard = None;
            if self.limits.check_only.contains(name) {
                let text = "it counts work that is no request, which no access log has";
                self.unseen.insert(name.clone(), text.to_owned());
                continue;
            }
            let (seen, hidden): (Vec<_>, Vec<_>) = policy.keys.drain(..).partition(is_seen);
            let names = |keys: &[Key]| {
                keys.iter()
                    .map(|key| format!("`{}`", keys::name_of(key)))
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            if policy.algorithm == Algorithm::InFlight && log.facts.with_length == 0 {
                let text = "it counts requests at the same time, and no line says how long its request \
                            took; log that, such as nginx's `$request_time`";
                self.unseen.insert(name.clone(), text.to_owned());
            } else if seen.is_empty() && !policy.global {
                let text = format!("no line has its key, {}", names(&hidden));
                self.unseen.insert(name.clone(), text);
            } else if !hidden.is_empty() {
                let (hidden, by) = (names(&hidden), names(&seen));
                let text = format!("no line has its key {hidden}; all its requests count by {by}");
                self.notes.push(Note::new(name, text));
            }
            policy.keys = seen;
            if let Some(tenant) = policy.fair_by.take_if(|tenant| !is_seen(tenant)) {
                policy.fair_weights.clear();
                let text = format!("no line has its tenant {}; all are one", names(&[tenant]));
                self.notes.push(Note::new(name, text));
            }
        }
        let unseen: Vec<_> = self.unseen.keys().cloned().collect();
        unseen.iter().for_each(|name| self.leave_out(name));
        if let Some(caller) = self.limits.caller.take_if(|caller| !is_seen(caller)) {
            if !self.limits.overrides.is_empty() {
                let text =
                    format!("no line has the caller `{}`; none applies", keys::name_of(&caller));
                self.notes.push(Note::new("overrides", text));
            }
            self.limits.overrides.clear();
        }
        self.note_facts(log);
    }

    /// Lets a policy count nothing. It stays where it is, as a category needs a policy.
    fn leave_out(&mut self, name: &str) {
        let limits = &mut self.limits;
        if limits.check_only.iter().any(|one| one == name) {
            return;
        }
        limits.overrides.retain(|one| one.policy.as_deref() != Some(name));
        for policy in limits.policies.values_mut() {
            policy.or_else.retain(|other| other != name);
        }
        let of_requests = limits.categories.iter().flat_map(|category| &category.policies);
        if !of_requests.chain(&limits.every_request).any(|one| one == name) {
            limits.policies.remove(name);
            return;
        }
        let mut nothing = Policy::new(Algorithm::TokenBucket, Quota::unlimited());
        nothing.global = true;
        limits.policies.insert(name.to_owned(), nothing);
    }

    fn note_facts(&mut self, log: &Log) {
        if log.facts.redacted > 0 {
            let text = format!(
                "{} lines have `REDACTED` in place of a credential, which counts as no key; set Caddy's \
                 `log_credentials` to see who is who",
                log.facts.redacted
            );
            self.notes.push(Note::new("the log", text));
        }
        if let Some(header) = self.forwarded_header().filter(|header| !log.has_header(header)) {
            let text = format!(
                "the log has no `{header}`; the address of a line counts as the client's, even where \
                 it is that of a trusted proxy"
            );
            self.notes.push(Note::new("client_ip", text));
        }
        if log.facts.without_address > 0 {
            let text = format!("{} lines have no address of a client", log.facts.without_address);
            self.notes.push(Note::new("the log", text));
        }
        self.notes.sort();
        self.notes.dedup();
    }

    fn note_functions(&mut self) {
        let notes = &mut self.notes;
        let mut note = |about: &str, text: String| notes.push(Note::new(about, text));
        for (name, policy) in &self.limits.policies {
            if let Some(function) = &policy.plan {
                let text = format!(
                    "a log does not say who has which plan (`{function}`); all have its own quota"
                );
                note(name, text);
            }
            if let Some(function) = &policy.quota_by {
                let text =
                    format!("`{function}` is a function of the program; all have its own quota");
                note(name, text);
            }
            if let Some(function) = &policy.cost {
                let text =
                    format!("`{function}` is a function of the program; each request costs 1");
                note(name, text);
            }
            let settle = policy.settle.as_ref();
            if let Some(function) =
                settle.filter(|name| !self.stand_ins.settles.contains_key(*name))
            {
                let text = format!(
                    "`{function}` is a function of the program, so that no response changes a cost; say \
                     which statuses cost 1, as in --settle \"{function}=401,403\""
                );
                note(name, text);
            }
            if policy.settle_at_end {
                note(name, "a log does not say what a request used; each costs 1".to_owned());
            }
        }
        for function in &self.named.matchers {
            let text = "it is a function of the program; no request is one of these".to_owned();
            note(function, text);
        }
    }

    /// The readers of a policy's keys.
    pub fn readers(&self, policy: &Policy) -> Vec<KeyReader> {
        let registered = |name: &str| stand_in(name, &self.stand_ins);
        policy
            .keys
            .iter()
            .map(|key| KeyReader::new(key, &self.limits.client_ip, &registered))
            .collect()
    }
}

impl Named {
    fn of(limits: &Limits) -> Self {
        let mut named = Self::default();
        for key in all_keys(limits) {
            add_registered(key, &mut named.keys);
        }
        let requests = limits.categories.iter().flat_map(|category| &category.requests);
        for requests in requests.chain(&limits.exempt) {
            if let Requests::Function(name) = requests {
                named.matchers.insert(name.clone());
            }
        }
        for policy in limits.policies.values() {
            named.plans.extend(policy.plan.clone());
            named.quotas.extend(policy.quota_by.clone());
            named.costs.extend(policy.cost.clone());
            named.settles.extend(policy.settle.clone());
        }
        if let OnRejection::Function(name) = &limits.layer.on_rejection {
            named.rejection = Some(name.clone());
        }
        named
    }

    fn registry(&self, stand_ins: &StandIns) -> Registry {
        let mut registry = Registry::new();
        for name in &self.keys {
            registry = registry.key(name.clone(), stand_in(name, stand_ins));
        }
        for name in &self.matchers {
            registry = registry.matcher(name.clone(), |_| false);
        }
        for name in &self.plans {
            registry = registry.plan(name.clone(), |_| None);
        }
        for name in &self.quotas {
            registry = registry.quota_by(name.clone(), |_| None);
        }
        for name in &self.costs {
            registry = registry.cost(name.clone(), |_| 1);
        }
        for name in &self.settles {
            let costly = stand_ins.settles.get(name).cloned();
            registry = registry.settle(name.clone(), move |response| {
                let costly = costly.as_ref()?;
                Some(u64::from(costly.contains(&response.status.as_u16())))
            });
        }
        if let Some(name) = &self.rejection {
            registry = registry.on_rejection(name.clone(), |_| http::Response::new(""));
        }
        registry
    }
}

/// The extractor of a registered key: a header, or none.
fn stand_in(name: &str, stand_ins: &StandIns) -> Arc<dyn KeyExtractor> {
    match stand_ins.keys.get(name) {
        Some(header) => Arc::new(key::header(header)),
        None => Arc::new(key::from_fn(name.to_owned(), |_| None)),
    }
}

fn all_keys(limits: &Limits) -> impl Iterator<Item = &Key> {
    let requests = limits.categories.iter().flat_map(|category| &category.requests);
    let of_requests = requests.chain(&limits.exempt).filter_map(|requests| match requests {
        Requests::Key(keys) => Some(&keys.by),
        _ => None,
    });
    let policies = limits
        .policies
        .values()
        .flat_map(|policy| policy.keys.iter().chain(&policy.fair_by).chain(&policy.shard));
    policies.chain(of_requests).chain(&limits.caller)
}

fn add_registered(key: &Key, names: &mut BTreeSet<String>) {
    match key {
        Key::Registered(name) => {
            names.insert(name.clone());
        }
        Key::Together(keys) => keys.iter().for_each(|key| add_registered(key, names)),
        _ => {}
    }
}

fn add_headers(key: &Key, stand_ins: &StandIns, headers: &mut BTreeSet<String>) {
    match key {
        Key::Bearer => {
            headers.insert("authorization".to_owned());
        }
        Key::Header(name) => {
            headers.insert(name.to_ascii_lowercase());
        }
        Key::Registered(name) => {
            headers.extend(stand_ins.keys.get(name).map(|header| header.to_ascii_lowercase()));
        }
        Key::Together(keys) => keys.iter().for_each(|key| add_headers(key, stand_ins, headers)),
        _ => {}
    }
}
