use std::time::Duration;

use redis::{Client, aio::ConnectionLike};
use tokio::runtime::Runtime;

use super::{
    names::Names,
    wire::{Request, run},
};
use crate::{
    clock::Now,
    store::{Charge, Correction, Store, StoreError, StoreFuture, conformance},
};

#[path = "../../../tests/common/redis/mod.rs"]
mod servers;
use self::servers::Server;

/// Counts by the script, at the time of its caller.
struct Scripted<C> {
    connection: C,
    names: Names,
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Scripted<C> {
    fn run(&self, request: Request, now: Now) -> StoreFuture {
        let mut connection = self.connection.clone();
        let request = request.at(now, Duration::from_secs(3_600));
        StoreFuture::later(async move {
            let answer = run(&mut connection, &request).await;
            answer.map_err(|error| StoreError::new(error.to_string()))
        })
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> Store for Scripted<C> {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.run(Request::charge(&self.names, charges), now)
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.run(Request::correct(&self.names, corrections), now)
    }
}

#[test]
fn one_server_says_what_memory_says() {
    let (server, runtime) = (Server::start(), Runtime::new().unwrap());
    let client = Client::open(server.url()).unwrap();
    let connection = runtime.block_on(client.get_multiplexed_async_connection()).unwrap();
    let store = Scripted { connection, names: Names::new("test") };
    conformance::says_what_memory_says(&store, &runtime, 300);
    assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
}
