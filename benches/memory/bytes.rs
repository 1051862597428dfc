//! How many bytes of memory a key takes.

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

/// Prints the bytes a key, resident and allocated, with room for `most`.
pub fn measure(subject: &str, keys: usize, most: usize) {
    let before = resident();
    let mut after = 0;
    let allocated = allocation_counter::measure(|| {
        let subject = Subject::new(subject, YEAR, most);
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
    // Keys, and for how many there is room.
    let sizes: &[(usize, usize)] = args.pick(
        &[(10_000, 1_000_000), (1_000_000, 1_000_000), (10_000_000, 10_000_000)],
        &[(100_000, 100_000)],
    );
    let names = ["", "governor", "token bucket", "fixed window", "sliding window"];
    let table = Table::new(title, &names);
    for &(keys, most) in sizes {
        let subjects = [GOVERNOR, TOKEN_BUCKET, FIXED_WINDOW, SLIDING_WINDOW];
        let cells = subjects.map(|subject| {
            let bytes = numbers_from::<i64>(&mut measuring("bytes", subject, &[keys, most]));
            format!("{} ({})", bytes[0], bytes[1])
        });
        let [governor, bucket, fixed, sliding] = cells;
        let keys = match most > keys {
            true => format!("{} keys of {}", grouped(keys), grouped(most)),
            false => format!("{} keys", grouped(keys)),
        };
        table.row(&[&keys, &governor, &bucket, &fixed, &sliding]);
        let [_, _, names @ ..] = names;
        in_short.add(
            format!("bytes a key, {keys}, resident (allocated): {}", names.join("; ")),
            format!("governor: {governor}"),
            format!("{bucket}; {fixed}; {sliding}"),
        );
    }
}
