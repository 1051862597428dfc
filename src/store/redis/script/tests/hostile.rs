//! Texts in a server that are no counts of ours.

use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};

use super::*;

#[expect(unreachable_pub, reason = "a fuzz target is for other crates")]
#[path = "../../../../../tests/fuzz/targets/replies.rs"]
mod replies;

const HOUR: Quota = Quota::per_hour(10);

impl Sent {
    /// Writes a text where a count is kept.
    fn leave(&mut self, charge: &Charge, text: &[u8]) {
        let (name, field) = (self.names.key(charge), keys::field(charge));
        let mut leave = redis::pipe();
        leave.cmd("DEL").arg(&name).cmd("HSET").arg(&name).arg(&field).arg(text);
        leave.cmd("PEXPIRE").arg(&name).arg(600_000).exec(&mut self.connection).unwrap();
    }

    fn text(&mut self, charge: &Charge) -> Vec<u8> {
        let (name, field) = (self.names.key(charge), keys::field(charge));
        redis::cmd("HGET").arg(name).arg(&field).query(&mut self.connection).unwrap()
    }
}

fn pack(numbers: &[f64]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// Checks that a key counts as spent, and has its units again no later than after a quota's window.
fn is_spent(sent: &mut Sent, charge: Charge, what: &str) {
    let waits = |algorithm| match algorithm {
        Algorithm::TokenBucket => 360 * SECOND,
        Algorithm::FixedWindow => 30 * SECOND,
        Algorithm::SlidingWindow => 3_600 * SECOND,
        Algorithm::InFlight => unreachable!("it has no window"),
    };
    let (wait, algorithm) = (waits(charge.algorithm), charge.algorithm);
    assert_eq!(sent.charge(START, charge), (wait, 0), "{algorithm:?}: {what}");
    assert_eq!(sent.charge(START + 1, charge), (wait - 1, 0), "{algorithm:?}: {what}");
    let name = sent.names.key(&charge);
    let ttl: i64 = redis::cmd("PTTL").arg(name).query(&mut sent.connection).unwrap();
    assert!(ttl > 0, "{algorithm:?}: {what} is kept for ever");
    assert_eq!(sent.charge(START + wait, charge).0, 0, "{algorithm:?}: {what}");
    sent.correct(START + wait, charge, Change::Reset);
    assert_ne!(sent.ttl(&charge), -1, "{algorithm:?}: {what} is reset, and kept for ever");
    let peeked = sent.charge(START + wait, Charge { mode: Mode::Peek, ..charge });
    assert_eq!(peeked, (0, 10), "{algorithm:?}: {what} is reset");
}

#[test]
fn nothing_is_given_back_where_it_cannot_be_read_what_was() {
    let mut sent = Sent::start();
    let charge = Charge { cost: 4, ..charge(Algorithm::TokenBucket, HOUR) };
    let [later, nan] = [(START + SECOND) as f64, f64::NAN];
    let readable = [pack(&[0.0]), pack(&[0.0, later]), pack(&[0.0, later, 1.0, 2.0])];
    let unreadable = [
        b"text".to_vec(),
        pack(&[0.0, later, 1.0]),
        pack(&[0.0, later, nan, 2.0]),
        pack(&[0.0, later, 1.0, nan]),
    ];
    let texts = readable.iter().zip([true; 3]).chain(unreadable.iter().zip([false; 4]));
    for (text, is_readable) in texts {
        assert_eq!(sent.charge(START, charge), (0, 6));
        let (name, field) = (sent.names.key(&charge), keys::reset_field(&charge));
        redis::cmd("HSET").arg(&name).arg(&field).arg(text).exec(&mut sent.connection).unwrap();
        sent.correct(START, charge, Change::GiveBack(4));
        let left = sent.charge(START, Charge { mode: Mode::Peek, ..charge }).1;
        assert_eq!(left, if is_readable { 10 } else { 6 }, "{text:?}");
        redis::cmd("DEL").arg(&name).exec(&mut sent.connection).unwrap();
    }
}

#[test]
fn what_cannot_be_read_is_a_spent_key_and_comes_back() {
    let mut sent = Sent::start();
    for algorithm in ALGORITHMS {
        let charge = charge(algorithm, HOUR);
        sent.charge(START, charge);
        let good = sent.text(&charge);
        let with = |offset: usize, number: f64| {
            let mut text = good.clone();
            text[offset..offset + 8].copy_from_slice(&number.to_le_bytes());
            text
        };
        let mut texts = vec![
            b"".to_vec(),
            b"x".to_vec(),
            b"a text that is as long as the state of a bucket!".to_vec(),
            vec![b'x'; good.len()],
            vec![0; good.len()],
            good[..good.len() - 1].to_vec(),
            [&good[..], b"x"].concat(),
            [&good[..], &good[1..]].concat(),
            good.repeat(5),
        ];
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.5] {
            texts.extend([with(0, number), with(8, number)]);
        }
        if algorithm == Algorithm::TokenBucket {
            texts.extend([with(0, 1e300), with(8, 1e300), with(0, 21.0)]);
        }
        for text in texts {
            sent.leave(&charge, &text);
            is_spent(&mut sent, charge, &format!("{text:?}"));
        }
    }
}

