//! Replies of Redis: any bytes from a server are a possible answer, or an error.

use std::time::Duration;

use tower_quota::{
    Algorithm, Quota, fuzzing,
    store::{Change, Charge, Correction},
};

/// Reads the first two bytes as what was asked for, and the rest as the server's reply.
///
/// # Panics
/// Where a promise is broken.
pub fn replies(data: &[u8]) {
    let [asked, corrected, reply @ ..] = data else { return };
    let quotas = [
        Quota::per_minute(60),
        Quota::per_second(3).burst(7),
        Quota::per_window(1_000_000, Duration::from_secs(86_400)),
    ];
    let algorithms = [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];
    let all: Vec<_> = algorithms
        .into_iter()
        .enumerate()
        .flat_map(|(number, algorithm)| {
            let charge = move |quota| Charge::new(number as u64, 7, algorithm, quota);
            quotas.map(charge)
        })
        .collect();
    let chosen =
        |bits: u8| all.iter().enumerate().filter(move |(bit, _)| bits >> (bit % 8) & 1 == 1);
    let charges: Vec<_> = chosen(*asked).step_by(3).map(|(_, charge)| *charge).collect();
    let corrections: Vec<_> = chosen(*corrected)
        .step_by(2)
        .map(|(_, charge)| Correction::new(*charge, Change::GiveBack(u64::from(*asked))))
        .collect();
    let _ = fuzzing::redis_reply(&corrections, &charges, reply);
}
