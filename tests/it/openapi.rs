//! The limits in an OpenAPI document, such as one of utoipa.
#![cfg(all(feature = "axum", feature = "describe"))]

use std::{
    sync::LazyLock,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Body,
    routing::{get, post},
};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use jsonschema::Validator;
use serde_json::{Value, json};
use tower::ServiceExt;
use tower_quota::{
    Category, Clock, Limiter, LimiterBuilder, Matcher, OnStoreFailure, Policy, Quota,
    RateLimitLayer,
    describe::Requests,
    key::{self, ClientIp},
    response,
};
use utoipa::{OpenApi, openapi};

#[utoipa::path(post, path = "/sign-in", responses((status = 200, description = "Signed in")))]
async fn sign_in() {}

#[utoipa::path(
    get,
    path = "/v1/users/{id}",
    params(("id" = u64, Path)),
    responses((status = 200, description = "A user"), (status = 429, description = "Be slow", body = String)),
)]
async fn user() {}

#[utoipa::path(put, path = "/v1/users/{id}", params(("id" = u64, Path)), responses((status = 204, description = "Changed")))]
async fn change_user() {}

#[utoipa::path(get, path = "/health", responses((status = 200, description = "Well")))]
async fn health() {}

#[utoipa::path(get, path = "/about", responses((status = 200, description = "About us")))]
async fn about() {}

#[derive(OpenApi)]
#[openapi(paths(sign_in, user, change_user, health, about))]
struct ApiDoc;

fn app() -> Router {
    Router::new()
        .route("/sign-in", post(sign_in))
        .route("/v1/users/{id}", get(user).put(change_user))
        .route("/health", get(health))
        .route("/about", get(about))
}

fn limits() -> LimiterBuilder {
    let by_key = |name, quota| Policy::token_bucket(name, quota).key(key::header("x-api-key"));
    let auth = Policy::sliding_window("auth", Quota::per_minute(5)).global();
    let read = by_key("read", Quota::per_minute(60).burst(10)).or_refuse();
    let write = by_key("write", Quota::per_minute(6)).or_skip().unit("rows");
    let category = |name, matcher, policy| Category::new(name).on(matcher).policy(policy);
    Limiter::builder()
        .clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_399_200)))
        .exempt(Matcher::path("/health"))
        .category(category("auth", Matcher::post("/sign-in"), auth))
        .category(category("read", Matcher::get("/v1/{*rest}"), read))
        .category(category("write", Matcher::path("/v1/users/{user}"), write))
}

fn layer() -> RateLimitLayer {
    RateLimitLayer::new(limits().build().unwrap())
}

fn document() -> Value {
    serde_json::to_value(ApiDoc::openapi()).unwrap()
}

fn merged(layer: &RateLimitLayer, mut document: Value) -> Value {
    let unknown = layer.describe().merge_into_openapi(&mut document).unwrap();
    assert_eq!(unknown, []);
    assert_valid(&document);
    document
}

/// The schema of the document's version, from the OpenAPI Initiative.
fn official_schema(document: &Value) -> &'static Validator {
    let [v3_0, v3_1, v3_2] = &*OFFICIAL_SCHEMAS;
    match document["openapi"].as_str().unwrap().rsplit_once('.').unwrap().0 {
        "3.0" => v3_0,
        "3.1" => v3_1,
        "3.2" => v3_2,
        version => panic!("no schema of {version}"),
    }
}

static OFFICIAL_SCHEMAS: LazyLock<[Validator; 3]> = LazyLock::new(|| {
    [
        include_str!("openapi/schema_3.0.json"),
        include_str!("openapi/schema_3.1.json"),
        include_str!("openapi/schema_3.2.json"),
    ]
    .map(|schema| jsonschema::validator_for(&serde_json::from_str(schema).unwrap()).unwrap())
});

