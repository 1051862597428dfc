//! A stream of fresh keys, each of which expires a second later.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use crate::{
    common::{
        args::Args,
        keys::{key, write_key},
        process::{numbers_from, resident},
        stats::{InShort, Table, grouped},
    },
    subject::{GOVERNOR, Subject, TOKEN_BUCKET, measuring},
};

const ROOM: usize = 10_000_000;
/// How often memory is measured, and governor's expired keys are dropped, as its documentation
/// advises.
const TICK: Duration = Duration::from_secs(1);
/// Fresh keys between two looks at the time.
const STRIDE: usize = 1_000;

/// Prints how many keys came, and the megabytes resident after a quarter of the time, at most, and
/// at the end.
pub fn measure(subject: &str, seconds: usize) {
    let subject = Subject::new(subject, Duration::from_secs(1), ROOM);
    let (came, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let samples = thread::scope(|scope| {
        scope.spawn(|| {
            let mut key = key(0);
            while !over.load(Relaxed) {
                for n in 0..STRIDE {
                    write_key(&mut key, came.load(Relaxed) + n);
                    assert!(subject.admits(&key), "refused a fresh key");
                }
                came.fetch_add(STRIDE, Relaxed);
            }
        });
        let start = Instant::now();
        let mut samples = Vec::new();
        while start.elapsed().as_secs() < seconds as u64 {
            thread::sleep(TICK / 4);
            samples.push(resident() / 1_000_000);
            if let (Subject::Governor(governor), 0) = (&subject, samples.len() % 4) {
                governor.retain_recent();
            }
        }
        over.store(true, Relaxed);
        samples
    });
    let most = samples.iter().max().expect("a sample");
    let [early, last] = [samples[samples.len() / 4], samples[samples.len() - 1]];
    println!("{} {early} {most} {last}", came.into_inner());
}

pub fn table(args: &Args, in_short: &mut InShort) {
    let title = format!("Memory: {} s of fresh keys, each forgotten after a second", args.seconds);
    if !args.wants(&title) {
        return;
    }
    let columns = ["", "keys that came", "MB after a quarter", "MB at most", "MB at the end"];
    let table = Table::new(&title, &columns);
    let [governor, ours] = [GOVERNOR, TOKEN_BUCKET].map(|subject| {
        let seconds = args.seconds as usize;
        let said = numbers_from::<usize>(&mut measuring("churn", subject, &[seconds]));
        table.row(&[&subject, &grouped(said[0]), &said[1], &said[2], &said[3]]);
        format!("{}; {} MB", said[1], said[3])
    });
    in_short.add(
        format!("{} s of fresh keys: memory after a quarter; at the end", args.seconds),
        format!("governor: {governor}"),
        ours,
    );
}
