//! An operation of an OpenAPI document, and the limits of its requests: [`Operation`].

use serde_json::{Map, Value, json};

use super::object_in;
use crate::{
    describe::{CategoryDescription, Description, PolicyDescription, Requests},
    error::BuildError,
    path::{Pattern, covers, overlap},
};

/// The members of a path item that are operations.
const METHODS: [&str; 9] =
    ["get", "put", "post", "delete", "options", "head", "patch", "trace", "query"];

/// An operation of the document.
pub(super) struct Operation {
    path: String,
    method: &'static str,
    /// Its path, once behind the path of each server.
    patterns: Vec<Pattern>,
}

/// Which of an operation's requests are among some requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    None,
    /// Some of them, or it is not known which.
    Some,
    All,
}

/// The policies of an operation's requests.
pub(super) struct Limits<'d> {
    pub(super) every_request: &'d [PolicyDescription],
    /// The first that matches a request is its only one.
    pub(super) categories: Vec<&'d CategoryDescription>,
    /// Whether each request is in one of the categories.
    pub(super) has_category: bool,
}

impl Operation {
    /// All operations of the document.
    pub(super) fn all_of(document: &Value) -> Result<Vec<Self>, BuildError> {
        let mut operations = Vec::new();
        for (path, item) in &object_in(document, "/paths")? {
            if path.starts_with("x-") {
                continue;
            }
            let methods = METHODS.iter().filter_map(|method| Some((*method, item.get(method)?)));
            for (method, operation) in methods.filter(|(_, operation)| operation.is_object()) {
                let servers = [operation, item, document];
                let servers = servers.iter().find_map(|of| of.get("servers")?.as_array());
                let patterns = bases(servers).into_iter().map(|base| pattern(&base, path));
                let patterns = patterns.collect::<Result<_, _>>().map_err(|problem| {
                    BuildError::new(format!("path `{path}` of the OpenAPI document"), problem)
                })?;
                operations.push(Self { path: path.clone(), method, patterns });
            }
        }
        Ok(operations)
    }

    /// Which of its requests are among these. Those that belong to another operation of `all` are not
    /// its own: of `/users/{id}` and `/users/me`, the second one gets the requests to `/users/me`.
    pub(super) fn fit(&self, requests: &Requests, all: &[Self]) -> Fit {
        let fits = |parts: &[Requests]| -> Vec<Fit> {
            parts.iter().map(|part| self.fit(part, all)).collect()
        };
        let (methods, path) = match requests {
            Requests::Endpoint { methods, path } => (methods, path),
            Requests::All { of } => return fits(of).into_iter().min().unwrap_or(Fit::All),
            Requests::Any { of } => return fits(of).into_iter().max().unwrap_or(Fit::None),
            Requests::Not { of } => {
                return match self.fit(of, all) {
                    Fit::None => Fit::All,
                    Fit::Some => Fit::Some,
                    Fit::All => Fit::None,
                };
            }
            Requests::ClientIp | Requests::Key { .. } | Requests::Function => return Fit::Some,
        };
        let has_method = |method: &String| method.eq_ignore_ascii_case(self.method);
        if !methods.is_empty() && !methods.iter().any(has_method) {
            return Fit::None;
        }
        let Ok(pattern) = Pattern::parse(path) else { return Fit::None };
        let is_others = || {
            all.iter().any(|other| {
                other.method == self.method
                    && other.patterns.iter().all(|narrow| covers(narrow, &pattern))
                    && self.is_wider_than(other)
            })
        };
        if self.patterns.iter().all(|own| covers(&pattern, own)) {
            Fit::All
        } else if self.patterns.iter().any(|own| overlap(&pattern, own)) && !is_others() {
            Fit::Some
        } else {
            Fit::None
        }
    }

    fn is_wider_than(&self, other: &Self) -> bool {
        let mut both = self.patterns.iter().zip(&other.patterns);
        both.all(|(own, other)| covers(own, other) && !covers(other, own))
    }

