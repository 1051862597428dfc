//! Paths: however a router inside the layer reads one, the handler that runs is counted in its
//! category, and by the parameter that it reads.

use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request},
    http::{Method, Uri},
    response::Response,
    routing::{MethodRouter, any, get, post},
};
use tower::{Layer, ServiceExt, service_fn, util::BoxCloneSyncService};
use tower_http::normalize_path::NormalizePathLayer;
use tower_quota::{
    Category, Limiter, Matcher, Policy, Quota, RateLimitLayer,
    key::{Extracted, KeyExtractor, path_param},
};

/// Pieces of paths. Bytes from 128 on stand for themselves, without their highest bit.
const PARTS: [&str; 32] = [
    "/",
    "/",
    "/",
    "//",
    "v1",
    "v1",
    "auth",
    "socket",
    "sign-in",
    "sign-in",
    "files",
    "users",
    "7",
    ".",
    "..",
    "/./",
    "/../",
    "%2F",
    "%2f",
    "%2e",
    "%2E%2e",
    "%61uth",
    "sign%2Din",
    "\\",
    "%",
    "%5C",
    "bulk",
    "?page=1",
    "a",
    "*",
    "é",
    ";",
];

/// The routes by their patterns: those that axum prefers come first.
const ROUTES: [(&str, Verb); 7] = [
    ("/v1/auth/sign-in", Verb::Post),
    ("/v1/auth/socket", Verb::Socket),
    ("/v1/users/bulk", Verb::Post),
    ("/v1/users/{id}", Verb::Get),
    ("/v1/files/{name}/{part}", Verb::Get),
    ("/v1/{*rest}", Verb::Any),
    ("/{*rest}", Verb::Any),
];
/// The last two of them, which are fallbacks.
const FALLBACKS: [usize; 2] = [5, 6];

#[derive(Clone, Copy)]
enum Verb {
    Get,
    Post,
    /// `GET`, and `CONNECT` over HTTP/2.
    Socket,
    Any,
}

/// The parameter of a route that a policy may count by.
fn param(route: usize) -> Option<&'static str> {
    match ROUTES[route].0 {
        "/v1/users/{id}" => Some("id"),
        "/v1/files/{name}/{part}" => Some("part"),
        _ => None,
    }
}

/// The number of the route whose handler ran, and what it reads as its parameter.
#[derive(Clone)]
struct Ran(usize, Option<String>);

fn handler(route: usize) -> MethodRouter {
    let run = async move |params: Option<Path<HashMap<String, String>>>| {
        let mut response = Response::new(Body::empty());
        let read = params.and_then(|Path(mut params)| params.remove(param(route)?));
        response.extensions_mut().insert(Ran(route, read));
        response
    };
    match ROUTES[route].1 {
        Verb::Get => get(run),
        Verb::Post => post(run),
        Verb::Socket => get(run).connect(run),
        Verb::Any => any(run),
    }
}

/// The routes whose paths begin with `prefix`, without it.
fn routes(prefix: &str, slash: &str) -> Router {
    let under = ROUTES.iter().enumerate().filter(|(route, _)| !FALLBACKS.contains(route));
    under.fold(Router::new(), |router, (route, (path, _))| match path.strip_prefix(prefix) {
        Some(path) => router.route(&format!("{path}{slash}"), handler(route)),
        None => router,
    })
}

/// With what a wildcard of the documentation covers.
fn with_v1(router: Router) -> Router {
    let under = ["/v1", "/v1/", "/v1/{*rest}"];
    under.into_iter().fold(router, |router, path| router.route(path, handler(5)))
}

fn fallback(router: Router, route: usize) -> Router {
    router.fallback_service(handler(route).with_state::<()>(()))
}

type App = BoxCloneSyncService<Request, Response, Infallible>;

/// What routers do with a path before they look at it.
fn rewriting(router: Router, rewrite: fn(&str) -> String) -> Router {
    let rewritten = service_fn(move |mut request: Request| {
        let path = rewrite(request.uri().path());
        if let Ok(uri) = path.parse::<Uri>() {
            *request.uri_mut() = uri;
        }
        router.clone().oneshot(request)
    });
    Router::new().fallback_service(rewritten)
}

