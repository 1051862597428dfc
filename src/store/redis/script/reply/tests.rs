//! What a reply says of a state, and that any other reply is an error.

use std::slice;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

fn expected(algorithm: Algorithm) -> ExpectedReply {
    let quota = if algorithm == Algorithm::TokenBucket {
        Quota::per_window(1, Duration::from_nanos(10)).burst(6)
    } else {
        Quota::per_window(6, Duration::from_nanos(60))
    };
    ExpectedReply { algorithm, quota, required: 2, lease: 0, has_penalty: false, only_looks: false }
}

/// Packs a state as the script does.
fn pack(fits: u8, numbers: &[u64]) -> Vec<u8> {
    let numbers = numbers.iter().flat_map(|number| (*number as f64).to_le_bytes());
    [fits].into_iter().chain(numbers).collect()
}

fn log(fits: u8, newest: [u64; 2], older: &[u64]) -> Vec<u8> {
    let used = older.chunks(2).map(|entry| entry[1]).sum::<u64>() + newest[1];
    let count = (older.len() as u16 / 2).to_le_bytes().to_vec();
    let older = pack(0, older).split_off(1);
    let quota = pack(0, &[6, 60]).split_off(1);
    [pack(fits, &[used, newest[0], newest[1]]), count, quota, older].concat()
}

/// Reads one state of a reply at 610 microseconds.
fn read_one(expected: &ExpectedReply, reply: &[u8]) -> Option<(u64, u64, u64)> {
    let answer = read(slice::from_ref(expected), &[&pack(0, &[610])[1..], reply].concat())?;
    assert_eq!(answer.at.unix(), Duration::from_micros(610));
    let usage = answer.usages[0];
    let [wait, reset] = [usage.wait(), usage.reset()].map(|time| time.as_micros() as u64);
    Some((wait, usage.remaining(), reset))
}

#[test]
fn a_state_is_told_as_what_it_means() {
    let bucket = expected(Algorithm::TokenBucket);
    // Five units and a half: a unit is back every ten microseconds.
    assert_eq!(read_one(&bucket, &pack(0, &[5, 5, 0, 0, 0, 0])), Some((15, 0, 5)));
    assert_eq!(read_one(&bucket, &pack(1, &[5, 0, 0, 0, 0, 0])), Some((0, 1, 10)));
    let window = expected(Algorithm::FixedWindow);
    assert_eq!(read_one(&window, &pack(0, &[600, 5, 6, 60])), Some((50, 1, 50)));
    assert_eq!(read_one(&window, &pack(1, &[600, 5, 6, 60])), Some((0, 1, 50)));
    let sliding = expected(Algorithm::SlidingWindow);
    assert_eq!(read_one(&sliding, &log(0, [590, 4], &[570, 1])), Some((20, 1, 20)));
    assert_eq!(read_one(&sliding, &log(1, [0, 0], &[])), Some((0, 6, 0)));
    let lease = ExpectedReply { lease: 3, ..window.clone() };
    assert_eq!(read_one(&lease, &pack(1, &[3, 600, 5, 6, 60])), Some((0, 4, 50)));
    let penalized = ExpectedReply { has_penalty: true, ..window };
    assert_eq!(read_one(&penalized, &pack(1, &[0, 600, 5, 6, 60])), Some((0, 1, 50)));
    assert_eq!(read_one(&penalized, &pack(0, &[70, 600, 5, 6, 60])), Some((70, 0, 70)));
    assert_eq!(read_one(&penalized, &pack(0, &[20, 600, 5, 6, 60])), Some((50, 0, 50)));
    // The server decides: a charge that did not fit there does not pass.
    let free = pack(0, &[0; 6]);
    assert!(!read(&[bucket], &[&[0; NUMBER][..], &free].concat()).unwrap().usages[0].fits());
}

#[test]
fn an_answer_that_is_none_is_an_error() {
    for (algorithm, good) in [
        (Algorithm::TokenBucket, pack(1, &[12, 0, 610, 1, 10, 6])),
        (Algorithm::FixedWindow, pack(1, &[600, 12, 6, 60])),
        (Algorithm::SlidingWindow, log(0, [610, 4], &[551, 1, 551, MAX_COUNT - 5])),
    ] {
        let expected = expected(algorithm);
        assert!(read_one(&expected, &good).is_some());
        for length in 0..good.len() {
            assert_eq!(read_one(&expected, &good[..length]), None, "{algorithm:?}: {length}");
        }
        assert_eq!(read_one(&expected, &[&good[..], &[0]].concat()), None);
        assert_eq!(read_one(&expected, &[&[2], &good[1..]].concat()), None);
    }
    for number in [-1.0, 0.5, f64::NAN, f64::INFINITY, (EXACT + 2) as f64] {
        assert!(read(&[], &number.to_le_bytes()).is_none(), "{number}");
    }
    for length in 0..NUMBER {
        assert!(read(&[], &[0; NUMBER][..length]).is_none());
    }
}

