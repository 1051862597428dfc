//! Under a bare hyper server, over real connections.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    server::conn::http1,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_quota::{
    Limiter, Policy, Quota, RateLimitLayer,
    key::{ClientIp, PeerAddr, header},
};

/// Long enough for a busy machine; nothing waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves each connection with a clone, and adds the peer's address to each request. Returns the
/// server's address, and the number of connections.
pub(crate) async fn serve<S, B>(service: S) -> (SocketAddr, Arc<AtomicUsize>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<tower::BoxError>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            counted.fetch_add(1, SeqCst);
            let service = service.clone().map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddr(peer));
                request
            });
            let service = TowerToHyperService::new(service);
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, connections)
}

pub(crate) async fn connect(to: SocketAddr) -> SendRequest<Empty<Bytes>> {
    over(TcpStream::connect(to).await.unwrap()).await
}

/// A connection of its own; dropping the sender ends it.
async fn over(stream: TcpStream) -> SendRequest<Empty<Bytes>> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn get(uri: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(uri).header("host", "here").header("te", "trailers");
    request.body(Empty::new()).unwrap()
}

/// Two chunks of a size that is not known before, and a trailer; it is announced, without which
/// HTTP/1 does not send it.
pub(crate) fn chunked() -> Response<impl Body<Data = Bytes, Error = Infallible> + Send> {
    let sum = HeaderMap::from_iter([("x-sum".parse().unwrap(), "3".parse().unwrap())]);
    let frames = ["one", "two"].map(|chunk| Frame::data(Bytes::from(chunk)));
    let frames = frames.into_iter().chain([Frame::trailers(sum)]).map(Ok);
    let body = StreamBody::new(tokio_stream::iter(frames.collect::<Vec<_>>()));
    Response::builder().header("trailer", "x-sum").body(body).unwrap()
}

fn per_address(units: u64) -> RateLimitLayer {
    let policy =
        Policy::sliding_window("p", Quota::per_hour(units)).key(ClientIp::new()).or_refuse();
    RateLimitLayer::new(Limiter::builder().policy(policy).build().unwrap())
}

#[tokio::test]
async fn a_kept_alive_connection_gets_chunks_trailers_and_refusals_in_turn() {
    let service = per_address(2).layer(service_fn(async |_: Request<Incoming>| Ok(chunked())));
    let (address, connections) = serve(service).await;
    let mut client = connect(address).await;
    for _ in 0..2 {
        let response = client.send_request(get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["transfer-encoding"], "chunked");
        let body = response.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-sum"], "3");
        assert_eq!(body.to_bytes(), "onetwo");
    }
    for _ in 0..2 {
        let response = client.send_request(get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        let length = response.headers()["content-length"].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body.len().to_string(), length);
        assert!(body.starts_with(b"{\"error\":"), "{body:?}");
    }
    assert_eq!(connections.load(SeqCst), 1);
}

/// A refusal leaves the request's body unread, and then hyper closes the connection: a client that
/// does not know would write its next request in vain.
#[tokio::test]
async fn a_refusal_that_leaves_a_body_unread_says_that_the_connection_ends() {
    let service = per_address(1).layer(service_fn(async |request: Request<Incoming>| {
        request.into_body().collect().await.unwrap();
        Ok(Response::new(Empty::<Bytes>::new()))
    }));
    let (address, connections) = serve(service).await;
    // A simple client: it keeps a connection as long as no response says that it ends.
    let mut kept: Option<TcpStream> = None;
    let large = "x".repeat(4_000_000);
    let length = |body: &str| format!("content-length: {}\r\n\r\n{body}", body.len());
    let chunked = "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n".to_owned();
    let mut seen = Vec::new();
    for rest in [length(&large), length(&large), length(""), "\r\n".into(), chunked, "\r\n".into()]
    {
        let mut stream = match kept.take() {
            Some(stream) => stream,
            None => TcpStream::connect(address).await.unwrap(),
        };
        let head = format!("POST / HTTP/1.1\r\nhost: here\r\n{rest}");
        // Who is refused in the middle of its body may stop writing it.
        let (mut read, mut write) = stream.split();
        let (response, _) = timeout(PATIENCE, async {
            tokio::join!(read_response(&mut read), write.write_all(head.as_bytes()))
        })
        .await
        .unwrap();
        let closes = response.contains("\r\nconnection: close\r\n");
        seen.push((response[9..12].to_owned(), closes));
        if !closes {
            kept = Some(stream);
        }
    }
    let seen: Vec<_> = seen.iter().map(|(status, closes)| (&**status, *closes)).collect();
    let (kept, ends) = (("429", false), ("429", true));
    assert_eq!(seen, [("200", false), ends, kept, kept, ends, kept]);
    assert_eq!(connections.load(SeqCst), 3, "no request is written to a closed connection");
}

