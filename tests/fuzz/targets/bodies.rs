//! Bodies: what a handler's reader finds in a field is the key that the layer found, or unreadable;
//! and the body reaches the handler byte for byte.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    Form, Json,
    body::Body,
    extract::{FromRequest, Request},
    http::{Method, Response},
};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::BodyExt;
use serde::Deserialize;
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    BodyFieldLayer,
    key::{Extracted, KeyExtractor, body_field},
};

const MAX_BYTES: usize = 256;

/// Pieces of documents. Bytes from 128 on stand for themselves, without their highest bit.
const PARTS: [&str; 64] = [
    "{",
    "}",
    "{\"email\":",
    "\"email\":",
    ",\"email\":",
    "{\"user\":",
    "\"user\":{",
    ",\"user\":",
    "\"id\":",
    "{\"id\":",
    "\"user.id\":",
    "\"EMAIL\":",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\"a@b.c\"",
    "\"A@B.c \"",
    "7",
    "\"007\"",
    "7.0",
    "-0",
    "1e2",
    "18446744073709551616",
    "null",
    "true",
    "\"\\u0061\"",
    "\\ud800",
    "\"x\":",
    "{\"x\":1,",
    " ",
    "email=",
    "&email=",
    "user.id=",
    "user[id]=",
    "&",
    "=",
    "a%40b.c",
    "%00",
    "%ff",
    "+",
    "Email=",
    "a@b.c",
    "\\",
    "\u{feff}",
    "é",
    "É",
    "}}",
    "\"a@b.c\"}",
    "{\"email\":\"a@b.c\"}",
    "{\"email\":7}",
    "{\"user\":{\"id\":7}}",
    "{\"user\":{\"id\":\"u1\"}}",
    "email=a@b.c",
    "user.id=u1",
    "[\"a@b.c\"]",
    "{\"email\":[\"a\"]}",
    "1.5",
    "\"1.50\"",
    "{\"a\":[{},[]],",
    "\"\"",
    "\t",
    "{\"em\\u0061il\":\"a\"}",
];

const TYPES: [Option<&[u8]>; 12] = [
    Some(b"application/json"),
    Some(b"application/json"),
    Some(b"application/x-www-form-urlencoded"),
    Some(b"application/x-www-form-urlencodedness"),
    Some(b"APPLICATION/JSON; charset=utf-8"),
    Some(b"application/vnd.api+json"),
    Some(b"application/json+ld"),
    Some(b"application/json ; x=\"y;z\""),
    Some(b"application/a+b+json"),
    Some(b"text/plain"),
    Some(b"application/json\xff"),
    None,
];

/// A field as handlers declare it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Whole(u64),
    Negative(i64),
    Number(f64),
    Truth(bool),
}

#[derive(Deserialize)]
struct Typed {
    #[serde(default, alias = "EMAIL", alias = "Email")]
    email: Option<Scalar>,
    #[serde(default)]
    user: Option<User>,
}

#[derive(Deserialize)]
struct User {
    id: Option<Scalar>,
}

#[derive(Deserialize)]
struct Only {
    email: Option<Scalar>,
}

#[derive(Deserialize)]
struct Sent {
    email: Option<String>,
    #[serde(rename = "user.id")]
    user_id: Option<String>,
}

/// The fields that are read, as [`body_field`] has them.
const FIELDS: [&str; 2] = ["email", "user.id"];

/// What a reader finds of each, as JSON.
type Read = [Option<serde_json::Value>; 2];

fn scalar(scalar: Scalar) -> serde_json::Value {
    match scalar {
        Scalar::Text(text) => text.into(),
        Scalar::Whole(number) => number.into(),
        Scalar::Negative(number) => number.into(),
        Scalar::Number(number) => number.into(),
        Scalar::Truth(truth) => truth.into(),
    }
}

async fn with<T: FromRequest<()>>(request: Request) -> Option<T> {
    T::from_request(request, &()).await.ok()
}

/// What readers of axum and serde find in a request.
async fn readers(request: impl Fn() -> Request) -> Vec<Read> {
    let mut read = Vec::new();
    if let Some(Json(typed)) = with::<Json<Typed>>(request()).await {
        let id = typed.user.and_then(|user| user.id);
        read.push([typed.email.map(scalar), id.map(scalar)]);
    }
    if let Some(Json(only)) = with::<Json<Only>>(request()).await {
        read.push([only.email.map(scalar), None]);
    }
    if let Some(Json(value)) = with::<Json<serde_json::Value>>(request()).await {
        let is_scalar = |value: &&serde_json::Value| {
            !value.is_null() && !value.is_array() && !value.is_object()
        };
        let found = |pointer| value.pointer(pointer).filter(is_scalar).cloned();
        read.push([found("/email"), found("/user/id")]);
    }
    if let Some(Form(sent)) = with::<Form<Sent>>(request()).await {
        read.push([sent.email.map(Into::into), sent.user_id.map(Into::into)]);
    }
    if let Some(Form(mut sent)) = with::<Form<HashMap<String, String>>>(request()).await {
        let mut found = |name| sent.remove(name).map(Into::into);
        read.push([found("email").or_else(|| found("Email")), found("user.id")]);
    }
    read
}

