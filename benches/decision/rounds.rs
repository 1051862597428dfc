//! Paired rounds: each contender decides about the same batch, one after another.

use std::{hint::black_box, sync::Barrier, thread, time::Instant};

use crate::{
    common::keys::Order,
    contender::{Contender, Item, Pass},
};

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Plan {
    pub rounds: usize,
    /// Decisions of each thread in a round.
    pub batch: usize,
    pub threads: usize,
}

impl Plan {
    /// How many decisions each contender makes, the warm-up among them.
    pub fn decisions(&self) -> usize {
        (self.rounds + 1) * self.batch * self.threads
    }
}

/// The nanoseconds of a decision in each round, for each contender. In `order`, which is the same
/// for all; all must be admitted, or none.
pub fn measure<T: Item>(
    contenders: &[Contender<T>],
    plan: Plan,
    order: &mut Order,
    admitted: bool,
) -> Vec<Vec<f64>> {
    let new_batch = |_| (0..plan.batch).map(|_| T::numbered(0)).collect();
    let mut batches: Vec<Vec<T>> = (0..plan.threads).map(new_batch).collect();
    let mut times = vec![Vec::new(); contenders.len()];
    for round in 0..=plan.rounds {
        // Each key as a server has it: just read from a connection.
        for item in batches.iter_mut().flatten() {
            item.renumber(order.next());
        }
        for turn in 0..contenders.len() {
            let turn = (round + turn) % contenders.len();
            let contender = &contenders[turn];
            let passes = (0..plan.threads).map(|_| contender.pass()).collect();
            let (nanos, passed) = time(passes, &batches);
            let expected = if admitted { plan.batch * plan.threads } else { 0 };
            assert_eq!(passed, expected, "admitted by {}", contender.name);
            // The first round only warms up.
            if round > 0 {
                times[turn].push(nanos / (plan.batch * plan.threads) as f64);
            }
        }
    }
    times
}

/// How long it takes until all threads are through, and how many decisions admitted.
fn time<T: Item>(mut passes: Vec<Pass<T>>, batches: &[Vec<T>]) -> (f64, usize) {
    let timed = |pass: &Pass<T>, batch: &[T]| {
        let start = Instant::now();
        let admitted = black_box(pass(batch));
        (start.elapsed().as_nanos() as f64, admitted)
    };
    if let [pass] = &passes[..] {
        return timed(pass, &batches[0]);
    }
    let barrier = Barrier::new(passes.len());
    thread::scope(|scope| {
        let threads = passes.drain(..).zip(batches).map(|(pass, batch)| {
            let barrier = &barrier;
            scope.spawn(move || {
                barrier.wait();
                timed(&pass, batch)
            })
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().fold((0.0, 0), |(longest, admitted), thread| {
            let (nanos, more) = thread.join().expect("no panic");
            (f64::max(longest, nanos), admitted + more)
        })
    })
}
