//! Many more fresh keys than the bound, and whether spent keys that came first stay spent.

use crate::{
    common::{
        YEAR,
        args::Args,
        keys::{key, write_key},
        process::{numbers_from, resident},
        room_for,
        stats::{InShort, Table, grouped},
    },
    subject::{Subject, TOKEN_BUCKET, measuring},
};

/// Fresh keys between two requests of a spent one.
const STRIDE: usize = 1_000;
const SAMPLES: usize = 100;

/// Prints how often a spent key was asked for, how many fresh ones were admitted, and the
/// megabytes resident when all room was taken, at most, and at the end.
pub fn measure(room: usize, fresh: usize) {
    let keys = room / 5 * 4;
    assert_eq!(room_for(keys), room);
    let subject = Subject::new(TOKEN_BUCKET, YEAR, keys);
    let (mut asked, mut admitted, mut samples) = (0, 0, Vec::new());
    let mut key = key(0);
    for n in 0..fresh {
        write_key(&mut key, n);
        admitted += usize::from(subject.admits(&key));
        if n % STRIDE == 0 {
            // Some key of those that came when there still was room: a prime leads all over them.
            let spent = (asked * 7_919) % (room / 2).min(n + 1);
            write_key(&mut key, spent);
            assert!(!subject.admits(&key), "key {spent} has its quota back after {n} came");
            asked += 1;
        }
        if n >= 2 * room && n % (fresh / SAMPLES) == 0 {
            samples.push(resident() / 1_000_000);
        }
    }
    let most = samples.iter().max().expect("a sample");
    println!("{asked} {admitted} {} {most} {}", samples[0], samples[samples.len() - 1]);
}

pub fn table(args: &Args, in_short: &mut InShort) {
    let (room, fresh) = args.pick((1_000_000, 100_000_000), (10_000, 1_000_000));
    let title = format!("Memory: {} fresh keys at a bound of {}", grouped(fresh), grouped(room));
    if !args.wants(&title) {
        return;
    }
    let columns = [
        "spent keys, asked for",
        "of these refused",
        "fresh keys admitted",
        "MB once full",
        "MB at most",
        "MB at the end",
    ];
    let table = Table::new(&title, &columns);
    let said = numbers_from::<usize>(&mut measuring("flood", TOKEN_BUCKET, &[room, fresh]));
    // Had one been admitted, the process would have failed.
    let asked = grouped(said[0]);
    table.row(&[&asked, &asked, &grouped(said[1]), &said[2], &said[3], &said[4]]);
    in_short.add(
        format!("{} fresh keys at a bound of {}", grouped(fresh), grouped(room)),
        "unbounded",
        format!("{} MB once full, {} at the end; spent keys stay spent", said[2], said[4]),
    );
}