struct Pieces(VecDeque<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

/// What the layer finds of each field, and the body as it arrives behind it.
async fn layered<B>(
    request: axum::http::Request<B>,
    max_bytes: usize,
) -> (Vec<Extracted<'static>>, Bytes)
where
    B: http_body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let handler = service_fn(async |request: axum::http::Request<_>| {
        let (head, body) = request.into_parts();
        let found = FIELDS.map(|field| match body_field(field).extract(&head) {
            Extracted::Found(key) => Extracted::Found(key.as_bytes().to_vec().into()),
            Extracted::Missing => Extracted::Missing,
            Extracted::Unreadable(status) => Extracted::Unreadable(status),
        });
        let body: tower_quota::PeekedBody<B> = body;
        let body = body.collect().await.unwrap_or_else(|error| match error {}).to_bytes();
        Ok::<_, Infallible>(Response::new((found.to_vec(), body)))
    });
    let service = BodyFieldLayer::new(FIELDS).max_bytes(max_bytes).layer(handler);
    let Ok(response) = service.oneshot(request).await;
    response.into_body()
}

async fn holds(method: Method, content_type: Option<&[u8]>, query: &str, pieces: Vec<Bytes>) {
    let document: Bytes = pieces.concat().into();
    let head = || {
        let uri = format!("/?{query}");
        let mut request = Request::builder().method(method.clone()).uri(uri);
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        request
    };
    let (found, arrived) =
        layered(head().body(Pieces(pieces.into())).expect("valid"), MAX_BYTES).await;
    assert_eq!(arrived, document, "the body arrives as it was sent");
    let request = || head().body(Body::from(document.clone())).expect("valid");
    for read in readers(request).await {
        for ((field, found), read) in FIELDS.into_iter().zip(&found).zip(read) {
            let Some(read) = read else { continue };
            if matches!(found, Extracted::Unreadable(_)) {
                continue;
            }
            // The key of the same value in a document that says nothing else.
            let nested = field.rsplit('.').fold(read.clone(), |value, name| {
                serde_json::Value::Object([(name.to_owned(), value)].into_iter().collect())
            });
            let plain = Request::post("/").header("content-type", "application/json");
            let plain = plain.body(Pieces([nested.to_string().into()].into())).expect("valid");
            // Escapes may make it longer than what was sent.
            let (keys, _) = layered(plain, usize::MAX).await;
            let place = FIELDS.iter().position(|known| *known == field).expect("one of them");
            assert_eq!(
                *found, keys[place],
                "{method} ?{query} {content_type:?} {document:?}: a handler reads {read} as {field}",
            );
        }
    }
}

fn spelled(data: &[u8]) -> Vec<u8> {
    let mut document = Vec::new();
    for byte in data {
        match byte {
            0..128 => document.extend_from_slice(PARTS[*byte as usize % PARTS.len()].as_bytes()),
            128.. => document.push(byte & 0x7f),
        }
    }
    document
}

/// Whatever a reader finds in a field is found as the same key, or unreadable; the body arrives
/// whole.
pub fn bodies(data: &[u8]) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
    }
    let [how, cut, spelled_out @ ..] = data else { return };
    let methods = [Method::POST, Method::POST, Method::PUT, Method::GET];
    let method = methods[*how as usize % methods.len()].clone();
    let content_type = TYPES[*how as usize / methods.len() % TYPES.len()];
    let (spelled_query, spelled_body) = match method {
        Method::GET => spelled_out.split_at(spelled_out.len() / 2),
        _ => (&[][..], spelled_out),
    };
    let query = spelled(spelled_query);
    let query: String = percent_encoding::percent_encode(&query, percent_encoding::CONTROLS)
        .to_string()
        .replace(['{', '}', '"', '\\', '<', '>', '#', ' ', '^', '`', '|'], "");
    if format!("/?{query}").parse::<axum::http::Uri>().is_err() {
        return;
    }
    let document = Bytes::from(spelled(spelled_body));
    let cut = document.len().min(usize::from(*cut));
    let pieces = vec![document.slice(..cut), document.slice(cut..)];
    RUNTIME.with(|runtime| runtime.block_on(holds(method, content_type, &query, pieces)));
}
