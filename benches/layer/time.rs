//! How long an answer takes, in rounds over all variants.

use std::hint::black_box;

use axum::Router;

use crate::{
    LIMITS, NONE, ROWS,
    common::{
        args::Args,
        process::thread_time,
        rounds::paired,
        routers::{BARE, Variant, answer, request},
        stats::{InShort, Quartiles, Table},
    },
    exists, peers,
};

pub fn table(args: &Args, in_short: &mut InShort) {
    let title = "Layer: ns added to an axum request (tower_governor = 1)";
    if !args.wants(title) {
        return;
    }
    let (rounds, batch) = (args.pick(301, 11), 500);
    let mut variants = vec![BARE];
    variants.extend(ROWS.iter().flat_map(|(_, limits)| limits).filter(|limit| exists(**limit)));
    let mut routers: Vec<Router> = variants.iter().map(|variant| variant.router()).collect();
    let times = paired(rounds, variants.len(), |round, turn| {
        time(variants[turn], &mut routers[turn], round * batch, batch) / batch as f64
    });
    let added = |variant: Variant| -> Option<Vec<f64>> {
        let at = variants.iter().position(|known| *known == variant)?;
        Some(times[at].iter().zip(&times[0]).map(|(with, without)| with - without).collect())
    };
    let bare = Quartiles::of(times[0].iter().copied()).median;
    let bare = format!("bare router: {bare:.0} ns");
    let table = Table::new(title, &[&[&*bare][..], &LIMITS, &["ratio"]].concat());
    for (row, limits) in ROWS {
        let added = limits.map(added);
        let cells = added.each_ref().map(|added| match added {
            Some(added) => format!("{:+.0} ns", Quartiles::of(added.iter().copied()).median),
            None => NONE.to_owned(),
        });
        let [_, Some(theirs), _, _, Some(ours)] = &added else { unreachable!("both exist") };
        let ratio = Quartiles::of_ratios(ours, theirs);
        let [fixed, governor, rate_net, throttle_kit, quota] = &cells;
        table.row(&[&row, fixed, governor, rate_net, throttle_kit, quota, &ratio]);
        if limits[0].headers {
            let ours = format!("{quota}: {ratio} of tower_governor");
            in_short.add(format!("time added to an axum request, {row}"), peers(&cells), ours);
        }
    }
}

/// From handing the request in until the response is dropped, as when it has been sent.
fn time(variant: Variant, router: &mut Router, from: usize, batch: usize) -> f64 {
    let requests: Vec<_> = (from..from + batch).map(request).collect();
    let mut as_expected = 0;
    let start = thread_time();
    for request in requests {
        let response = black_box(answer(router, request));
        as_expected += usize::from(response.status() == variant.status());
    }
    let nanos = (thread_time() - start).as_nanos() as f64;
    assert_eq!(as_expected, batch, "{variant:?}");
    nanos
}
