//! The processor time of an axum "hello" over loopback: how much a limiter adds to a whole server.
//!
//! `cargo bench -p tower-quota-benches --bench server -- [--quick]`
//! needs Linux's `/proc`. Each variant is a server in a process of its own, on one core; the client is
//! on another. It sends to all servers in turn.

mod client;
#[path = "../common/mod.rs"]
mod common;
mod servant;

use crate::{
    client::Client,
    common::{
        args::Args,
        rounds::paired,
        routers::{BARE, Limit, Variant},
        stats::{InShort, Quartiles, Table},
    },
    servant::Servant,
};

const VARIANTS: [(&str, Variant); 8] = [
    ("bare", BARE),
    ("three fixed headers", limited(Limit::FixedHeaders, true)),
    ("tower_governor, admitted", limited(Limit::TowerGovernor, true)),
    ("rate-net, admitted, no headers", limited(Limit::RateNet, true)),
    ("tower-quota, admitted", limited(Limit::TowerQuota, true)),
    ("tower_governor, refused", limited(Limit::TowerGovernor, false)),
    ("rate-net, refused", limited(Limit::RateNet, false)),
    ("tower-quota, refused", limited(Limit::TowerQuota, false)),
];

const fn limited(limit: Limit, admitted: bool) -> Variant {
    Variant { limit, admitted, headers: true }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [serve, variant] = &words[..]
        && serve == servant::SERVE
    {
        return servant::serve(VARIANTS[variant.parse::<usize>().expect("a number")].1);
    }
    let args = Args::parse();
    let title = "Server: processor time of an axum request over loopback (bare = 1)";
    if !args.wants(title) {
        return;
    }
    let (rounds, requests) = args.pick((121, 2_048), (3, 800));
    servant::pin(std::process::id(), 0);
    let mut servers: Vec<(Servant, Client)> = (0..VARIANTS.len())
        .map(|variant| {
            let servant = Servant::start(variant);
            let client = Client::connect(servant.address(), VARIANTS[variant].1.status());
            (servant, client)
        })
        .collect();
    let times = paired(rounds, VARIANTS.len(), |_, turn| {
        let (servant, client) = &mut servers[turn];
        let before = servant.processor_time();
        client.ask(requests);
        (servant.processor_time() - before).as_nanos() as f64 / requests as f64
    });
    let table = Table::new(title, &["", "µs", "ratio"]);
    let ratios = times.iter().map(|nanos| Quartiles::of_ratios(nanos, &times[0]));
    let ratios: Vec<Quartiles> = ratios.collect();
    for (((name, _), nanos), ratio) in VARIANTS.iter().zip(&times).zip(&ratios) {
        let micros = Quartiles::of(nanos.iter().map(|nanos| nanos / 1e3));
        table.row(&[name, &format!("{micros:.1}"), ratio]);
    }
    let mut in_short = InShort::new();
    for (verdict, from) in [("admitted", 2), ("refused", 5)] {
        let [tower_governor, rate_net, ours] = [0, 1, 2].map(|limit| ratios[from + limit]);
        in_short.add(
            format!("processor time of an axum server over loopback, {verdict}, bare = 1"),
            format!(
                "tower_governor: {:.2}; rate-net: {:.2}; three fixed headers: {:.2}",
                tower_governor.median, rate_net.median, ratios[1].median
            ),
            ours,
        );
    }
    in_short.print();
}