#[test]
fn a_state_that_the_script_cannot_have_written_is_an_error() {
    let of = expected;
    for (what, expected, reply) in [
        ("a debt beyond a bucket", of(Algorithm::TokenBucket), pack(0, &[12, 1, 0, 0, 0, 0])),
        ("more than a unit as a rest", of(Algorithm::TokenBucket), pack(0, &[1, 10, 0, 0, 0, 0])),
        ("a window that is over", of(Algorithm::FixedWindow), pack(0, &[550, 1, 6, 60])),
        ("a window far ahead", of(Algorithm::FixedWindow), pack(0, &[2_000_611, 1, 6, 60])),
        ("more than is counted", of(Algorithm::FixedWindow), pack(0, &[600, MAX_COUNT + 1, 6, 60])),
        ("a use to come", of(Algorithm::SlidingWindow), log(0, [611, 1], &[])),
        ("a use that is over", of(Algorithm::SlidingWindow), log(0, [610, 1], &[550, 1])),
        ("a log out of order", of(Algorithm::SlidingWindow), log(0, [560, 9], &[600, 1])),
        ("one that is over", of(Algorithm::SlidingWindow), log(0, [540, 9], &[600, 1])),
        ("an entry of nothing", of(Algorithm::SlidingWindow), log(0, [610, 1], &[600, 0])),
        ("more than can be counted", of(Algorithm::SlidingWindow), log(0, [610, EXACT], &[])),
        (
            "more than was asked for",
            ExpectedReply { lease: 3, ..of(Algorithm::FixedWindow) },
            pack(1, &[4, 600, 1, 6, 60]),
        ),
        (
            "a block of what fits",
            ExpectedReply { has_penalty: true, ..of(Algorithm::FixedWindow) },
            pack(1, &[1, 600, 5, 6, 60]),
        ),
        (
            "a block longer than any",
            ExpectedReply { has_penalty: true, ..of(Algorithm::FixedWindow) },
            pack(0, &[LONGEST_BLOCK + 1, 600, 5, 6, 60]),
        ),
        (
            "more than there is",
            ExpectedReply { lease: 3, ..of(Algorithm::FixedWindow) },
            pack(1, &[3, 600, 2, 6, 60]),
        ),
    ] {
        assert_eq!(read_one(&expected, &reply), None, "{what}");
    }
    let mut sum = log(0, [610, 2], &[600, 1]);
    sum[1..9].copy_from_slice(&2.0_f64.to_le_bytes());
    assert_eq!(read_one(&of(Algorithm::SlidingWindow), &sum), None, "units that are in no entry");
}

fn anything() -> impl Strategy<Value = ExpectedReply> {
    let size = |most: u64| prop_oneof![Just(1), 1..20_u64, 1..=most, Just(most)];
    let most = super::super::numbers::MAX_WINDOW_MICROS;
    let sizes = (size(999_999_999_999_999), size(most));
    (select(ALGORITHMS.to_vec()), sizes, 0..30_u64, 0..3_u64, any::<bool>()).prop_map(
        |(algorithm, (units, window), required, lease, has_penalty)| {
            let quota = Quota::per_window(units, Duration::from_micros(window));
            let quota =
                super::super::numbers::Rate::new(algorithm, &quota).quota(algorithm, &quota);
            ExpectedReply {
                algorithm,
                quota,
                required,
                lease: lease * 10,
                has_penalty,
                only_looks: false,
            }
        },
    )
}

/// A state that the script can have written, from some numbers.
fn state(expected: &ExpectedReply, micros: u64, numbers: &[u64]) -> Vec<u8> {
    let (capacity, window) =
        (expected.algorithm.capacity(&expected.quota), expected.quota.window_nanos());
    let at = |index: usize| numbers[index % numbers.len()];
    let each = (capacity / 8).max(1);
    let used = match expected.algorithm {
        Algorithm::SlidingWindow => 8 * each,
        _ => at(1) % (2 * capacity + 1),
    };
    let lease = at(0) % (expected.lease.min(used).min(capacity) + 1);
    let mut reply = pack((at(2) % 2) as u8, &[]);
    let push = |reply: &mut Vec<u8>, numbers: &[u64]| reply.extend(&pack(0, numbers)[1..]);
    if expected.lease > 0 {
        push(&mut reply, &[lease]);
    }
    if expected.has_penalty {
        let block = if reply[0] == 0 { at(4) % 3 * (at(5) % (LONGEST_BLOCK / 2)) } else { 0 };
        push(&mut reply, &[block]);
    }
    match expected.algorithm {
        Algorithm::TokenBucket => {
            let rest =
                if used < 2 * capacity { at(3) % expected.quota.parts_per_unit() } else { 0 };
            push(&mut reply, &[used, rest, micros, 0, 0, 0]);
        }
        Algorithm::FixedWindow => {
            push(&mut reply, &[micros - micros % window, used, capacity, window]);
        }
        Algorithm::SlidingWindow => {
            let since = micros.saturating_sub(window - 1);
            let each_use = numbers.iter().map(|number| since + number % (micros - since + 1));
            let mut uses: Vec<u64> = each_use.collect();
            uses.sort_unstable();
            let newest = uses.pop().unwrap();
            push(&mut reply, &[used, newest, each]);
            reply.extend((uses.len() as u16).to_le_bytes());
            push(&mut reply, &[capacity, window]);
            uses.iter().for_each(|last_use| push(&mut reply, &[*last_use, each]));
        }
        Algorithm::InFlight => push(&mut reply, &[used]),
    }
    reply
}

