//! The layer passes on each type of body unchanged.

use std::{
    collections::VecDeque,
    fmt::Debug,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{Limiter, Policy, Quota, RateLimitLayer, ResponseBody};

/// A body as its reader sees it: before each frame, whether it is at its end and its size.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    frames: Vec<(String, Hint)>,
    end: Option<Hint>,
}

/// Whether it is at its end, and its least and greatest size.
type Hint = (bool, u64, Option<u64>);

fn hint(body: &impl Body) -> Hint {
    (body.is_end_stream(), body.size_hint().lower(), body.size_hint().upper())
}

async fn read<B: Body<Data = Bytes, Error: Debug>>(body: B) -> Seen {
    let mut body = std::pin::pin!(body);
    let mut seen = Seen::default();
    loop {
        let hint = hint(&*body);
        match body.as_mut().frame().await {
            Some(frame) => seen.frames.push((format!("{frame:?}"), hint)),
            None => {
                seen.end = Some(hint);
                return seen;
            }
        }
    }
}

/// The body as it comes out of the layer.
async fn passed_through<B: Body<Data = Bytes> + 'static>(body: B) -> ResponseBody<B> {
    let policy = Policy::sliding_window("p", Quota::per_hour(9)).global();
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    let body = Rc::new(std::cell::Cell::new(Some(body)));
    let service = RateLimitLayer::new(limiter).layer(service_fn(move |_: Request<()>| {
        let body = body.take().expect("called once");
        async { Ok::<_, std::convert::Infallible>(Response::new(body)) }
    }));
    service.oneshot(Request::new(())).await.unwrap().into_body()
}

/// The same body twice: as it is, and through the layer.
async fn is_untouched<B: Body<Data = Bytes, Error: Debug> + 'static>(
    make: impl AsyncFn() -> B,
    frames: usize,
) {
    let seen = read(make().await).await;
    assert_eq!(seen.frames.len(), frames, "{seen:?}");
    assert_eq!(read(passed_through(make().await).await).await, seen);
}

/// A user's own: its error is neither `Send`, `Sync`, `Clone` nor an `Error`, and it goes on after
/// one.
#[derive(Clone, Default)]
struct Own {
    frames: VecDeque<Result<Frames, &'static str>>,
}

#[derive(Clone)]
enum Frames {
    Data(&'static str),
    Trailers(&'static str),
}

#[derive(Debug)]
struct Exotic(#[expect(dead_code, reason = "told by Debug")] Rc<str>);

impl Body for Own {
    type Data = Bytes;
    type Error = Exotic;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Exotic>>> {
        Poll::Ready(self.frames.pop_front().map(|frame| match frame {
            Ok(Frames::Data(data)) => Ok(Frame::data(data.into())),
            Ok(Frames::Trailers(value)) => {
                let value = ("x-sum".parse().unwrap(), value.parse().unwrap());
                Ok(Frame::trailers(HeaderMap::from_iter([value])))
            }
            Err(error) => Err(Exotic(error.into())),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(self.frames.len() as u64);
        hint.set_upper(1_000 + self.frames.len() as u64);
        hint
    }
}

#[tokio::test]
async fn a_body_passes_as_it_is_whatever_its_type() {
    is_untouched(async || Full::new(Bytes::from("full")), 1).await;
    is_untouched(async || Full::new(Bytes::new()), 0).await;
    is_untouched(async || axum::body::Body::from("axum"), 1).await;
    is_untouched(async || axum::body::Body::empty(), 0).await;
    is_untouched(async || axum::body::Body::new(own().map_err(|_| "flat")), 4).await;
    is_untouched(async || own(), 4).await;
    is_untouched(async || Own::default(), 0).await;
}

fn own() -> Own {
    use Frames::{Data, Trailers};
    Own { frames: [Ok(Data("one")), Err("broken"), Ok(Data("two")), Ok(Trailers("3"))].into() }
}

#[tokio::test]
async fn what_comes_from_another_server_passes_as_it_is() {
    let (address, _) = super::hyper::serve(service_fn(async |_| Ok(super::hyper::chunked()))).await;
    let make = async || {
        let mut client = super::hyper::connect(address).await;
        let response = client.send_request(super::hyper::get("/")).await.unwrap();
        response.into_body()
    };
    is_untouched(make, 3).await;
}

#[tokio::test]
async fn the_body_of_a_refusal_tells_its_size_and_its_end() {
    let policy = Policy::sliding_window("p", Quota::per_hour(1)).global().cost(|_| 2);
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    let service = RateLimitLayer::new(limiter).layer(service_fn(async |_: Request<()>| {
        Ok::<_, std::convert::Infallible>(Response::new(Own::default()))
    }));
    let response = service.oneshot(Request::new(())).await.unwrap();
    let mut body = response.into_body();
    let (end, least, most) = hint(&body);
    let data = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!((end, least, most), (false, data.len() as u64, Some(data.len() as u64)));
    assert_eq!(hint(&body), (true, 0, Some(0)));
    assert!(body.frame().await.is_none());
}
