//! Every way in which a request can end, for the tests of units in flight: [`each_way_gives_back_once`].

use std::{
    convert::Infallible,
    future::{Future, pending},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    extract::ws::WebSocketUpgrade,
    routing::{any, get},
};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
};
use tokio_tungstenite::tungstenite;
use tower::{Layer, Service, ServiceExt, service_fn, timeout::Timeout, util::BoxCloneService};
use tower_quota::{Limiter, Permit, Policy, RateLimitLayer, ResponseBody, key::header};

use crate::until;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Four requests of each `x-key` at once.
pub fn four_streams() -> Policy {
    Policy::in_flight("streams", 4).key(header("x-key")).or_refuse()
}

/// How many units of this key are held.
pub async fn held(limiter: &Limiter, key: &str) -> u64 {
    let peeked = limiter.peek("streams", key).await.expect("the policy is there");
    4 - peeked.outcome("streams").expect("it is counted").remaining()
}

/// Waits until so many units of this key are held.
pub async fn comes_to_hold(limiter: &Limiter, key: &str, units: u64) {
    let is_so = async || Ok((held(limiter, key).await == units).then_some(()));
    if until(is_so).await.is_err() {
        panic!("{key}: {} units are held, and not {units}", held(limiter, key).await);
    }
}

/// A body that gives what it is sent.
pub struct Stream {
    frames: mpsc::UnboundedReceiver<Result<Bytes, Error>>,
    /// With the last frame, it says that there is no other, as a body of known length does.
    knows_its_end: bool,
}

type Sender = mpsc::UnboundedSender<Result<Bytes, Error>>;

impl Stream {
    pub fn new(knows_its_end: bool) -> (Sender, Self) {
        let (sender, frames) = mpsc::unbounded_channel();
        (sender, Self { frames, knows_its_end })
    }
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.frames.poll_recv(context).map(|frame| frame.map(|frame| frame.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.knows_its_end && self.frames.is_closed() && self.frames.is_empty()
    }
}

type Handler<B> = BoxCloneService<Request<()>, Response<B>, Error>;

/// A handler that answers with the result of `answer`.
fn handler<B, F>(answer: impl Fn() -> F + Clone + Send + 'static) -> Handler<B>
where
    F: Future<Output = Result<Response<B>, Error>> + Send + 'static,
{
    BoxCloneService::new(service_fn(move |_| answer()))
}

/// A request with a limiter of its own key, of which one unit is held all the time.
struct Way {
    limiter: Limiter,
    key: &'static str,
}

impl Way {
    fn request(&self) -> Request<()> {
        Request::get("/").header("x-key", self.key).body(()).expect("it is a request")
    }

    fn layer<S>(&self, inner: S) -> tower_quota::RateLimit<S> {
        RateLimitLayer::new(self.limiter.clone()).layer(inner)
    }

    /// Whether the request holds its unit.
    async fn is_held(&self) -> bool {
        held(&self.limiter, self.key).await == 2
    }

    /// The response of a handler that streams, and what sends to the stream.
    async fn stream(&self, knows_its_end: bool) -> (Sender, Response<ResponseBody<Stream>>) {
        let (sender, body) = Stream::new(knows_its_end);
        let body = Arc::new(Mutex::new(Some(body)));
        let handler = handler(move || {
            let body = body.lock().expect("nobody panics").take().expect("it is called once");
            async { Ok(Response::new(body)) }
        });
        let response = self.layer(handler).oneshot(self.request()).await;
        assert!(self.is_held().await);
        (sender, response.expect("it is answered"))
    }

    /// Polls a request whose handler never answers, until it is under way.
    async fn begins<F: Future<Output: Sized>>(&self, request: &mut Pin<Box<F>>) {
        let begun = async || {
            let polled = request.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending(), "the handler does not answer");
            Ok(self.is_held().await.then_some(()))
        };
        until(begun).await.expect("it is under way");
    }
}

async fn body_read_to_its_end(way: &Way) {
    let (sender, response) = way.stream(false).await;
    let mut body = response.into_body();
    sender.send(Ok("one".into())).expect("the body is there");
    assert!(body.frame().await.is_some());
    assert!(way.is_held().await);
    drop(sender);
    assert!(body.frame().await.is_none());
    comes_to_hold(&way.limiter, way.key, 1).await;
    drop(body);
}

async fn last_frame_of_known_length(way: &Way) {
    let (sender, response) = way.stream(true).await;
    let mut body = response.into_body();
    sender.send(Ok("all".into())).expect("the body is there");
    drop(sender);
    assert!(body.frame().await.is_some() && body.is_end_stream());
    comes_to_hold(&way.limiter, way.key, 1).await;
    drop(body);
}

async fn body_fails(way: &Way) {
    let (sender, response) = way.stream(false).await;
    let mut body = response.into_body();
    sender.send(Err("broken".into())).expect("the body is there");
    assert!(body.frame().await.is_some_and(|frame| frame.is_err()));
    comes_to_hold(&way.limiter, way.key, 1).await;
    drop(body);
}

async fn body_dropped_half_way(way: &Way) {
    let (sender, response) = way.stream(false).await;
    let mut body = response.into_body();
    sender.send(Ok("one".into())).expect("the body is there");
    assert!(body.frame().await.is_some());
    assert!(way.is_held().await);
    drop(body);
}

async fn body_never_read(way: &Way) {
    let (_sender, response) = way.stream(false).await;
    drop(response);
}

async fn response_without_a_body(way: &Way) {
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
        let handler = handler(move || async move {
            let mut response = Response::new(Empty::<Bytes>::new());
            *response.status_mut() = status;
            Ok(response)
        });
        let response = way.layer(handler).oneshot(way.request()).await.expect("it is answered");
        drop(response);
        comes_to_hold(&way.limiter, way.key, 1).await;
    }
}