    /// The limits of its requests; `None` if there are none.
    pub(super) fn limits<'d>(
        &self,
        description: &'d Description,
        all: &[Self],
    ) -> Option<Limits<'d>> {
        let Description { every_request, categories, exempt, .. } = description;
        if exempt.iter().any(|requests| self.fit(requests, all) == Fit::All) {
            return None;
        }
        let mut limits = Limits { every_request, categories: Vec::new(), has_category: false };
        for category in categories {
            let fits: Vec<_> =
                category.requests.iter().map(|requests| self.fit(requests, all)).collect();
            limits.has_category = fits.contains(&Fit::All);
            if limits.has_category || fits.contains(&Fit::Some) {
                limits.categories.push(category);
            }
            if limits.has_category {
                break;
            }
        }
        let has_policy = limits.policies().next().is_some();
        has_policy.then_some(limits)
    }

    /// Adds these responses to the operation, unless it has its own, and `x-rate-limit`.
    pub(super) fn add(&self, document: &mut Value, responses: Vec<(u16, Value)>, limits: Value) {
        let item = document.get_mut("paths").and_then(|paths| paths.get_mut(&self.path));
        let operation = item.and_then(|item| item.get_mut(self.method));
        let Some(operation) = operation.and_then(Value::as_object_mut) else { return };
        operation.insert("x-rate-limit".to_owned(), limits);
        let own = operation.entry("responses").or_insert_with(|| Map::new().into());
        for (status, response) in responses {
            if let Some(own) = own.as_object_mut() {
                own.entry(status.to_string()).or_insert(response);
            }
        }
    }
}

impl<'d> Limits<'d> {
    pub(super) fn policies(&self) -> impl Iterator<Item = &'d PolicyDescription> {
        let of_categories = self.categories.iter().flat_map(|category| &category.policies);
        self.every_request.iter().chain(of_categories)
    }

    pub(super) fn to_json(&self) -> Value {
        let mut limits = Map::new();
        if !self.every_request.is_empty() {
            limits.insert("every_request".to_owned(), short(self.every_request));
        }
        if !self.categories.is_empty() {
            let category = |category: &&CategoryDescription| json!({ "name": category.name, "policies": short(&category.policies) });
            let categories = self.categories.iter().map(category).collect();
            limits.insert("categories".to_owned(), categories);
        }
        limits.into()
    }
}

/// The policies without what is `false`, zero or empty.
fn short(policies: &[PolicyDescription]) -> Value {
    let says_nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(values) => values.is_empty(),
        Value::Bool(true) | Value::String(_) | Value::Object(_) => false,
    };
    let short = |policy| match serde_json::to_value(policy) {
        Ok(Value::Object(mut members)) => {
            members.retain(|_, value| !says_nothing(value));
            Value::Object(members)
        }
        other => other.unwrap_or_default(),
    };
    policies.iter().map(short).collect()
}

/// The paths of the servers' URLs, each once, without a slash at the end.
fn bases(servers: Option<&Vec<Value>>) -> Vec<String> {
    let mut bases: Vec<String> = servers.into_iter().flatten().filter_map(base).collect();
    bases.sort_unstable();
    bases.dedup();
    if bases.is_empty() { vec![String::new()] } else { bases }
}

/// `/v1` of `https://api.test/{version}`, if `v1` is the default of the variable.
fn base(server: &Value) -> Option<String> {
    let mut url = server.get("url")?.as_str()?.to_owned();
    for (name, variable) in server.get("variables").and_then(Value::as_object).into_iter().flatten()
    {
        let default = variable.get("default").and_then(Value::as_str).unwrap_or_default();
        url = url.replace(&format!("{{{name}}}"), default);
    }
    let path = match url.split_once("//") {
        Some((_, rest)) => rest.split_once('/').map_or("", |(_, path)| path),
        None => &url,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
    Some(if path.is_empty() || path == "." { String::new() } else { format!("/{path}") })
}

/// The pattern of an operation's path. Of a segment such as `{name}.json`, it has all that begin alike.
///
/// # Errors
/// What is wrong with the path.
fn pattern(base: &str, path: &str) -> Result<Pattern, String> {
    let segment = |segment: &str| match segment.split_once('}') {
        Some((begin, _)) => format!("{begin}}}"),
        None => segment.to_owned(),
    };
    if !path.starts_with('/') {
        return Err(format!("it does not begin with a slash; write `/{path}`"));
    }
    let path = format!("{base}{path}");
    Pattern::parse(&path.split('/').map(segment).collect::<Vec<_>>().join("/"))
}
