//! Each contender decides about the same batch, one after another.

use std::{hint::black_box, sync::Barrier, thread, time::Instant};

use crate::{
    common::{keys::Order, process::thread_time, rounds::paired},
    contender::{Contender, Item, Pass},
};

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Plan {
    pub rounds: usize,
    /// Items that each thread decides about in a round.
    pub batch: usize,
    pub threads: usize,
}

impl Plan {
    /// How often each thread decides about its batch: about few keys it is so quick that two
    /// threads would hardly meet.
    fn repeats(&self, keys: usize) -> usize {
        if self.threads > 1 && keys < 100_000 { 4 } else { 1 }
    }

    /// How many decisions each contender makes in a round.
    fn decisions_a_round(&self, keys: usize) -> usize {
        self.batch * self.threads * self.repeats(keys)
    }

    /// How many decisions each contender makes, the warm-up among them.
    pub fn decisions(&self, keys: usize) -> usize {
        (self.rounds + 1) * self.decisions_a_round(keys)
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
    let repeats = plan.repeats(order.keys());
    let decisions = plan.decisions_a_round(order.keys());
    let new_batch = |_| (0..plan.batch).map(|_| T::numbered(0)).collect();
    let mut batches: Vec<Vec<T>> = (0..plan.threads).map(new_batch).collect();
    let mut filled_for = None;
    paired(plan.rounds, contenders.len(), |round, turn| {
        // Each key as a server has it: just read from a connection.
        if filled_for != Some(round) {
            batches.iter_mut().flatten().for_each(|item| item.renumber(order.next()));
            filled_for = Some(round);
        }
        let contender = &contenders[turn];
        let (nanos, passed) = if plan.threads == 1 {
            time_one(&contender.pass(), &batches[0])
        } else {
            let passes = (0..plan.threads).map(|_| contender.pass()).collect();
            time_several(passes, &batches, repeats)
        };
        assert_eq!(passed, if admitted { decisions } else { 0 }, "admitted by {}", contender.name);
        nanos / decisions as f64
    })
}

/// The nanoseconds of the thread's own time that all decisions take, and how many admitted.
fn time_one<T>(pass: &Pass<T>, batch: &[T]) -> (f64, usize) {
    let start = thread_time();
    let admitted = black_box(pass(batch));
    ((thread_time() - start).as_nanos() as f64, admitted)
}

/// The same of several threads, from the first one's start to the last one's end: what they wait
/// for each other counts, and only the wall's clock sees it.
fn time_several<T: Item>(passes: Vec<Pass<T>>, batches: &[Vec<T>], repeats: usize) -> (f64, usize) {
    let barrier = Barrier::new(passes.len());
    let run = |pass: Pass<T>, batch: &[T]| {
        barrier.wait();
        let start = Instant::now();
        let admitted = (0..repeats).map(|_| black_box(pass(batch))).sum::<usize>();
        (start, Instant::now(), admitted)
    };
    let threads = thread::scope(|scope| {
        let run = &run;
        let threads = passes.into_iter().zip(batches);
        let threads = threads.map(|(pass, batch)| scope.spawn(move || run(pass, batch)));
        let threads: Vec<_> = threads.collect();
        let join = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        join.collect::<Vec<_>>()
    });
    let start = threads.iter().map(|(start, ..)| *start).min().expect("a thread");
    let end = threads.iter().map(|(_, end, _)| *end).max().expect("a thread");
    let admitted = threads.iter().map(|(.., admitted)| admitted).sum();
    ((end - start).as_nanos() as f64, admitted)
}
