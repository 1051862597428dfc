//! The responses and headers of refusals, as components of an OpenAPI document: [`Components`].

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{object_in, operation::Limits};
use crate::{
    describe::{Description, ExampleRefusal, PolicyDescription, ResponseDescription},
    error::BuildError,
    limiter::Reason,
    policy::english,
};

/// The components of the document.
pub(super) struct Components {
    responses: Map<String, Value>,
    headers: Map<String, Value>,
}

/// The refusals with one status.
#[derive(Default)]
struct Response<'d> {
    sentences: Vec<String>,
    headers: Map<String, Value>,
    /// By media type, and then by name.
    examples: BTreeMap<&'d str, Map<String, Value>>,
}

impl Components {
    pub(super) fn of(document: &Value) -> Result<Self, BuildError> {
        object_in(document, "/components")?;
        Ok(Self {
            responses: object_in(document, "/components/responses")?,
            headers: object_in(document, "/components/headers")?,
        })
    }

    pub(super) fn write_into(self, document: &mut Value) {
        for (name, components) in [("responses", self.responses), ("headers", self.headers)] {
            if !components.is_empty() {
                document["components"][name] = components.into();
            }
        }
    }

    /// References to the responses of refusals by these limits, by status.
    pub(super) fn responses(
        &mut self,
        description: &Description,
        limits: &Limits<'_>,
    ) -> Vec<(u16, Value)> {
        let mut by_status = BTreeMap::<u16, Response<'_>>::new();
        match &description.responses {
            None if limits.policies().any(|policy| !policy.dry_run) => {
                let response = by_status.entry(StatusCode::TOO_MANY_REQUESTS.as_u16()).or_default();
                response.add_sentence(sentence(Reason::QuotaExceeded, limits));
            }
            None => {}
            Some(all) => {
                for example in all.examples.iter().filter(|example| is_of(example, limits)) {
                    let response = by_status.entry(example.refusal.status).or_default();
                    response.add_sentence(sentence(example.reason, limits));
                    response.add_example(example);
                    self.add_headers(response, all, example);
                }
            }
        }
        let names = limits.categories.iter().map(|category| format!(".{}", category.name));
        let names: String = names.collect();
        let reference = |(status, response): (u16, Response<'_>)| {
            let name = format!("RateLimit{status}{names}");
            let name = insert(&mut self.responses, &name, response.into_json(status));
            (status, json!({ "$ref": format!("#/components/responses/{name}") }))
        };
        by_status.into_iter().map(reference).collect()
    }

    /// Adds the headers that the layer describes, as far as the example has them.
    fn add_headers(
        &mut self,
        response: &mut Response<'_>,
        all: &ResponseDescription,
        example: &ExampleRefusal,
    ) {
        for header in &all.headers {
            let Some(value) = example.refusal.headers.get(&header.name) else { continue };
            let kind = if value.parse::<u64>().is_ok() { "integer" } else { "string" };
            let component = json!({ "description": header.meaning, "schema": { "type": kind } });
            let name = insert(&mut self.headers, &header.name, component);
            let reference = json!({ "$ref": format!("#/components/headers/{name}") });
            response.headers.insert(header.name.clone(), reference);
        }
    }
}

impl<'d> Response<'d> {
    fn add_sentence(&mut self, sentence: String) {
        if !self.sentences.contains(&sentence) {
            self.sentences.push(sentence);
        }
    }

    fn add_example(&mut self, example: &'d ExampleRefusal) {
        let ExampleRefusal { reason, refusal, .. } = example;
        let media_type = refusal.headers.get("content-type").map_or("", |value| &**value);
        let media_type = media_type.split(';').next().unwrap_or_default().trim();
        if media_type.is_empty() || refusal.body.is_empty() {
            return;
        }
        let body = serde_json::from_str(&refusal.body).ok().filter(|_| media_type.contains("json"));
        let body: Value = body.unwrap_or_else(|| refusal.body.clone().into());
        let examples = self.examples.entry(media_type).or_default();
        let name = json!(reason);
        insert(examples, name.as_str().unwrap_or_default(), json!({ "value": body }));
    }

    fn into_json(self, status: u16) -> Value {
        let phrase = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let sentences = phrase.map(|phrase| format!("{phrase}.")).into_iter().chain(self.sentences);
        let mut response = json!({ "description": sentences.collect::<Vec<_>>().join(" ") });
        if !self.headers.is_empty() {
            response["headers"] = self.headers.into();
        }
        for (media_type, examples) in self.examples {
            response["content"][media_type]["examples"] = examples.into();
        }
        response
    }
}

/// Whether a request with these limits may be refused like this.
fn is_of(example: &ExampleRefusal, limits: &Limits<'_>) -> bool {
    match &example.category {
        None => !limits.has_category,
        Some(name) => limits.categories.iter().any(|category| category.name == *name),
    }
}

fn sentence(reason: Reason, limits: &Limits<'_>) -> String {
    match reason {
        Reason::MissingKey => "A key by which requests are counted is missing.".to_owned(),
        Reason::UnreadableKey => {
            "A key by which requests are counted cannot be read: it is there twice, or is malformed."
                .to_owned()
        }
        Reason::StoreUnavailable | Reason::SourceUnavailable => {
            "What is left of the limits is not known at the moment.".to_owned()
        }
        _ => {
            let limit = |policy: &PolicyDescription| {
                let PolicyDescription { name, quota, algorithm, unit, plans, other_quotas, .. } = policy;
                let limit = english::limit(quota, *algorithm, unit.as_deref());
                let depends = !plans.is_empty() || *other_quotas;
                let or_other = if depends { ", or as the plan says" } else { "" };
                format!("{name} ({limit}{or_other})")
            };
            let enforced = limits.policies().filter(|policy| !policy.dry_run);
            let limits: Vec<_> = enforced.map(limit).collect();
            format!("A limit is reached: {}.", limits.join(" or "))
        }
    }
}

/// Inserts a value under this name, made of the characters that a component may have in its name; with
/// a number behind it if another value has the name. Returns the name.
fn insert(values: &mut Map<String, Value>, name: &str, value: Value) -> String {
    let is_fit = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let name: String = name.chars().map(|c| if is_fit(c) { c } else { '-' }).collect();
    let numbered = (2_u32..).map(|number| format!("{name}_{number}"));
    for name in std::iter::once(name.clone()).chain(numbered) {
        match values.get(&name) {
            Some(other) if *other != value => {}
            _ => {
                values.insert(name.clone(), value);
                return name;
            }
        }
    }
    name
}