/// The errors that the official schema finds in a document.
fn mistakes(document: &Value) -> Vec<String> {
    let errors = official_schema(document).iter_errors(document);
    errors.map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// Asserts that the official schema and two parsers accept it, and that each local reference has a target.
fn assert_valid(document: &Value) {
    assert_eq!(mistakes(document), [""; 0], "{document:#}");
    let headers = document["components"]["headers"].as_object();
    for (name, header) in headers.into_iter().flatten() {
        assert!(jsonschema::meta::is_valid(&header["schema"]), "{name}: {header}");
    }
    let text = document.to_string();
    oas3::from_json(&text).unwrap();
    if document["openapi"].as_str().unwrap().starts_with("3.1") {
        let parsed: openapi::OpenApi = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_value(&parsed).unwrap()["paths"], document["paths"]);
    }
    let mut left = vec![document];
    while let Some(value) = left.pop() {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        match value {
            Value::Object(members) => left.extend(members.values()),
            Value::Array(values) => left.extend(values),
            _ => {}
        }
    }
}

/// The names of an object's members, sorted.
fn names(object: &Value) -> Vec<String> {
    let mut names: Vec<_> = object.as_object().unwrap().keys().cloned().collect();
    names.sort_unstable();
    names
}

/// The response of an operation, behind its reference.
fn response<'d>(document: &'d Value, path: &str, method: &str, status: &str) -> &'d Value {
    let response = &document["paths"][path][method]["responses"][status];
    let pointer =
        response["$ref"].as_str().unwrap_or_else(|| panic!("{path} {status}: {response}"));
    document.pointer(pointer.strip_prefix('#').unwrap()).unwrap()
}

