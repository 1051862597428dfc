//! Bytes a key.

use crate::{
    common::{
        YEAR,
        args::Args,
        keys::{key, write_key},
        process::{numbers_from, resident},
        stats::{InShort, Table, grouped},
    },
    subject::{FIXED_WINDOW, GOVERNOR, Subject, TOKEN_BUCKET, measuring},
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
    let table = Table::new(title, &["keys", "governor", "token bucket", "fixed window"]);
    for &keys in sizes {
        let cells = [GOVERNOR, TOKEN_BUCKET, FIXED_WINDOW].map(|subject| {
            let bytes = numbers_from::<i64>(&mut measuring("bytes", subject, &[keys]));
            format!("{} ({})", bytes[0], bytes[1])
        });
        let keys = grouped(keys);
        table.row(&[&keys, &cells[0], &cells[1], &cells[2]]);
        let [governor, token_bucket, fixed_window] = cells;
        in_short.add(
            format!("bytes a key, {keys} keys, resident (allocated): token bucket; fixed window"),
            format!("governor: {governor}"),
            format!("{token_bucket}; {fixed_window}"),
        );
    }
}