async fn handler_fails(way: &Way) {
    let handler = handler(|| async { Err::<Response<Empty<Bytes>>, _>("broken".into()) });
    assert!(way.layer(handler).oneshot(way.request()).await.is_err());
}

/// Its caller keeps the future, which has ended.
async fn handler_fails_and_its_future_stays(way: &Way) {
    let handler = handler(|| async { Err::<Response<Empty<Bytes>>, _>("broken".into()) });
    let mut service = way.layer(handler);
    let mut request = service.ready().await.expect("it is ready").call(way.request());
    assert!((&mut request).await.is_err());
    comes_to_hold(&way.limiter, way.key, 1).await;
    drop(request);
}

/// Of a request that was held, or whose store is not in memory, the inner service is asked again.
async fn service_fails_before_the_call(way: &Way) {
    let mut service = way.layer(FailsLater::default());
    let mut request = service.ready().await.expect("it is ready").call(way.request());
    assert!((&mut request).await.is_err());
    comes_to_hold(&way.limiter, way.key, 1).await;
    drop(request);
}

/// A service that is ready once, and fails later.
#[derive(Default)]
struct FailsLater {
    is_clone: bool,
}

impl Clone for FailsLater {
    fn clone(&self) -> Self {
        Self { is_clone: true }
    }
}

impl Service<Request<()>> for FailsLater {
    type Response = Response<Empty<Bytes>>;
    type Error = Error;
    type Future = std::future::Ready<Result<Self::Response, Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(if self.is_clone { Err("broken".into()) } else { Ok(()) })
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        std::future::ready(Err("broken".into()))
    }
}

async fn body_that_has_ended_and_stays(way: &Way) {
    let handler = handler(|| async { Ok(Response::new(Empty::<Bytes>::new())) });
    let response = way.layer(handler).oneshot(way.request()).await.expect("it is answered");
    comes_to_hold(&way.limiter, way.key, 1).await;
    drop(response);
}