#[test]
fn a_log_in_disorder_is_a_spent_key_once_its_oldest_entry_is() {
    let mut sent = Sent::start();
    let charge = charge(Algorithm::SlidingWindow, HOUR);
    let head = |used: f64, count: u16| {
        let numbers = pack(&[used, START as f64, 1.0]);
        [numbers, count.to_le_bytes().to_vec(), pack(&[10.0, 3_600.0 * SECOND as f64])].concat()
    };
    for (last_use, units) in
        [(START as f64 + 1.0, 1.0), (f64::NAN, 1.0), (START as f64, 0.0), (START as f64, f64::NAN)]
    {
        let text = [head(2.0, 1), pack(&[last_use, units])].concat();
        sent.leave(&charge, &text);
        is_spent(&mut sent, charge, &format!("an entry of {last_use}, {units}"));
    }
}

#[test]
fn what_is_no_hash_is_a_spent_key() {
    let mut sent = Sent::start();
    for algorithm in ALGORITHMS {
        let charge = charge(algorithm, HOUR);
        let name = sent.names.key(&charge);
        redis::cmd("SET").arg(&name).arg("x").exec(&mut sent.connection).unwrap();
        sent.charge(START, Charge { mode: Mode::Peek, ..charge });
        is_spent(&mut sent, charge, "a text");
        redis::cmd("DEL").arg(&name).exec(&mut sent.connection).unwrap();
        redis::cmd("RPUSH").arg(&name).arg("x").exec(&mut sent.connection).unwrap();
        sent.correct(START, charge, Change::Reset);
        assert_eq!(sent.charge(START, charge), (0, 9), "{algorithm:?}: a list that is reset");
        sent.correct(START, charge, Change::Reset);
    }
}

#[test]
fn a_key_never_stays_for_ever() {
    let mut sent = Sent::start();
    for algorithm in ALGORITHMS {
        let charge = charge(algorithm, HOUR);
        let name = sent.names.key(&charge);
        for expires in ["inf", "nan", "1e300", "-1", "x", ""] {
            let leave = redis::cmd("HSET").arg(&name).arg("expires").arg(expires).to_owned();
            leave.exec(&mut sent.connection).unwrap();
            assert_eq!(sent.charge(START, charge).0, 0, "{algorithm:?}");
            assert!(sent.ttl(&charge) > 0, "{algorithm:?}: it expires at {expires:?}");
            sent.correct(START, charge, Change::Reset);
        }
    }
}

