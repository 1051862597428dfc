//! Adds the limits to an OpenAPI document: [`Description::merge_into_openapi`].

mod components;
mod operation;

use serde_json::{Map, Value};

use self::{components::Components, operation::Operation};
use super::{Description, Requests};
use crate::error::BuildError;

impl Description {
    /// Adds the limits to an OpenAPI document (version 3.0 to 3.2), and returns the requests of
    /// categories that are no operation of the document: probably a mistake in a path, here or there. So
    /// assert in a test that the list is empty, or log it. Operations without a limit are found by
    /// [`lint_routes`](crate::Limiter::lint_routes): see the [guide](crate::guide::testing#settings).
    ///
    /// Each operation that may be refused gets:
    ///
    /// - the responses of refusals: 429, and 400 and 503 where a policy may answer them. Each has its
    ///   headers and an example of its body, written by the same
    ///   [renderer](crate::RateLimitLayerBuilder::on_rejection) that writes the responses. They are
    ///   references to `components/responses` and `components/headers`, so that they stay short. An
    ///   operation keeps its own response if it has one with this status. The description of a
    ///   [`Limiter`](crate::Limiter::describe) alone has neither headers nor bodies.
    /// - `x-rate-limit`, an object with the policies of the operation, as in
    ///   [`to_json`](Self::to_json), but without what is `false`, zero or empty: `every_request`, and
    ///   `categories`. There are several categories if the path and the method do not tell which one a
    ///   request is in: the first that matches is its only one.
    ///
    /// Paths are compared as the limiter compares them: `/users/{id}` of the document is in the category
    /// of `/users/{name}` or `/{*rest}`. The path of a `servers` URL comes before those of the document.
    /// So if a proxy removes it before the limiter sees it, merge before you add `servers`.
    ///
    /// All else stays as it is: operations that are exempt or that no policy limits, and those behind a
    /// `$ref`. To merge other limits later, begin with the document as it was. The refusal of an
    /// [override](crate::overrides) is not among the examples; and if a policy counts by a
    /// [body field](crate::key::body_field), its statuses 408, 413 and 415 are not.
    ///
    /// ```
    /// use serde_json::json;
    /// use tower_quota::{Category, Limiter, Matcher, Policy, Quota, RateLimitLayer, key};
    ///
    /// let reads = Policy::token_bucket("read", Quota::per_minute(60)).key(key::bearer()).or_refuse();
    /// let read = Category::new("read").on(Matcher::get("/v1/{*rest}")).policy(reads);
    /// let layer = RateLimitLayer::new(Limiter::builder().category(read).build()?);
    ///
    /// // With utoipa: `serde_json::to_value(ApiDoc::openapi())?`
    /// let mut document = json!({
    ///     "openapi": "3.1.0",
    ///     "info": { "title": "Users", "version": "1" },
    ///     "paths": { "/v1/users/{id}": { "get": { "responses": { "200": { "description": "A user" } } } } },
    /// });
    /// let unknown = layer.describe().merge_into_openapi(&mut document)?;
    /// assert_eq!(unknown, []);
    ///
    /// let get = &document["paths"]["/v1/users/{id}"]["get"];
    /// assert_eq!(get["responses"]["429"]["$ref"], "#/components/responses/RateLimit429.read");
    /// let quota = &get["x-rate-limit"]["categories"][0]["policies"][0]["quota"];
    /// assert_eq!(*quota, json!({ "units": 60, "window_seconds": 60 }));
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    ///
    /// # Errors
    /// The document is no OpenAPI 3, or has a path that cannot be. It is then unchanged.
    pub fn merge_into_openapi(&self, document: &mut Value) -> Result<Vec<Requests>, BuildError> {
        let version = document.get("openapi").and_then(Value::as_str).unwrap_or_default();
        if !version.starts_with("3.") {
            let problem = "its member `openapi` is no version 3; write one like `3.1.0`";
            return Err(BuildError::new("the OpenAPI document", problem));
        }
        let operations = Operation::all_of(document)?;
        let mut components = Components::of(document)?;
        for operation in &operations {
            let Some(limits) = operation.limits(self, &operations) else { continue };
            let responses = components.responses(self, &limits);
            operation.add(document, responses, limits.to_json());
        }
        components.write_into(document);
        let all = self.categories.iter().flat_map(|category| &category.requests);
        let is_unknown = |requests: &&Requests| {
            let mut fits = operations.iter().map(|operation| operation.fit(requests, &[]));
            fits.all(|fit| fit == operation::Fit::None)
        };
        Ok(all.filter(is_unknown).cloned().collect())
    }
}

/// An object in the document, which may not be there; else an error that names it.
fn object_in(document: &Value, pointer: &str) -> Result<Map<String, Value>, BuildError> {
    match document.pointer(pointer) {
        None => Ok(Map::new()),
        Some(Value::Object(object)) => Ok(object.clone()),
        Some(_) => {
            let culprit = format!("`{}` of the OpenAPI document", pointer.trim_start_matches('/'));
            Err(BuildError::new(culprit, "it is no object; write one like `{}`"))
        }
    }
}
