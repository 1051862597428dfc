//! However a request ends, its unit comes back once.

use common::endings::{each_way_gives_back_once, four_streams};
use tower_quota::Limiter;

#[tokio::test]
async fn each_unit_comes_back_once_however_its_request_ends() {
    let limiter = Limiter::builder().policy(four_streams()).build().unwrap();
    each_way_gives_back_once(&limiter).await;
}