async fn handler_panics(way: &Way) {
    let handler = handler(|| async {
        if true {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
        Ok(Response::new(Empty::<Bytes>::new()))
    });
    let request = way.layer(handler).oneshot(way.request());
    assert!(tokio::spawn(request).await.is_err_and(|error| error.is_panic()));
}

fn never() -> Handler<Empty<Bytes>> {
    handler(pending)
}

async fn caller_leaves_before_the_head(way: &Way) {
    let mut request = Box::pin(way.layer(never()).oneshot(way.request()));
    way.begins(&mut request).await;
}

async fn time_out_inside(way: &Way) {
    let inner = Timeout::new(never(), Duration::from_millis(1));
    assert!(way.layer(inner).oneshot(way.request()).await.is_err());
}

async fn time_out_outside(way: &Way) {
    let outer = Timeout::new(way.layer(never()), Duration::from_millis(1));
    assert!(outer.oneshot(way.request()).await.is_err());
}

async fn handler_keeps_its_permit(way: &Way) {
    let kept = Arc::new(Mutex::new(None));
    let keeper = Arc::clone(&kept);
    let handler = service_fn(move |request: Request<()>| {
        *keeper.lock().expect("nobody panics") = request.extensions().get::<Permit>().cloned();
        async { Ok::<_, Infallible>(Response::new(Full::from("done"))) }
    });
    let response = way.layer(handler).oneshot(way.request()).await.expect("it is answered");
    assert!(response.into_body().collect().await.is_ok());
    assert!(way.is_held().await, "the work goes on");
    kept.lock().expect("nobody panics").take();
}

async fn runtime_is_shut_down(way: &Way) {
    let (limiter, key) = (way.limiter.clone(), way.key);
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("it starts");
        let way = Way { limiter, key };
        runtime.block_on(async {
            let request = way.layer(never()).oneshot(way.request());
            tokio::spawn(request);
            comes_to_hold(&way.limiter, way.key, 2).await;
        });
    });
    ended.join().expect("nobody panics");
}