#[test]
fn another_format_is_neither_read_nor_overwritten() {
    let mut sent = Sent::start();
    for algorithm in ALGORITHMS {
        let charge = charge(algorithm, HOUR);
        let name = sent.names.key(&charge);
        // The first format had no mark.
        let mut field = keys::field(&charge);
        field[8] = keys::algorithm(&charge);
        let write = redis::cmd("HSET").arg(&name).arg(&field).arg("spent").to_owned();
        write.exec(&mut sent.connection).unwrap();
        assert_eq!(sent.charge(START, charge), (0, 9), "{algorithm:?}");
        let read = redis::cmd("HGET").arg(&name).arg(&field).to_owned();
        let text: String = read.query(&mut sent.connection).unwrap();
        assert_eq!(text, "spent", "{algorithm:?}");
    }
}

/// Changes to a text: numbers are replaced, and it is cut or extended.
fn texts() -> impl Strategy<Value = (usize, Vec<(usize, f64)>, Option<usize>, usize)> {
    let odd = prop_oneof![
        any::<f64>(),
        any::<u64>().prop_map(f64::from_bits),
        (0..1_u64 << 53).prop_map(|number| number as f64),
        (0..5_u64).prop_map(|number| (START + number) as f64),
        select(vec![0.0, -1.0, 0.5, 1.0, 10.0, 2_f64.powi(52), 2_f64.powi(53)]),
        select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX]),
    ];
    let changes = vec((any::<usize>(), odd), 0..4);
    (0..3_usize, changes, prop::option::weighted(0.2, any::<usize>()), 1..4_usize)
}

#[test]
fn whatever_is_written_the_script_answers() {
    let mut sent = Sent::start();
    let config = Config { failure_persistence: None, ..Config::with_cases(1_500) };
    let mut good = vec![];
    for algorithm in ALGORITHMS {
        let charge = charge(algorithm, HOUR);
        for number in 0..4 {
            sent.charge(START - 200 * SECOND * (4 - number), charge);
        }
        good.push(sent.text(&charge));
    }
    let sent = std::cell::RefCell::new(sent);
    let result = TestRunner::new(config).run(&texts(), |(which, changes, cut, times)| {
        let mut sent = sent.borrow_mut();
        let mut text = good[which].repeat(times);
        for (offset, number) in changes {
            let numbers = text.len() / 8;
            // Behind the count of a log, numbers are two bytes later.
            let offset = offset % (2 * numbers) * 4 % (text.len() - 8);
            text[offset..offset + 8].copy_from_slice(&number.to_le_bytes());
        }
        text.truncate(cut.map_or(text.len(), |cut| cut % text.len()));
        let one = charge(ALGORITHMS[which], HOUR);
        let other = Charge { quota: Quota::per_minute(3), ..one };
        sent.leave(&one, &text);
        for (now, charge) in [(START, one), (START + SECOND, other), (START + 2 * SECOND, one)] {
            let correction = Correction::new(charge, Change::GiveBack(1));
            let call = ScriptCall::new(&sent.names, &[correction], &[charge])
                .at(time(now), Duration::ZERO);
            let Sent { runtime, asynchronous, .. } = &mut *sent;
            // The script does not check all of a log, so its reply may be rejected; the script never fails.
            match runtime.block_on(call.run(asynchronous)) {
                Ok(answer) => {
                    for usage in &*answer.usages {
                        let longest = 2 * charge.quota.window() + Duration::from_secs(2);
                        assert!(usage.wait() <= longest && usage.reset() <= longest, "{usage:?}");
                    }
                }
                Err(error) => {
                    let is_log = charge.algorithm == Algorithm::SlidingWindow;
                    let is_reply = error.kind() == ErrorKind::UnexpectedReturnType;
                    prop_assert!(is_log && is_reply, "{error}");
                }
            }
        }
        assert!(sent.ttl(&one) > -1);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn what_fuzzing_has_found_stays_an_answer_or_an_error() {
    let found = include_str!("../../../../../tests/fuzz/corpus/replies.hex");
    assert!(found.lines().count() > 50);
    for line in found.lines() {
        let bytes = (0..line.len()).step_by(2);
        let bytes = bytes.map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap());
        replies::replies(&bytes.collect::<Vec<_>>());
    }
}