/// A response as text, its body included.
async fn read_response(from: &mut (impl AsyncRead + Unpin)) -> String {
    let mut read = Vec::new();
    loop {
        assert_ne!(from.read_buf(&mut read).await.unwrap(), 0, "the connection has ended");
        let text = String::from_utf8(read.clone()).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
            return text;
        }
    }
}

#[tokio::test]
async fn a_refused_head_request_has_the_headers_and_no_body() {
    let service = per_address(1).layer(service_fn(async |_: Request<Incoming>| {
        Ok(Response::new(Full::new(Bytes::from("body"))))
    }));
    let (address, connections) = serve(service).await;
    let mut client = connect(address).await;
    for status in [StatusCode::OK, StatusCode::TOO_MANY_REQUESTS, StatusCode::TOO_MANY_REQUESTS] {
        let mut request = get("/");
        *request.method_mut() = http::Method::HEAD;
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["x-ratelimit-remaining"], "0");
        assert_ne!(response.headers()["content-length"], "0", "as a GET would have it");
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
    }
    assert_eq!(connections.load(SeqCst), 1, "a body would have broken the connection");
}

/// On Linux, all of 127.0.0.0/8 are addresses of this machine.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn each_address_has_its_own_quota_whatever_its_connection() {
    let service = per_address(2)
        .layer(service_fn(async |_: Request<Incoming>| Ok(Response::new(Empty::<Bytes>::new()))));
    let (address, _) = serve(service).await;
    let send = async |from: [u8; 4]| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut client = over(socket.connect(address).await.unwrap()).await;
        client.send_request(get("/")).await.unwrap().status().as_u16()
    };
    for status in [200, 200, 429] {
        assert_eq!(send([127, 0, 0, 2]).await, status);
    }
    assert_eq!(send([127, 0, 0, 3]).await, 200);
}

#[tokio::test]
async fn a_held_caller_who_hangs_up_reaches_no_handler_and_keeps_nobody_waiting() {
    // One every 600 ms: of four who wait, the last passes after 2.4 s, or after 1.2 s where two
    // ahead of it have left.
    let apart = Duration::from_millis(600);
    let policy = Policy::token_bucket("p", Quota::per_window(1, apart).burst(1))
        .key(header("x-key"))
        .or_refuse()
        .hold(Duration::from_secs(20));
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    let called = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::clone(&called);
    let inner = service_fn(move |request: Request<Incoming>| {
        calls.lock().unwrap().push(request.uri().path().to_owned());
        async { Ok(Response::new(Empty::<Bytes>::new())) }
    });
    let arrived = Arc::new(AtomicUsize::new(0));
    let arrivals = Arc::clone(&arrived);
    let limited = RateLimitLayer::new(limiter).layer(inner);
    let service = limited.map_future(move |response| {
        // The service has been called by now: the request waits in the queue.
        let arrivals = Arc::clone(&arrivals);
        let mut noted = false;
        let mut response = Box::pin(response);
        std::future::poll_fn(move |context| {
            let polled = response.as_mut().poll(context);
            if !std::mem::replace(&mut noted, true) {
                arrivals.fetch_add(1, SeqCst);
            }
            polled
        })
    });
    let (address, _) = serve(service).await;

    let began = Instant::now();
    let mut callers = Vec::new();
    for place in 0..5 {
        let mut client = connect(address).await;
        let mut request = get(&format!("/{place}"));
        request.headers_mut().insert("x-key", "a".parse().unwrap());
        callers.push(tokio::spawn(async move { client.send_request(request).await }));
        let in_line = async {
            while arrived.load(SeqCst) <= place {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, in_line).await.expect("it is in the line");
    }
    for leaving in callers.drain(2..4) {
        leaving.abort();
    }
    for caller in callers {
        let response = timeout(PATIENCE, caller).await.unwrap().unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(*called.lock().unwrap(), ["/0", "/1", "/4"], "who left reaches no handler");
    // How much earlier is tested on the paused clock of `hold.rs`; here the machine may be busy.
    assert!(began.elapsed() >= apart * 2);
}
