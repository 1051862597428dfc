//! Bytes a key.

use crate::{
    common::{
        YEAR,
        args::Args,
        keys::{key, write_key},
        process::{numbers_from, resident},
        stats::{InShort, Table, grouped},
    },
    subject::{FIXED_WINDOW, GOVERNOR, SLIDING_WINDOW, Subject, TOKEN_BUCKET, measuring},
};

/// Prints the bytes a key, resident and allocated.
pub fn measure(subject: &str, keys: usize) {
    let before = resident();
    let mut after = 0;
    let allocated = allocation_counter::measure(|| {
        let subject = Subject::new(subject, YEAR, keys);
        let mut key = key(0);
        for n in 0..keys {
            write_key(&mut key, n);
            assert!(subject.admits(&key), "refused a fresh key");
        }
        after = resident();
        for n in (0..keys).step_by(997) {
            write_key(&mut key, n);
            assert!(!subject.admits(&key), "forgot a key");
        }
        std::mem::forget(subject);
    });
    println!("{} {}", (after - before) / keys, allocated.bytes_current / keys as i64);
}

pub fn table(args: &Args, in_short: &mut InShort) {
    let title = "Memory: bytes a key, resident (allocated)";
    if !args.wants(title) {
        return;
    }
    let sizes: &[usize] = args.pick(&[1_000_000, 10_000_000], &[100_000]);
    let names = ["keys", "governor", "token bucket", "fixed window", "sliding window"];
    let table = Table::new(title, &names);
    for &keys in sizes {
        let subjects = [GOVERNOR, TOKEN_BUCKET, FIXED_WINDOW, SLIDING_WINDOW];
        let cells = subjects.map(|subject| {
            let bytes = numbers_from::<i64>(&mut measuring("bytes", subject, &[keys]));
            format!("{} ({})", bytes[0], bytes[1])
        });
        let [governor, bucket, fixed, sliding] = cells;
        let keys = grouped(keys);
        table.row(&[&keys, &governor, &bucket, &fixed, &sliding]);
        let [_, _, names @ ..] = names;
        in_short.add(
            format!("bytes a key, {keys} keys, resident (allocated): {}", names.join("; ")),
            format!("governor: {governor}"),
            format!("{bucket}; {fixed}; {sliding}"),
        );
    }
}