#[test]
fn a_document_of_utoipa_gets_the_limits() {
    let before = document();
    let after = merged(&layer(), before.clone());
    let operation =
        |document: &Value, path: &str, method: &str| document["paths"][path][method].clone();

    // What no policy limits stays as it is.
    for path in ["/health", "/about"] {
        assert_eq!(operation(&after, path, "get"), operation(&before, path, "get"));
    }
    let sign_in = operation(&after, "/sign-in", "post");
    assert_eq!(
        sign_in["x-rate-limit"],
        json!({ "categories": [{
            "name": "auth",
            "policies": [{
                "name": "auth", "algorithm": "sliding_window", "global": true,
                "quota": { "units": 5, "window_seconds": 60 },
            }],
        }] }),
    );
    let statuses = |operation: &Value| names(&operation["responses"]);
    assert_eq!(statuses(&sign_in), ["200", "429"]);

    // A response of the document's own is kept.
    let user = operation(&after, "/v1/users/{id}", "get");
    assert_eq!(statuses(&user), ["200", "400", "429"]);
    let own = operation(&before, "/v1/users/{id}", "get")["responses"]["429"].clone();
    assert_eq!(user["responses"]["429"], own);
    let quota = &user["x-rate-limit"]["categories"][0]["policies"][0]["quota"];
    assert_eq!(*quota, json!({ "units": 60, "window_seconds": 60, "burst": 10 }));

    let refused = response(&after, "/v1/users/{id}", "put", "429");
    assert_eq!(
        refused["description"],
        "Too Many Requests. A limit is reached: write (6 rows per minute, 6 at once).",
    );
    let headers =
        ["retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
    let described = &refused["headers"];
    assert_eq!(names(described), headers);
    for name in headers {
        assert_eq!(described[name]["$ref"], format!("#/components/headers/{name}"));
        assert_eq!(after["components"]["headers"][name]["schema"]["type"], "integer");
    }
    // It is optional, but must not be sent twice.
    let put = response(&after, "/v1/users/{id}", "put", "400");
    let example = &put["content"]["application/json"]["examples"]["unreadable_key"]["value"];
    assert_eq!(example["error"], "unreadable_key");
    assert_eq!(put.get("headers"), None);
}

#[tokio::test(start_paused = true)]
async fn the_documented_refusals_are_those_that_callers_get() {
    let layer = layer();
    let after = merged(&layer, document());
    let app = app().layer(layer);
    let send = async |method: &str, path: &str, keys: &[&str]| {
        let request =
            Request::builder().method(method).uri(path).header("x-request-id", "req_example");
        let request = keys.iter().fold(request, |request, key| request.header("x-api-key", *key));
        let response = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        (head, body.collect().await.unwrap().to_bytes())
    };
    for _ in 0..6 {
        send("PUT", "/v1/users/7", &["k"]).await;
    }
    for _ in 0..5 {
        send("POST", "/sign-in", &[]).await;
    }
    for (method, path, template, keys, status, name) in [
        ("PUT", "/v1/users/7", "/v1/users/{id}", &["k"][..], "429", "quota_exceeded"),
        ("POST", "/sign-in", "/sign-in", &[], "429", "quota_exceeded"),
        ("GET", "/v1/users/7", "/v1/users/{id}", &[], "400", "missing_key"),
        ("GET", "/v1/users/7", "/v1/users/{id}", &["k", "k"], "400", "unreadable_key"),
    ] {
        let (head, body) = send(method, path, keys).await;
        assert_eq!(head.status.as_str(), status, "{method} {path}");
        let described = response(&after, template, &method.to_lowercase(), status);
        let media_type = head.headers["content-type"].to_str().unwrap();
        let example = &described["content"][media_type]["examples"][name]["value"];
        assert_eq!(*example, serde_json::from_slice::<Value>(&body).unwrap());
        let described = described.get("headers").and_then(Value::as_object);
        for name in described.into_iter().flat_map(|headers| headers.keys()) {
            assert!(head.headers.contains_key(name), "{name}");
        }
        let quota_headers = head.headers.keys().filter(|name| name.as_str().contains("rate"));
        assert_eq!(quota_headers.count() > 0, described.is_some());
    }
}

#[test]
fn documents_of_each_version_fit_its_official_schema() {
    for version in ["3.0.3", "3.0.4", "3.1.0", "3.1.2", "3.2.0"] {
        let mut document = document();
        document["openapi"] = json!(version);
        let mut document = merged(&layer(), document);

        // The schema reads what was merged.
        let responses = document["components"]["responses"].as_object_mut().unwrap();
        responses.values_mut().next().unwrap()["description"] = json!(429);
        assert_ne!(mistakes(&document), [""; 0], "{version}");
    }
}

/// A document with an operation `GET` at each of these paths.
fn document_of(paths: &[&str], servers: Value) -> Value {
    let operation = json!({ "get": { "responses": { "200": { "description": "OK" } } } });
    let items = paths.iter().map(|path| ((*path).to_owned(), operation.clone()));
    let paths: serde_json::Map<_, _> = items.collect();
    let info = json!({ "title": "", "version": "" });
    json!({ "openapi": "3.1.0", "info": info, "servers": servers, "paths": paths })
}

/// A category for `GET` requests to each of these paths, of the same name.
fn by_path(paths: &[&str]) -> LimiterBuilder {
    let policy = Policy::fixed_window("p", Quota::per_minute(1)).global();
    paths.iter().fold(Limiter::builder(), |limiter, path| {
        let category = Category::new(*path).on(Matcher::get(path));
        limiter.category(category.policy(policy.clone()))
    })
}

/// The names of the categories of `GET path` in the document, and the requests that it does not have.
fn categories(
    limiter: LimiterBuilder,
    mut document: Value,
    path: &str,
) -> (Vec<String>, Vec<Requests>) {
    let description = limiter.build().unwrap().describe();
    let unknown = description.merge_into_openapi(&mut document).unwrap();
    assert_valid(&document);
    let limits = &document["paths"][path]["get"]["x-rate-limit"];
    let categories = limits["categories"].as_array().into_iter().flatten();
    (categories.map(|category| category["name"].as_str().unwrap().to_owned()).collect(), unknown)
}

#[test]
fn paths_are_compared_as_the_limiter_compares_them() {
    for (limited, paths, expected) in [
        (&["/users/{id}"][..], &["/users/{name}"][..], &["/users/{id}"][..]),
        (&["/users/{id}"], &["/users"], &[]),
        (&["/{*rest}"], &["/users/{name}/posts"], &["/{*rest}"]),
        (&["/files/{*rest}"], &["/files/{*path}"], &["/files/{*rest}"]),
        (&["/files/{*rest}"], &["/files/{name}.json"], &["/files/{*rest}"]),
        (&["/files/v{n}"], &["/files/v{n}.json"], &["/files/v{n}"]),
        (&["/posts"], &["/users"], &[]),
        // Some of the operation's requests are in a category: both may apply.
        (&["/users/me", "/users/{id}"], &["/users/{id}"], &["/users/me", "/users/{id}"]),
        // Another operation has these requests.
        (&["/users/me", "/users/{id}"], &["/users/{id}", "/users/me"], &["/users/{id}"]),
        (&["/users/me", "/users/{id}"], &["/users/me", "/users/{id}"], &["/users/me"]),
    ] {
        let document = document_of(paths, json!([]));
        let (found, unknown) = categories(by_path(limited), document, paths[0]);
        assert_eq!(found, expected, "{limited:?} {paths:?}");
        assert_eq!(unknown.is_empty(), !expected.is_empty(), "{limited:?} {paths:?}");
    }
}

#[test]
fn the_path_of_a_server_comes_before_those_of_the_document() {
    let servers = |urls: &[&str]| urls.iter().map(|url| json!({ "url": url })).collect::<Value>();
    let with_variable = json!([{ "url": "https://api.test/{version}", "variables": { "version": { "default": "v1" } } }]);
    for (servers, expected) in [
        (servers(&["/v1"]), true),
        (servers(&["https://api.test/v1/", "http://localhost:3000/v1"]), true),
        (with_variable, true),
        (servers(&["https://api.test"]), false),
        (servers(&["/"]), false),
        (servers(&["/v2"]), false),
        (json!([]), false),
        (servers(&["https://api.test/v1", "http://localhost:3000"]), true),
    ] {
        let document = document_of(&["/users"], servers.clone());
        let (found, unknown) = categories(by_path(&["/v1/{*rest}"]), document, "/users");
        assert_eq!((!found.is_empty(), unknown.is_empty()), (expected, expected), "{servers}");
    }
    let mut document = document_of(&["/users"], servers(&["/v2"]));
    document["paths"]["/users"]["servers"] = servers(&["/v1"]);
    assert_eq!(categories(by_path(&["/v1/{*rest}"]), document, "/users").0, ["/v1/{*rest}"]);
}

#[test]
fn what_matches_by_more_than_the_path_may_match() {
    let policy = |name| Policy::fixed_window(name, Quota::per_minute(1)).global();
    let limiter = || {
        let by_key = Matcher::key(key::header("x-partner"), ["p"]);
        let partners = Category::new("partners & co").on(by_key.clone()).policy(policy("partner"));
        let reads = Category::new("read").on(Matcher::get("/{*rest}")).policy(policy("read"));
        Limiter::builder().exempt(by_key).category(partners).category(reads)
    };
    let mut document = document_of(&["/users"], json!([]));
    let layer = RateLimitLayer::new(limiter().policy(policy("all")).build().unwrap());
    document = merged(&layer, document);
    let limits = &document["paths"]["/users"]["get"]["x-rate-limit"];
    assert_eq!(limits["every_request"][0]["name"], "all");
    let names = limits["categories"].as_array().unwrap().iter().map(|category| &category["name"]);
    assert_eq!(names.collect::<Vec<_>>(), ["partners & co", "read"]);
    let own = &document["paths"]["/users"]["get"]["responses"]["429"]["$ref"];
    assert_eq!(own, "#/components/responses/RateLimit429.partners---co.read");
}

#[test]
fn a_store_that_fails_is_documented_where_it_refuses() {
    let by_key = |name| Policy::fixed_window(name, Quota::per_minute(1)).global();
    let strict = by_key("strict").on_store_failure(OnStoreFailure::Refuse);
    let category = |path, policy| Category::new(path).on(Matcher::get(path)).policy(policy);
    let limiter = Limiter::builder()
        .category(category("/strict", strict))
        .category(category("/loose", by_key("loose")))
        .category(category("/tried", by_key("tried").dry_run()));
    let layer = RateLimitLayer::builder(limiter.build().unwrap())
        .on_rejection(response::plain_text())
        .headers([])
        .build()
        .unwrap();
    let document = merged(&layer, document_of(&["/loose", "/strict", "/tried"], json!([])));
    let statuses = |path: &str| names(&document["paths"][path]["get"]["responses"]);
    assert_eq!(statuses("/strict"), ["200", "429", "503"]);
    assert_eq!(statuses("/loose"), ["200", "429"]);
    assert_eq!(statuses("/tried"), ["200"], "a dry run refuses nothing");
    let unavailable = response(&document, "/strict", "get", "503");
    assert_eq!(
        unavailable["content"]["text/plain"]["examples"]["store_unavailable"]["value"],
        "Quota of policy `strict` cannot be told at the moment. Retry after 1 second.",
    );
    assert_eq!(names(&unavailable["headers"]), ["retry-after"]);
}

#[test]
fn the_status_is_that_of_the_response() {
    let builder = RateLimitLayer::builder(by_path(&["/users"]).build().unwrap());
    let layer = builder.on_rejection(|_| {
        let mut response = Response::new("later");
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    });
    let document = merged(&layer.build().unwrap(), document_of(&["/users"], json!([])));
    let refused = response(&document, "/users", "get", "503");
    assert_eq!(refused.get("content"), None, "a body without a type");
}

#[test]
fn a_limiter_without_a_layer_has_no_headers_and_no_bodies() {
    let mut document = document();
    let limiter = limits().build().unwrap();
    assert_eq!(limiter.describe().merge_into_openapi(&mut document).unwrap(), []);
    assert_valid(&document);
    let refused = response(&document, "/sign-in", "post", "429");
    let sentence = "Too Many Requests. A limit is reached: auth (5 per minute).";
    assert_eq!(*refused, json!({ "description": sentence }));
    assert_eq!(document["components"].get("headers"), None);
}

#[test]
fn components_of_the_document_are_kept_and_merging_again_changes_nothing() {
    let own = json!({ "description": "of the document" });
    let own_header = json!({ "description": "of the document", "schema": { "type": "string" } });
    let mut before = document_of(&["/users"], json!([]));
    before["components"] = json!({
        "responses": { "RateLimit429.-users": own },
        "headers": { "retry-after": own_header, "x-other": own_header },
        "schemas": {},
    });
    // The example of a refusal has the time until the window ends, so it is made once.
    let description = RateLimitLayer::new(by_path(&["/users"]).build().unwrap()).describe();
    let merged = |mut document: Value| {
        assert_eq!(description.merge_into_openapi(&mut document).unwrap(), []);
        assert_valid(&document);
        document
    };
    let after = merged(before);
    let components = &after["components"];
    assert_eq!(components["responses"]["RateLimit429.-users"], own);
    assert_eq!(components["headers"]["retry-after"], own_header);
    assert_eq!(components["headers"]["x-other"], own_header);
    let refused = response(&after, "/users", "get", "429");
    assert_eq!(refused["headers"]["retry-after"]["$ref"], "#/components/headers/retry-after_2");
    assert_eq!(merged(after.clone()), after);
}

#[test]
fn what_is_no_document_is_an_error_and_unchanged() {
    let description = by_path(&["/users"]).build().unwrap().describe();
    let paths = |paths: Value| json!({ "openapi": "3.0.3", "paths": paths });
    for (document, problem) in [
        (
            json!([]),
            "the OpenAPI document: its member `openapi` is no version 3; write one like `3.1.0`",
        ),
        (
            json!({ "swagger": "2.0" }),
            "the OpenAPI document: its member `openapi` is no version 3; write one like `3.1.0`",
        ),
        (paths(json!([])), "`paths` of the OpenAPI document: it is no object; write one like `{}`"),
        (
            json!({ "openapi": "3.1.0", "paths": { "/users": { "get": {} } }, "components": { "headers": 7 } }),
            "`components/headers` of the OpenAPI document: it is no object; write one like `{}`",
        ),
        (
            json!({ "openapi": "3.1.0", "components": [] }),
            "`components` of the OpenAPI document: it is no object; write one like `{}`",
        ),
        (
            paths(json!({ "/users": { "get": {} }, "users": { "get": {} } })),
            "path `users` of the OpenAPI document: it does not begin with a slash; write `/users`",
        ),
        (
            paths(json!({ "/users//{id}": { "get": {} } })),
            "path `/users//{id}` of the OpenAPI document: the path `/users//{id}` has an empty segment; write `/users/{id}`, which matches it too",
        ),
    ] {
        let mut after = document.clone();
        let error = description.merge_into_openapi(&mut after).unwrap_err();
        assert_eq!((error.to_string(), after), (problem.to_owned(), document));
    }
    for document in [json!({ "openapi": "3.1.0" }), paths(json!({ "x-own": { "get": {} } }))] {
        let mut after = document.clone();
        assert_eq!(description.merge_into_openapi(&mut after).unwrap().len(), 1);
        assert_eq!(after, document);
    }
}

#[test]
fn matchers_of_several_parts_fit_as_their_parts_do() {
    let [users, posts] = ["/users", "/posts"].map(|path| move || Matcher::get(path));
    let unknown = || Matcher::from_fn(|_| true);
    for (matcher, of_users, of_posts) in [
        (users().or(posts()), true, true),
        (users().and(posts()), false, false),
        (users().not(), false, true),
        (Matcher::under("/").and(posts().not()), true, false),
        (unknown().and(users()), true, false),
        (unknown().and(users()).not(), true, true),
    ] {
        let policy = Policy::fixed_window("p", Quota::per_minute(1)).global();
        let category = Category::new("c").on(matcher.clone()).policy(policy);
        let limiter = Limiter::builder().category(category);
        let mut document = document_of(&["/users", "/posts"], json!([]));
        limiter.build().unwrap().describe().merge_into_openapi(&mut document).unwrap();
        let has_limit = |path: &str| document["paths"][path]["get"].get("x-rate-limit").is_some();
        assert_eq!((has_limit("/users"), has_limit("/posts")), (of_users, of_posts), "{matcher:?}");
    }
}

/// The address of a request is missing only if the server is set up wrongly.
#[test]
fn a_400_that_no_caller_causes_is_not_documented() {
    let policy = || Policy::fixed_window("hourly", Quota::per_hour(1));
    let by_ip = || ClientIp::new();
    for (policy, statuses) in [
        (policy().key(by_ip()), &["200", "429"][..]),
        (policy().key((by_ip(), key::query("page"))), &["200", "400", "429"]),
        // The header may be there twice.
        (policy().key(key::header("x-api-key")).or_key(by_ip()), &["200", "400", "429"]),
        (policy().key(key::header("x-api-key")), &["200", "400", "429"]),
    ] {
        let category = Category::new("users").on(Matcher::get("/users/{id}"));
        let limiter = Limiter::builder().category(category.policy(policy.or_refuse()));
        let layer = RateLimitLayer::new(limiter.build().unwrap());
        let after = merged(&layer, document_of(&["/users/{id}"], json!([])));
        let operation = &after["paths"]["/users/{id}"]["get"];
        assert_eq!(names(&operation["responses"]), statuses);
        if let [_, "400", _] = statuses {
            let of_400 = response(&after, "/users/{id}", "get", "400").to_string();
            let keys = &operation["x-rate-limit"]["categories"][0]["policies"][0]["keys"];
            let may_lack = keys.as_array().unwrap().iter().all(|kind| kind != "ip");
            assert_eq!(of_400.contains("missing_key"), may_lack, "{keys}");
        }
    }
}
