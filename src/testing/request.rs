//! What a test client sends: [`TestRequest`].

use http::{Request, request};

/// A request that a [`TestClient`](super::TestClient) sends: made from a path, which is a `GET`; from
/// `http::request::Builder`, which has no body; or from an `http::Request` with a text as its body.
///
/// ```
/// use http::Request;
/// use tower_quota::testing::TestRequest;
///
/// let by_path = TestRequest::from("/v1/things");
/// let without_body = TestRequest::from(Request::get("/v1/things").header("x-api-key", "ana"));
/// let with_body = TestRequest::from(Request::post("/v1/things").body(r#"{"name": "lamp"}"#)?);
/// # let _ = (by_path, without_body, with_body);
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct TestRequest(pub(super) Request<String>);

/// A `GET` of this path.
///
/// # Panics
/// If it is not a path.
impl From<&str> for TestRequest {
    fn from(path: &str) -> Self {
        Request::get(path).into()
    }
}

/// Without a body.
///
/// # Panics
/// If the builder has an error, such as a header that is not valid.
impl From<request::Builder> for TestRequest {
    #[expect(clippy::panic, reason = "a test with a wrong request fails")]
    fn from(request: request::Builder) -> Self {
        match request.body(String::new()) {
            Ok(request) => Self(request),
            Err(error) => panic!("this is no request: {error}"),
        }
    }
}

impl<B: Into<String>> From<Request<B>> for TestRequest {
    fn from(request: Request<B>) -> Self {
        Self(request.map(Into::into))
    }
}