/// Decoded once; what no URI can carry stays encoded.
fn decoded(path: &str) -> String {
    let character = |byte: u8| match byte {
        b'?' | b'#' | b'%' | 128.. => format!("%{byte:02X}"),
        _ if byte.is_ascii_graphic() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    percent_encoding::percent_decode_str(path).map(character).collect()
}

fn resolved(path: &str) -> String {
    let mut segments = Vec::new();
    for segment in path.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

fn merged(path: &str) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    format!("/{}", segments.collect::<Vec<_>>().join("/"))
}

/// Apps with the same routes, in different houses.
fn apps() -> Vec<Router> {
    let flat = || fallback(with_v1(routes("", "")), 6);
    let v1 = || fallback(routes("/v1", ""), 5);
    let auth = || fallback(routes("/v1/auth", ""), 5);
    let users = || fallback(routes("/v1/users", ""), 5);
    let files = || fallback(routes("/v1/files", ""), 5);
    let services = || {
        let v1 = Router::new()
            .nest_service("/auth", auth())
            .nest_service("/users/", users())
            .nest_service("/files", files());
        fallback(Router::new().nest_service("/v1", fallback(v1, 5)), 6)
    };
    let trim = NormalizePathLayer::trim_trailing_slash;
    let append = NormalizePathLayer::append_trailing_slash;
    let slashed = || fallback(with_v1(routes("", "/")), 6);
    let trimmed_v1 = Router::new().nest_service("/v1", trim().layer(v1()));
    // What is not nested there has its routes here.
    let beside = |(path, _): &(&str, Verb)| !path.starts_with("/v1/auth/");
    let trimmed_auth = ROUTES[..FALLBACKS[0]].iter().enumerate().fold(
        Router::new().nest_service("/v1/auth/", trim().layer(auth())),
        |router, (route, named)| match beside(named) {
            true => router.route(named.0, handler(route)),
            false => router,
        },
    );
    vec![
        flat(),
        fallback(Router::new().nest("/v1", v1()), 6),
        fallback(Router::new().nest_service("/v1", v1()), 6),
        services(),
        Router::new().fallback_service(trim().layer(flat())),
        Router::new().fallback_service(append().layer(slashed())),
        fallback(trimmed_v1, 6),
        fallback(with_v1(trimmed_auth), 6),
        rewriting(flat(), decoded),
        rewriting(flat(), resolved),
        rewriting(flat(), |path| resolved(&merged(path))),
        rewriting(flat(), |path| resolved(&merged(&decoded(path)))),
        rewriting(flat(), |path| resolved(&path.replace("%2e", ".").replace("%2E", "."))),
        rewriting(flat(), |path| resolved(&path.replace('\\', "/"))),
        rewriting(services(), merged),
    ]
}

/// An app with the layer outside, and how often each route's policy has counted.
fn limited(app: Router) -> (App, Arc<[AtomicUsize]>) {
    let counts: Arc<[AtomicUsize]> = ROUTES.iter().map(|_| AtomicUsize::new(0)).collect();
    let mut builder = Limiter::builder();
    for (route, (path, verb)) in ROUTES.iter().enumerate() {
        let counts = Arc::clone(&counts);
        let policy = Policy::token_bucket(*path, Quota::per_second(1_000_000_000)).global();
        let policy = policy.cost(move |_| {
            counts[route].fetch_add(1, Ordering::Relaxed);
            1
        });
        let matcher = match verb {
            Verb::Get | Verb::Socket => Matcher::get(path),
            Verb::Post => Matcher::post(path),
            Verb::Any => Matcher::path(path),
        };
        builder = builder.category(Category::new(*path).on(matcher).policy(policy));
    }
    let layer = RateLimitLayer::new(builder.build().expect("all of it is right"));
    let app = service_fn(move |request: Request| app.clone().oneshot(request));
    let app = tower::util::MapResponseLayer::new(|response: Response<_>| response.map(Body::new))
        .layer(layer.layer(app));
    (App::new(app), counts)
}

/// The path that the bytes spell, if it is one that a client can send.
fn path(data: &[u8]) -> Option<Uri> {
    let text: String = data
        .iter()
        .map(|byte| match byte {
            0..128 => PARTS[*byte as usize % PARTS.len()].to_owned(),
            128.. => char::from(byte & 0x7f).to_string(),
        })
        .collect();
    let path = if text.starts_with('/') || text == "*" { text } else { format!("/{text}") };
    path.parse().ok()
}

/// Whenever a handler runs, its category's policy has counted, and no request counts twice. A
/// parameter of the path that it reads is the key, or unreadable.
pub fn paths(data: &[u8]) {
    thread_local! {
        static APPS: RefCell<Vec<(App, Arc<[AtomicUsize]>)>> =
            RefCell::new(apps().into_iter().map(limited).collect());
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    }
    let [method, spelled @ ..] = data else { return };
    let methods = [Method::GET, Method::HEAD, Method::POST, Method::CONNECT, Method::OPTIONS];
    let method = &methods[*method as usize % methods.len()];
    let Some(uri) = path(spelled) else { return };
    let apps: Vec<_> = APPS.with_borrow(Clone::clone);
    for (number, (app, counts)) in apps.into_iter().enumerate() {
        counts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        let request = Request::builder().method(method).uri(&uri).body(Body::empty());
        let request = request.expect("method and path are valid");
        let head = Request::builder().uri(&uri).body(()).expect("a path is valid");
        let (head, ()) = head.into_parts();
        let Ok(response) = RUNTIME.with(|runtime| runtime.block_on(app.oneshot(request)));
        let count = |route: usize| counts[route].load(Ordering::Relaxed);
        let Some(Ran(route, read)) = response.extensions().get() else { continue };
        if let (Some(read), Some(name)) = (read, param(*route)) {
            let found = match path_param(ROUTES[*route].0, name).extract(&head) {
                Extracted::Unreadable(_) => continue,
                Extracted::Found(key) => key.as_bytes().to_vec(),
                Extracted::Missing => Vec::new(),
            };
            assert_eq!(found, read.as_bytes(), "app {number}: {method} {uri} reads {read}");
        }
        assert_eq!(count(*route), 1, "app {number}: {method} {uri} ran {}", ROUTES[*route].0);
        assert!((0..ROUTES.len()).all(|route| count(route) <= 1), "{method} {uri} counts twice");
    }
}
