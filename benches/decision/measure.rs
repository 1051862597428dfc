//! Each contender decides about the same batch, one after another.

use std::{hint::black_box, sync::Barrier, thread, time::Instant};

use crate::{
    common::{keys::Order, rounds::paired},
    contender::{Contender, Item, Pass},
};

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Plan {
    /// For many keys; for few ones, which take less time, three times as many.
    pub rounds: usize,
    /// Decisions of each thread in a round.
    pub batch: usize,
    pub threads: usize,
}

impl Plan {
    fn rounds(&self, keys: usize) -> usize {
        if keys < 100_000 { 3 * self.rounds } else { self.rounds }
    }

    /// How many decisions each contender makes, the warm-up among them.
    pub fn decisions(&self, keys: usize) -> usize {
        (self.rounds(keys) + 1) * self.batch * self.threads
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
    let mut filled_for = None;
    paired(plan.rounds(order.keys()), contenders.len(), |round, turn| {
        // Each key as a server has it: just read from a connection.
        if filled_for != Some(round) {
            batches.iter_mut().flatten().for_each(|item| item.renumber(order.next()));
            filled_for = Some(round);
        }
        let contender = &contenders[turn];
        let (nanos, passed) = time((0..plan.threads).map(|_| contender.pass()).collect(), &batches);
        let decisions = plan.batch * plan.threads;
        assert_eq!(passed, if admitted { decisions } else { 0 }, "admitted by {}", contender.name);
        nanos / decisions as f64
    })
}

/// How long it takes until all threads are through, and how many decisions admitted.
fn time<T: Item>(passes: Vec<Pass<T>>, batches: &[Vec<T>]) -> (f64, usize) {
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
        let threads = passes.into_iter().zip(batches).map(|(pass, batch)| {
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
