//! Meters of policies that do not settle at the end, and policies that settle at the end without a meter.

use http::{Request, StatusCode};
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    Limiter, Meter, Policy, Quota, RateLimitLayer,
    warning::{Code, warnings},
};

#[tokio::test]
async fn a_meter_of_a_policy_that_does_not_settle_is_told_once() {
    let policy = |name| Policy::fixed_window(name, Quota::per_day(100)).global();
    let limiter = Limiter::builder()
        .policy(policy("tokens").settle_at_end())
        .policy(policy("requests"))
        .check_only(Policy::fixed_window("elsewhere", Quota::per_day(1)).settle_at_end())
        .build()
        .unwrap();
    let request = Request::get("/").body(()).unwrap().into_parts().0;
    let decision = limiter.decide(&request).await;
    for name in ["tokens", "toekns", "requests", "elsewhere", "toekns"] {
        decision.meter().of(name).add(40);
    }
    drop(decision);
    assert_eq!(limiter.peek("tokens", "").await.unwrap().remaining(), 60);
    assert_eq!(limiter.peek("requests", "").await.unwrap().remaining(), 99);
    let all = warnings();
    let told = all.iter().filter(|warning| warning.code() == Code::UnknownMeter);
    let sentence = |name| {
        format!(
            "a handler meters a policy `{name}`, and no policy of this name settles at the end, so that \
             nothing is counted; write the name of one that does, or add `.settle_at_end()` to it"
        )
    };
    let told: Vec<_> = told.map(|warning| warning.to_string()).collect();
    assert_eq!(told.len(), 2);
    for name in ["toekns", "requests"] {
        assert!(told.iter().any(|told| told.contains(&sentence(name))), "{told:?}");
    }
}

/// What a handler does, by the request's number.
type Handle = fn(&Meter, usize) -> StatusCode;

/// Whether a warning says, after this number of requests, that nothing was metered.
async fn is_warned(name: &str, requests: usize, handle: Handle) -> bool {
    let policy = Policy::fixed_window(name, Quota::per_day(1_000_000))
        .global()
        .cost(|_| 10)
        .settle_at_end()
        .settle(|response| response.status.is_client_error().then_some(0));
    let other =
        Policy::fixed_window(format!("not settled, {name}"), Quota::per_day(9_000)).global();
    let limiter = Limiter::builder().policy(policy).policy(other).build().unwrap();
    let layer = RateLimitLayer::new(limiter);
    for number in 0..requests {
        let handler = service_fn(move |request: Request<()>| async move {
            let status = handle(&Meter::from_extensions(request.extensions()), number);
            let response = http::Response::builder().status(status);
            Ok::<_, std::convert::Infallible>(response.body(String::new()).unwrap())
        });
        drop(layer.layer(handler).oneshot(Request::new(())).await.unwrap());
    }
    let told = warnings()
        .into_iter()
        .filter(|warning| warning.code() == Code::NeverMetered && warning.culprit().contains(name));
    let told: Vec<_> = told.map(|warning| warning.to_string()).collect();
    if let [told] = &told[..] {
        assert_eq!(
            *told,
            format!(
                "policy `{name}`: no handler has added anything to the `Meter` of its first 1000 requests, \
                 so that each has cost its estimate. Let the handler take the `Meter` from the request, and \
                 add what the request uses; or leave `.settle_at_end()` out"
            )
        );
    }
    assert!(told.len() <= 1, "{told:?}");
    !told.is_empty()
}

#[tokio::test]
async fn a_meter_that_no_handler_uses_is_reported() {
    let forgets = |_: &Meter, _| StatusCode::OK;
    assert!(!is_warned("forgotten soon", 999, forgets).await);
    assert!(is_warned("forgotten", 1_000, forgets).await);
    assert!(!is_warned("refused by the handler", 2_000, |_, _| StatusCode::UNAUTHORIZED).await);
    let metered = |name, handle: Handle| is_warned(name, 2_000, handle);
    assert!(
        !metered("metered at first", |meter, number| {
            (number == 0).then(|| meter.add(0));
            StatusCode::OK
        })
        .await
    );
    assert!(
        !metered("metered once", |meter, number| {
            (number == 700).then(|| meter.add(3));
            StatusCode::OK
        })
        .await
    );
}
