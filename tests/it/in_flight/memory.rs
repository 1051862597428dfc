//! How much memory requests under way take.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream::pending;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{Limiter, Policy, RateLimitLayer, key::header};

const STREAMS: i64 = 10_000;
/// What the docs state.
const STATED: i64 = 350;

/// What 10,000 responses take whose bodies have not ended, of 2,500 keys, beside the responses of a
/// service without a limit.
#[test]
fn ten_thousand_streams_take_no_more_than_is_stated() {
    let answered = |limiter: &Limiter| {
        let layer = RateLimitLayer::builder(limiter.clone()).headers([]).build().unwrap();
        let handler = service_fn(|_: Request<()>| async {
            let body = StreamBody::new(pending::<Result<Frame<Bytes>, Infallible>>());
            Ok::<_, Infallible>(Response::new(body))
        });
        let mut open = Vec::with_capacity(STREAMS as usize);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let taken = allocation_counter::measure(|| {
            for number in 0..STREAMS {
                let key = (number / 4).to_string();
                let request = Request::get("/").header("x-key", key).body(()).unwrap();
                let response = layer.layer(handler).oneshot(request);
                open.push(runtime.block_on(response).unwrap());
            }
        });
        assert!(open.iter().all(|response| response.status() == 200));
        let given_back = allocation_counter::measure(|| open.clear());
        (taken.bytes_current, given_back.bytes_current)
    };
    let unlimited = Limiter::builder().build().unwrap();
    let policy = Policy::in_flight("streams", 4).key(header("x-key")).or_refuse();
    let limited = Limiter::builder().policy(policy).build().unwrap();
    let (without, _) = answered(&unlimited);
    let (with, given_back) = answered(&limited);
    let each = (with - without) / STREAMS;
    println!("{each} bytes for each stream");
    assert!(each <= STATED, "{each} bytes for each stream");
    assert!(-given_back / STREAMS >= 200, "{given_back} bytes: only the keys' entries stay");
}