/// What a broken server does to a reply.
#[derive(Clone, Debug)]
enum Disorder {
    Byte(usize, u8),
    Number(usize, f64),
    Swap(usize, usize),
    Cut(usize),
    More(Vec<u8>),
}

fn disorder() -> impl Strategy<Value = Disorder> {
    let odd = prop_oneof![
        any::<f64>(),
        any::<u64>().prop_map(f64::from_bits),
        (0..=EXACT).prop_map(|number| number as f64),
        select(vec![0.0, -0.0, -1.0, 0.5, 1.0, 2_f64.powi(52), 2_f64.powi(53), 2_f64.powi(64)]),
        select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE]),
    ];
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(index, byte)| Disorder::Byte(index, byte)),
        (any::<usize>(), odd).prop_map(|(index, number)| Disorder::Number(index, number)),
        any::<(usize, usize)>().prop_map(|(one, other)| Disorder::Swap(one, other)),
        any::<usize>().prop_map(Disorder::Cut),
        vec(any::<u8>(), 1..20).prop_map(Disorder::More),
    ]
}

impl Disorder {
    /// Numbers begin after the time and a byte.
    fn number(index: usize, reply: &[u8]) -> Option<std::ops::Range<usize>> {
        let count = reply.len().checked_sub(NUMBER + 1)? / NUMBER;
        let begins = (index % (count + 1)).checked_sub(1).map_or(0, |index| 9 + index * NUMBER);
        Some(begins..begins + NUMBER).filter(|range| range.end <= reply.len())
    }

    fn befalls(&self, reply: &mut Vec<u8>) {
        match self {
            Self::Byte(index, byte) => {
                let length = reply.len().max(1);
                if let Some(at) = reply.get_mut(index % length) {
                    *at = *byte;
                }
            }
            Self::Number(index, number) => {
                if let Some(range) = Self::number(*index, reply) {
                    reply[range].copy_from_slice(&number.to_le_bytes());
                }
            }
            Self::Swap(one, other) => {
                if let (Some(one), Some(other)) =
                    (Self::number(*one, reply), Self::number(*other, reply))
                {
                    let before = reply[one.clone()].to_vec();
                    reply.copy_within(other.clone(), one.start);
                    reply[other].copy_from_slice(&before);
                }
            }
            Self::Cut(index) => reply.truncate(index % (reply.len() + 1)),
            Self::More(bytes) => reply.extend(bytes),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn what_the_script_writes_is_an_answer(
        expected in vec(anything(), 0..4),
        micros in 0..EXACT / 4,
        numbers in vec(any::<u64>(), 8),
    ) {
        let states = expected.iter().flat_map(|expected| state(expected, micros, &numbers));
        let reply: Vec<u8> = (micros as f64).to_le_bytes().into_iter().chain(states).collect();
        let answer = read(&expected, &reply);
        prop_assert!(answer.is_some());
        check(&expected, &answer.unwrap());
    }

    #[test]
    fn any_disorder_is_an_error_or_an_answer_that_can_be_true(
        expected in vec(anything(), 0..4),
        micros in 0..EXACT / 4,
        numbers in vec(any::<u64>(), 8),
        disorders in vec(disorder(), 1..6),
    ) {
        let states = expected.iter().flat_map(|expected| state(expected, micros, &numbers));
        let mut reply: Vec<u8> = (micros as f64).to_le_bytes().into_iter().chain(states).collect();
        disorders.iter().for_each(|disorder| disorder.befalls(&mut reply));
        if let Some(answer) = read(&expected, &reply) {
            check(&expected, &answer);
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_an_answer_that_can_be_true(
        expected in vec(anything(), 0..4),
        reply in vec(any::<u8>(), 0..400),
    ) {
        if let Some(answer) = read(&expected, &reply) {
            check(&expected, &answer);
        }
    }
}
