//! Many at once.

use std::sync::{Arc, atomic::AtomicU64};

use tokio::task::JoinSet;

use super::*;

const TASKS: u64 = 24;
const REQUESTS: u64 = 12;
const UNITS: u64 = 100;

/// From any number of tasks, over each of `stores`, which count together: no key is admitted more
/// than its quota, and no request is half charged.
pub(crate) async fn counts_each_request_once(stores: &[Arc<dyn Store>]) {
    let shard = Subject::new(&*stores[0]).shard;
    for algorithm in ALGORITHMS {
        let admitted: Arc<[AtomicU64; 3]> = Arc::default();
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let store = Arc::clone(&stores[task as usize % stores.len()]);
            let admitted = Arc::clone(&admitted);
            tasks.spawn(async move {
                let subject = Subject { shard, ..Subject::new(&*store) };
                for request in 0..REQUESTS {
                    // Pairs that overlap, in either order.
                    let first = (task + request) % 3;
                    let second = (first + 1 + request % 2) % 3;
                    let pair = [first, second].map(|key| charge(&subject, key, algorithm));
                    let answered = subject.charge(&pair).await;
                    if answered.iter().all(|(wait, ..)| *wait == 0) {
                        admitted[first as usize].fetch_add(1, Relaxed);
                        admitted[second as usize].fetch_add(1, Relaxed);
                    }
                }
            });
        }
        tasks.join_all().await;
        let subject = Subject { shard, ..Subject::new(&*stores[0]) };
        for (key, admitted) in (0..).zip(&*admitted) {
            let admitted = admitted.load(Relaxed);
            let left = subject.peek(charge(&subject, key, algorithm)).await.1;
            assert_eq!(left, UNITS - admitted, "{algorithm:?}: {admitted} were admitted");
        }
        let all: u64 = admitted.iter().map(|admitted| admitted.load(Relaxed)).sum();
        // Two keys are spent at least, or one more pair would have passed.
        assert!(all >= 2 * UNITS, "{algorithm:?}: {all} were admitted in all");
    }
}

fn charge(subject: &Subject<'_>, key: u64, algorithm: Algorithm) -> Charge {
    subject.one(key, algorithm, Quota::per_minute(UNITS))
}

/// The same for quotas of which each stands for the one before, also on several servers of a cluster:
/// all of them are used up, one after the other, and no request draws on two.
pub(crate) async fn draws_on_one_quota_after_the_other(stores: &[Arc<dyn Store>]) {
    for (algorithm, is_spread) in ALGORITHMS.into_iter().flat_map(|one| [(one, false), (one, true)])
    {
        let shard = Subject::new(&*stores[0]).shard;
        let charges = move |subject: &Subject<'_>| {
            let all = subject.one(4, algorithm, Quota::per_hour(1_000));
            let quotas = [(1, 100), (2, 50), (3, 30)].map(|(key, units)| {
                let charge = subject.one(key, algorithm, Quota::per_hour(units));
                let shard =
                    if is_spread { charge.shard.rotate_left(key as u32 * 7) } else { charge.shard };
                Charge { or_else: key < 3, shard, ..charge }
            });
            [quotas[0], quotas[1], quotas[2], all]
        };
        let drawn: Arc<[AtomicU64; 3]> = Arc::default();
        let mut tasks = JoinSet::new();
        for task in 0..TASKS {
            let store = Arc::clone(&stores[task as usize % stores.len()]);
            let drawn = Arc::clone(&drawn);
            tasks.spawn(async move {
                let subject = Subject { shard, ..Subject::new(&*store) };
                for _ in 0..REQUESTS {
                    let answered = subject.charge(&charges(&subject)).await;
                    let first = answered[..3].iter().position(|(wait, ..)| *wait == 0);
                    if let Some(first) = first {
                        drawn[first].fetch_add(1, Relaxed);
                        let had_room = answered[..first].iter().any(|(_, left, _)| *left > 0);
                        assert!(!had_room, "{algorithm:?}: {answered:?}");
                    }
                }
            });
        }
        tasks.join_all().await;
        let subject = Subject { shard, ..Subject::new(&*stores[0]) };
        let mut left = Vec::new();
        for charge in charges(&subject) {
            left.push(subject.peek(charge).await.1);
        }
        let drawn = drawn.each_ref().map(|drawn| drawn.load(Relaxed));
        assert_eq!(drawn, [100, 50, 30], "{algorithm:?}, on several servers: {is_spread}");
        assert_eq!(left, [0, 0, 0, 1_000 - 180], "{algorithm:?}, on several servers: {is_spread}");
    }
}
