//! The pictures in the guide are true: they are drawn from what limiters answer.

use std::{fmt::Write, fs, path::Path, time::Duration};

use tokio::time::{Instant, advance};
use tower_quota::{Algorithm, Clock, Limiter, Permit, Policy, Quota};

const LAST: u64 = 180_000;
const MINUTE: u64 = 60_000;
/// How long each request takes under the limit of requests in flight.
const TAKES: u64 = 8_000;

/// When requests come, in milliseconds from the full minute: ten just before the next full minute, ten
/// just after it, and then one every three seconds.
fn arrivals() -> Vec<u64> {
    let bursts = [50_000, 62_000].map(|begin| (0..10).map(move |nth| begin + 500 * nth));
    let steady = (75_000..LAST).step_by(3_000);
    bursts.into_iter().flatten().chain(steady).collect()
}

/// Whether each of the requests passes.
async fn verdicts(policy: Policy) -> Vec<(u64, bool)> {
    let in_flight = policy.algorithm() == Algorithm::InFlight;
    let midnight = std::time::UNIX_EPOCH + Duration::from_secs(86_400);
    let limiter =
        Limiter::builder().clock(Clock::tokio(midnight)).check_only(policy).build().unwrap();
    let (begin, mut held) = (Instant::now(), Vec::<(u64, Permit)>::new());
    let mut verdicts = Vec::new();
    for at in arrivals() {
        held.retain(|(until, _)| *until > at);
        advance((begin + Duration::from_millis(at)) - Instant::now()).await;
        let passes = if in_flight {
            let entered = limiter.policy("p").unwrap().enter("key").at_once();
            let permit = entered.ok();
            let passes = permit.is_some();
            held.extend(permit.map(|permit| (at + TAKES, permit)));
            passes
        } else {
            limiter.check("p", "key").at_once().unwrap().is_allowed()
        };
        verdicts.push((at, passes));
    }
    verdicts
}

/// The most that pass in any minute.
fn most_in_a_minute(verdicts: &[(u64, bool)]) -> usize {
    let passed: Vec<_> = verdicts.iter().filter(|(_, passes)| *passes).map(|(at, _)| *at).collect();
    let in_minute =
        |begin: &u64| passed.iter().filter(|at| (*begin..begin + MINUTE).contains(*at)).count();
    passed.iter().map(in_minute).max().unwrap_or_default()
}

const LEFT: f64 = 10.0;
const PER_MILLISECOND: f64 = 700.0 / 180_000.0;

fn x(at: u64) -> f64 {
    LEFT + at as f64 * PER_MILLISECOND
}

/// What one algorithm does with the requests.
fn row(to: &mut String, nth: usize, name: &str, in_flight: bool, verdicts: &[(u64, bool)]) {
    let base = 92.0 + 84.0 * nth as f64;
    let passed = verdicts.iter().filter(|(_, passes)| *passes).count();
    let most = most_in_a_minute(verdicts);
    let mut pass = String::new();
    let mut refused = String::new();
    let mut lane = 0;
    for (at, passes) in verdicts {
        let (from, until) = (x(*at), x((at + TAKES).min(LAST)));
        match (passes, in_flight) {
            (true, false) => write!(pass, "M{from:.1} {:.0}v-22", base - 2.0),
            (true, true) => {
                lane = (lane + 1) % 3;
                write!(
                    pass,
                    "M{from:.1} {:.0}v4m0-2H{until:.1}",
                    base - 22.0 + 7.0 * f64::from(lane)
                )
            }
            (false, _) => write!(refused, "M{:.1} {:.0}l3 6m0-6l-3 6", from - 1.5, base + 4.0),
        }
        .unwrap();
    }
    write!(
        to,
        "<text x=\"{}\" y=\"{:.0}\" font-weight=\"bold\">{name}</text>\n\
         <text x=\"707\" y=\"{:.0}\" text-anchor=\"end\">{passed} of {} pass; at most {most} in a minute</text>\n\
         <path d=\"M{LEFT} {base:.0}H710\" stroke=\"currentColor\" stroke-width=\"0.7\"></path>\n\
         <path d=\"{pass}\" stroke=\"#2b9b62\" stroke-width=\"1.5\" fill=\"none\"></path>\n\
         <path d=\"{refused}\" stroke=\"#e0475b\" stroke-width=\"1\" fill=\"none\"></path>\n",
        LEFT + 3.0,
        base - 34.0,
        base - 34.0,
        verdicts.len(),
    )
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_picture_of_the_algorithms_is_what_limiters_do() {
    let quota = Quota::per_minute(10);
    let rows = [
        ("token bucket, 10 per minute", Policy::token_bucket("p", quota)),
        ("token bucket, 10 per minute, burst 3", Policy::token_bucket("p", quota.burst(3))),
        ("fixed window, 10 per minute", Policy::fixed_window("p", quota)),
        ("sliding window, 10 per minute", Policy::sliding_window("p", quota)),
        ("in flight, 3 at once; each takes 8 seconds", Policy::in_flight("p", 3)),
    ];
    let height = 92 + 84 * rows.len() - 44;
    // On a phone, it scrolls instead of shrinking its text.
    let mut svg = format!(
        "<div style=\"overflow-x:auto\">\n<svg viewBox=\"0 0 720 {height}\" role=\"img\" aria-label=\"What each algorithm lets pass\" \
         style=\"min-width:38rem;max-width:45rem;width:100%\" font-family=\"sans-serif\" font-size=\"12\" \
         fill=\"currentColor\">\n"
    );
    for second in [0, 60, 120, 180] {
        let (x, anchor) = (x(second * 1_000), if second == 180 { "end" } else { "start" });
        let shift = if second == 180 { -3.0 } else { 3.0 };
        write!(
            svg,
            "<path d=\"M{x:.1} 8V{height}\" stroke=\"currentColor\" stroke-width=\"0.5\" \
             stroke-dasharray=\"2 3\"></path>\n\
             <text x=\"{:.1}\" y=\"18\" text-anchor=\"{anchor}\">{second} s</text>\n",
            x + shift
        )
        .unwrap();
    }
    let mut table = String::new();
    for (nth, (name, policy)) in rows.into_iter().enumerate() {
        let in_flight = policy.algorithm() == Algorithm::InFlight;
        let verdicts = verdicts(policy).await;
        let passed = verdicts.iter().filter(|(_, passes)| *passes).count();
        writeln!(table, "| {name} | {passed} | {} |", most_in_a_minute(&verdicts)).unwrap();
        row(&mut svg, nth, name, in_flight, &verdicts);
    }
    svg.push_str("</svg>\n</div>\n");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/guide");
    let drawn = fs::read_to_string(folder.join("algorithms.svg")).unwrap_or_default();
    let chapter = fs::read_to_string(folder.join("algorithms.md")).unwrap();
    if drawn != svg || !chapter.contains(&table) {
        let new = Path::new(env!("CARGO_TARGET_TMPDIR")).join("algorithms.svg");
        fs::write(&new, svg).unwrap();
        panic!("put {new:?} into {folder:?}, and this into its algorithms.md:\n{table}");
    }
}
