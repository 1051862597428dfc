//! What an apply has changed, in words: [`Changes`].

use std::{collections::BTreeSet, fmt, time::Duration};

use super::{
    categories::CategoryRules,
    queue::MaxHeld,
    rules::{Rule, RuleSet},
};
use crate::{
    matcher::Matcher,
    policy::{OnStoreFailure, Policy, WithoutKey, english},
};

/// What [`Limiter::apply`](crate::Limiter::apply) has changed, for an audit log. As text, each change
/// is a line.
///
/// If a kind of key is the same and its settings are others, as when another proxy is trusted, the change
/// says so without telling them. It goes by the [identity](crate::key::KeyExtractor::identity) of the
/// extractor.
///
/// Closures are not compared: a function that is replaced by another one is no change here, and
/// neither are the keys of a [`Matcher::key`] if their number stays. An extractor without an identity that
/// is in another `Arc` counts as another one.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota};
///
/// let mails = |quota| Policy::fixed_window("mails", quota);
/// let limiter = Limiter::builder().check_only(mails(Quota::per_day(100))).build()?;
/// let exports = Policy::token_bucket("exports", Quota::per_hour(10));
/// let next = Limiter::builder().check_only(mails(Quota::per_day(50))).check_only(exports);
///
/// let changes = limiter.apply(next)?;
/// let subjects: Vec<_> = changes.all().iter().map(|change| change.subject()).collect();
/// assert_eq!(subjects, ["policy `mails`", "policy `exports`", "checks"]);
/// let mails = &changes.all()[0];
/// assert_eq!(mails.setting(), Some("quota"));
/// assert_eq!((mails.before(), mails.after()), (Some("100 per day"), Some("50 per day")));
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    all: Vec<SettingChange>,
}

/// One setting that an apply has changed, or a policy or category that it has added or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingChange {
    subject: String,
    setting: Option<&'static str>,
    before: Option<String>,
    after: Option<String>,
}

/// Each setting that is there.
type Settings = Vec<Setting>;

struct Setting {
    name: &'static str,
    /// In words.
    text: String,
    /// Those of the extractors that the text names by their kinds only; `None` if one cannot be compared.
    identities: Vec<Option<String>>,
}

/// Something with settings, and a name by which it is found again.
struct Subject {
    name: String,
    settings: Settings,
}

impl Changes {
    pub(super) fn between(
        (before, max_before): (&RuleSet, MaxHeld),
        (after, max_after): (&RuleSet, MaxHeld),
    ) -> Self {
        let mut changes = Self::default();
        changes.compare_all(policies(before), policies(after));
        changes.compare_all(categories(before), categories(after));
        let order = |rules: &RuleSet, others: &RuleSet| {
            let others: BTreeSet<_> = others.categories.iter().map(|known| &*known.name).collect();
            let names = rules.categories.iter().map(|category| &*category.name);
            quoted(names.filter(|name| others.contains(name)))
        };
        let policies = |text| Setting::new("policies", text);
        let others = [
            (
                "every request",
                [before, after].map(|rules| policies(names(rules.for_every_request()))),
            ),
            ("checks", [before, after].map(|rules| policies(names(rules.check_only())))),
            (
                "categories",
                [(before, after), (after, before)]
                    .map(|(rules, others)| Setting::new("order", order(rules, others))),
            ),
            ("exemptions", [before, after].map(|rules| requests(&rules.exempt))),
        ];
        for (subject, both) in others {
            let [from, to] =
                both.map(|setting| Vec::from_iter((!setting.text.is_empty()).then_some(setting)));
            changes.compare(subject, from, to);
        }
        changes.compare("held requests", bounds(max_before), bounds(max_after));
        changes
    }

    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The changes: of policies, then of categories, then of all else.
    #[must_use]
    pub fn all(&self) -> &[SettingChange] {
        &self.all
    }

    /// Finds what was removed or has changed, and then what is new.
    fn compare_all(&mut self, before: Vec<Subject>, after: Vec<Subject>) {
        let mut added: Vec<Option<Subject>> = after.into_iter().map(Some).collect();
        for Subject { name, settings } in before {
            let same =
                added.iter_mut().find(|new| new.as_ref().is_some_and(|new| new.name == name));
            match same.and_then(Option::take) {
                Some(new) => self.compare(&name, settings, new.settings),
                None => self.all.push(SettingChange {
                    subject: name,
                    setting: None,
                    before: Some(in_words(&settings)),
                    after: None,
                }),
            }
        }
        for Subject { name, settings } in added.into_iter().flatten() {
            let after = Some(in_words(&settings));
            self.all.push(SettingChange { subject: name, setting: None, before: None, after });
        }
    }

