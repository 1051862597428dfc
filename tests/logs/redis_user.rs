//! The log says if the Redis user may not run a command.
#![cfg(feature = "redis")]

use common::redis::{PATIENCE, Server};
use tower_quota::{Limiter, OnStoreFailure, Policy, Quota, Reason, store::RedisStore};

use crate::log;

#[tokio::test]
async fn a_command_that_the_user_may_not_run_is_in_the_log() {
    log::keep();
    for command in ["evalsha", "eval", "time", "hmget", "hset", "pexpire"] {
        let user = format!("--user quota on >password ~* +@all -{command}");
        let server = Server::start_with(&user.split(' ').collect::<Vec<_>>());
        let url = format!("redis://quota:password@127.0.0.1:{}/", server.port());
        let store = RedisStore::builder(url).secret(1).connect_timeout(PATIENCE);
        let store = store.response_timeout(PATIENCE).decision_timeout(PATIENCE);
        let policy = Policy::sliding_window("p", Quota::per_hour(9));
        let policy = policy.on_store_failure(OnStoreFailure::Refuse);
        let limiter = Limiter::builder().check_only(policy);
        let limiter = limiter.store(store.build().unwrap()).build().unwrap();

        let decision = limiter.check("p", "k").await.unwrap();
        assert_eq!(decision.reason(), Some(Reason::StoreUnavailable), "{command}");
        let logged = log::take().concat();
        let named = format!("has no permissions to run the '{command}' command");
        // Before 7.2, Redis does not name a command of a script.
        let in_script = "The user executing the script can't run this command";
        let is_own = ["evalsha", "eval"].contains(&command);
        let is_said = logged.contains(&named) || !is_own && logged.contains(in_script);
        assert!(is_said, "{command}: {logged}");
    }
}