/// A server whose `/stream` never ends, and whose `/ws` echoes until `notify` tells it to close.
struct Server {
    address: String,
    stops: Arc<Notify>,
    served: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(limiter: &Limiter) -> Self {
        let stream = || async {
            let (sender, stream) = Stream::new(false);
            sender.send(Ok("first".into())).expect("the body is there");
            // Ends when the body is dropped.
            tokio::spawn(async move { sender.closed().await });
            Body::new(stream)
        };
        let short = || async { "short" };
        let socket = |upgrade: WebSocketUpgrade, permit: Option<Extension<Permit>>| async {
            upgrade.on_upgrade(|mut socket| async move {
                while let Some(Ok(message)) = socket.recv().await {
                    if message.to_text().is_ok_and(|text| text == "panic") {
                        std::panic::resume_unwind(Box::new("on purpose"));
                    }
                    if socket.send(message).await.is_err() {
                        break;
                    }
                }
                drop(permit);
            })
        };
        let app = Router::new()
            .route("/stream", get(stream))
            .route("/short", get(short))
            .route("/ws", any(socket))
            .layer(RateLimitLayer::new(limiter.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it has one").to_string();
        let stops = Arc::new(Notify::new());
        let stopped = Arc::clone(&stops);
        let served = axum::serve(listener, app)
            .with_graceful_shutdown(async move { stopped.notified().await });
        let served = tokio::spawn(async { served.await.expect("it serves") });
        Self { address, stops, served }
    }

    /// A connection whose response has begun.
    async fn get(&self, path: &str, key: &str) -> TcpStream {
        let mut connection = TcpStream::connect(&self.address).await.expect("it accepts");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nx-key: {key}\r\n\r\n");
        connection.write_all(request.as_bytes()).await.expect("it is sent");
        let mut begin = [0; 12];
        connection.read_exact(&mut begin).await.expect("it answers");
        assert_eq!(&begin, b"HTTP/1.1 200");
        connection
    }
}

async fn client_is_killed_in_mid_stream(way: &Way) {
    let server = Server::start(&way.limiter).await;
    let connection = server.get("/stream", way.key).await;
    assert!(way.is_held().await);
    drop(connection);
}

async fn response_over_a_connection_that_stays(way: &Way) {
    let server = Server::start(&way.limiter).await;
    let _connection = server.get("/short", way.key).await;
    comes_to_hold(&way.limiter, way.key, 1).await;
}

async fn http_2_stream_is_reset(way: &Way) {
    let server = Server::start(&way.limiter).await;
    let connection = TcpStream::connect(&server.address).await.expect("it accepts");
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(connection))
            .await
            .expect("it speaks HTTP/2");
    tokio::spawn(connection);
    let request = Request::get(format!("http://{}/stream", server.address))
        .header("x-key", way.key)
        .body(Empty::<Bytes>::new())
        .expect("it is a request");
    let mut response = sender.send_request(request).await.expect("it answers");
    assert!(response.frame().await.is_some());
    assert!(way.is_held().await);
    // Resets the stream; the connection stays.
    drop(response);
    comes_to_hold(&way.limiter, way.key, 1).await;
    assert!(!sender.is_closed());
}

async fn server_stops_gracefully(way: &Way) {
    let server = Server::start(&way.limiter).await;
    let connection = server.get("/stream", way.key).await;
    server.stops.notify_one();
    assert!(way.is_held().await, "it waits for the response");
    drop(connection);
    server.served.await.expect("it has served");
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

async fn open(way: &Way, server: &Server) -> Socket {
    use tungstenite::client::IntoClientRequest;

    let address = format!("ws://{}/ws", server.address);
    let mut request = address.into_client_request().expect("it is a request");
    request.headers_mut().insert("x-key", way.key.parse().expect("it is ASCII"));
    let (socket, _) = tokio_tungstenite::connect_async(request).await.expect("it opens");
    assert!(way.is_held().await, "the socket is open");
    socket
}

async fn socket_is_closed(way: &Way) {
    let server = Server::start(&way.limiter).await;
    let mut socket = open(way, &server).await;
    socket.close(None).await.expect("it closes");
    comes_to_hold(&way.limiter, way.key, 1).await;
}

async fn socket_is_cut(way: &Way) {
    let server = Server::start(&way.limiter).await;
    drop(open(way, &server).await);
}

async fn socket_task_panics(way: &Way) {
    use futures_util::SinkExt;

    let server = Server::start(&way.limiter).await;
    let mut socket = open(way, &server).await;
    socket.send(tungstenite::Message::text("panic")).await.expect("it is sent");
    comes_to_hold(&way.limiter, way.key, 1).await;
}

/// Ends a request in each way, and checks that its unit comes back once: of each key, one other unit is
/// held all the time.
pub async fn each_way_gives_back_once(limiter: &Limiter) {
    let mut others = Vec::new();
    macro_rules! ways {
        ($($way:ident)*) => {$(
            let way = Way { limiter: limiter.clone(), key: stringify!($way) };
            let other = limiter.check("streams", way.key).await.expect("the policy is there");
            assert!(other.is_allowed());
            others.push((way.key, other));
            $way(&way).await;
            comes_to_hold(limiter, way.key, 1).await;
        )*};
    }
    ways!(
        body_read_to_its_end
        last_frame_of_known_length
        body_fails
        body_dropped_half_way
        body_never_read
        response_without_a_body
        handler_fails
        handler_fails_and_its_future_stays
        service_fails_before_the_call
        body_that_has_ended_and_stays
        handler_panics
        caller_leaves_before_the_head
        time_out_inside
        time_out_outside
        handler_keeps_its_permit
        runtime_is_shut_down
        client_is_killed_in_mid_stream
        response_over_a_connection_that_stays
        http_2_stream_is_reset
        server_stops_gracefully
        socket_is_closed
        socket_is_cut
        socket_task_panics
    );
    for (key, other) in others {
        comes_to_hold(limiter, key, 1).await;
        drop(other);
        comes_to_hold(limiter, key, 0).await;
    }
}