    fn compare(&mut self, subject: &str, before: Settings, after: Settings) {
        let mut after: Vec<_> = after.into_iter().map(Some).collect();
        let mut add = |setting, before: Option<String>, after: Option<String>| {
            if before != after {
                let subject = subject.to_owned();
                self.all.push(SettingChange { subject, setting: Some(setting), before, after });
            }
        };
        for from in before {
            let same = after
                .iter_mut()
                .find(|new| new.as_ref().is_some_and(|new| new.name == from.name))
                .and_then(Option::take);
            let to = same.map(|to| match from.is_read_otherwise(&to) {
                true => format!("{}, with other settings", to.text),
                false => to.text,
            });
            add(from.name, Some(from.text), to);
        }
        for to in after.into_iter().flatten() {
            add(to.name, None, Some(to.text));
        }
    }
}

impl Setting {
    fn new(name: &'static str, text: String) -> Self {
        Self { name, text, identities: Vec::new() }
    }

    /// Whether the texts are the same and the extractors are not.
    fn is_read_otherwise(&self, new: &Self) -> bool {
        let differ = |(before, after): (&Option<String>, &Option<String>)| match (before, after) {
            (Some(before), Some(after)) => before != after,
            _ => false,
        };
        self.text == new.text && self.identities.iter().zip(&new.identities).any(differ)
    }
}

impl SettingChange {
    /// What has changed: ``policy `read` ``, ``category `auth` ``, `every request`, `exemptions`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Which setting of it, by the name that it has in a file; `None` if the policy or the category
    /// itself was added or removed.
    ///
    /// | of | settings |
    /// |---|---|
    /// | a policy | `quota` (with its unit), `schedules`, `algorithm`, `keys`, `without_key`, `unreadable_as_missing`, `plans`, `quota_by`, `cost`, `settle`, `settle_at_end`, `penalty`, `hold`, `retry_after`, `dry_run`, `on_store_failure`, `shard`, `lease`, `or_else` |
    /// | a category | `requests`, `policies`, `hold` |
    /// | `every request`, `checks` | `policies` |
    /// | `categories` | `order` |
    /// | `exemptions` | `requests` |
    /// | `held requests` | `max_held`, `max_held_per_caller`, `max_held_per_key` |
    #[must_use]
    pub fn setting(&self) -> Option<&'static str> {
        self.setting
    }

    /// What it was, in words; `None` if it is new.
    #[must_use]
    pub fn before(&self) -> Option<&str> {
        self.before.as_deref()
    }

    /// What it is now, in words; `None` if it is gone.
    #[must_use]
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }
}

/// A line for each change.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, change) in self.all.iter().enumerate() {
            let end = if index > 0 { "\n" } else { "" };
            write!(f, "{end}{change}")?;
        }
        Ok(())
    }
}

/// ``policy `read`: quota 100 per minute → 200 per minute``
impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, setting, before, after } = self;
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
        match (setting, after) {
            (None, Some(after)) => write!(f, "{subject}: added ({after})"),
            (None, None) => write!(f, "{subject}: removed"),
            (Some(setting), after) => {
                // With another algorithm, it is another policy.
                let anew = if *setting == "algorithm" { "; counts begin anew" } else { "" };
                write!(f, "{subject}: {setting} {} → {}{anew}", or_none(before), or_none(after))
            }
        }
    }
}

fn policies(rules: &RuleSet) -> Vec<Subject> {
    let subject = |rule: &Rule| {
        let name = format!("policy `{}`", rule.policy.name());
        Subject { name, settings: settings(rule) }
    };
    rules.policies().map(subject).collect()
}

fn settings(rule: &Rule) -> Settings {
    let policy = &rule.policy;
    let settings = &*policy.settings;
    let labels = rule.entry.labels;
    let plan = |(name, quota): &(String, _)| {
        format!("`{name}` {}", english::limit(quota, policy.algorithm(), None))
    };
    let plans: Vec<_> = settings.plan_table().iter().map(plan).collect();
    let fallbacks = quoted(settings.fallbacks.iter().map(Policy::name));
    let weights = settings.fair_weights.iter().flat_map(|weights| &weights.table);
    let weights: Vec<_> = weights.map(|(plan, weight)| format!("`{plan}` {weight}")).collect();
    let is = |is: bool, words: &str| is.then(|| words.to_owned());
    let without_key = settings.keys.without_key().map(|without_key| match without_key {
        WithoutKey::Skip => "not counted".to_owned(),
        WithoutKey::Refuse => "refused".to_owned(),
    });
    let on_store_failure = match settings.on_store_failure {
        OnStoreFailure::Allow => "all pass".to_owned(),
        OnStoreFailure::Refuse => "all are refused".to_owned(),
        OnStoreFailure::CountLocally { replicas } => {
            format!("counted by each of {replicas} replicas")
        }
    };
    let all = [
        (
            "quota",
            Some(english::limit(&policy.quota(), policy.algorithm(), labels.unit.as_deref())),
        ),
        ("schedules", english::schedule(policy)),
        ("algorithm", Some(policy.algorithm().as_str().replace('_', " "))),
        ("keys", Some(english::keys(labels.is_global, labels.key_kinds()))),
        ("without_key", without_key),
        ("unreadable_as_missing", is(settings.keys.unreadable_as_missing, "yes")),
        ("plans", is(!plans.is_empty(), &plans.join(", "))),
        ("quota_by", is(settings.quota_by.is_some(), "a function")),
        ("cost", is(settings.cost.is_some(), "by the request")),
        ("settle", is(settings.settle.is_some(), "by the response")),
        ("settle_at_end", is(settings.settles_at_end, "yes")),
        ("penalty", settings.penalty.as_ref().map(english::penalty)),
        ("hold", settings.hold.map(english::duration)),
        ("retry_after", settings.retry_after.map(english::duration)),
        ("fair_by", settings.fair_by.as_ref().map(|tenant| tenant.kind().into_owned())),
        ("fair_weights", is(!weights.is_empty(), &weights.join(", "))),
        ("dry_run", is(settings.dry_run, "yes")),
        ("on_store_failure", Some(on_store_failure)),
        ("shard", settings.shard.as_ref().map(|shard| shard.kind().into_owned())),
        ("lease", is(settings.lease > 0, &settings.lease.to_string())),
        ("or_else", is(!fallbacks.is_empty(), &fallbacks)),
    ];
    let with_identities = |(name, text): (&'static str, Option<String>)| {
        let identities = match name {
            "keys" => settings.keys.extractors.iter().map(|key| (**key).identity()).collect(),
            "fair_by" => settings.fair_by.iter().map(|key| (**key).identity()).collect(),
            "shard" => settings.shard.iter().map(|shard| (**shard).identity()).collect(),
            _ => Vec::new(),
        };
        Some(Setting { name, text: text?, identities })
    };
    all.into_iter().filter_map(with_identities).collect()
}

fn categories(rules: &RuleSet) -> Vec<Subject> {
    let subject = |category: &CategoryRules| {
        let CategoryRules { name, matchers, hold, rules: range } = category;
        let mut settings =
            vec![requests(matchers), Setting::new("policies", names(rules.range(range)))];
        if *hold > Duration::ZERO {
            settings.push(Setting::new("hold", english::duration(*hold)));
        }
        Subject { name: format!("category `{name}`"), settings }
    };
    rules.categories.iter().map(subject).collect()
}

fn names(rules: &[Rule]) -> String {
    quoted(rules.iter().map(|rule| rule.policy.name()))
}

fn requests(matchers: &[Matcher]) -> Setting {
    let text = matchers.iter().map(Matcher::in_words).collect::<Vec<_>>().join("; ");
    let identities = matchers.iter().map(Matcher::identity).collect();
    Setting { identities, ..Setting::new("requests", text) }
}

fn quoted<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn bounds(max: MaxHeld) -> Settings {
    let MaxHeld { all, per_caller, per_key } = max;
    let bounds =
        [("max_held", all), ("max_held_per_caller", per_caller), ("max_held_per_key", per_key)];
    let is_set = |(_, bound): &(_, usize)| *bound < usize::MAX;
    let in_words = |(setting, bound): (_, usize)| Setting::new(setting, bound.to_string());
    bounds.into_iter().filter(is_set).map(in_words).collect()
}

/// `quota 100 per minute; keys ip`
fn in_words(settings: &Settings) -> String {
    let words = settings.iter().map(|Setting { name, text, .. }| format!("{name} {text}"));
    words.collect::<Vec<_>>().join("; ")
}
