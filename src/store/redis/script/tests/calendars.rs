//! Quotas by the calendar: each call gives the script their windows.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::calendar::Weekday;

const HOUR: u64 = 3_600 * SECOND;
/// 2024-02-01 in Shanghai, in microseconds.
const FEBRUARY: u64 = 1_706_716_800 * SECOND;
const MARCH: u64 = FEBRUARY + 29 * 24 * HOUR;

fn month(units: u64) -> Charge {
    charge(Algorithm::FixedWindow, Quota::per_calendar_month(units).in_zone("Asia/Shanghai"))
}

impl Sent {
    /// What the replica takes for the server's time.
    fn guess(&self, micros: u64) {
        self.names.server_time.store(micros, Relaxed);
    }
}

#[test]
fn a_month_ends_by_the_servers_clock_to_the_microsecond() {
    let mut sent = Sent::start();
    for (number, guess) in [
        (0, FEBRUARY),
        (1, FEBRUARY - HOUR),
        (2, FEBRUARY + HOUR),
        (3, FEBRUARY - 400 * 24 * HOUR),
        (4, FEBRUARY + 400 * 24 * HOUR),
        // No server has answered yet.
        (5, 0),
    ] {
        let one = Charge { policy: number, ..month(2) };
        let mut charge = |micros| {
            sent.guess(guess);
            sent.charge(micros, one)
        };
        assert_eq!(charge(FEBRUARY - HOUR), (0, 1), "guessed {guess}");
        assert_eq!(charge(FEBRUARY - 2), (0, 0), "guessed {guess}");
        assert_eq!(charge(FEBRUARY - 1), (1, 0), "guessed {guess}");
        assert_eq!(charge(FEBRUARY), (0, 1), "guessed {guess}");
        assert_eq!(charge(MARCH - 1), (0, 0), "guessed {guess}");
        assert_eq!(charge(FEBRUARY + 1), (MARCH - FEBRUARY - 1, 0), "guessed {guess}");
        assert_eq!(charge(MARCH), (0, 1), "guessed {guess}");
    }
}

/// The replica's own clock does not matter, wherever it stands.
#[test]
fn a_replica_whose_clock_differs_by_an_hour_counts_in_the_servers_month() {
    let server = Server::start();
    let runtime = Runtime::new().unwrap();
    let _in_runtime = runtime.enter();
    let stores = [(); 2].map(|()| Timed::new(RedisStore::builder(server.url())));
    let charge = |store: &Timed, server: u64, replica: u64| {
        store.set(time(server));
        let answer = runtime.block_on(store.0.charge(&[month(2)], time(replica))).unwrap();
        (answer.usages[0].fits(), answer.usages[0].remaining(), answer.usages[0].reset())
    };
    let micros = Duration::from_micros;
    let [early, late] = &stores;
    // One replica has the next month already, and the other is still in the last one.
    assert_eq!(charge(late, FEBRUARY - 1, FEBRUARY + HOUR), (true, 1, micros(1)));
    assert_eq!(charge(early, FEBRUARY - 1, FEBRUARY - HOUR), (true, 0, micros(1)));
    assert_eq!(charge(late, FEBRUARY - 1, FEBRUARY + HOUR), (false, 0, micros(1)));
    let whole = micros(MARCH - FEBRUARY);
    assert_eq!(charge(early, FEBRUARY, FEBRUARY - HOUR), (true, 1, whole));
    assert_eq!(charge(late, FEBRUARY, FEBRUARY + HOUR), (true, 0, whole));
    assert_eq!(charge(early, FEBRUARY, FEBRUARY - HOUR), (false, 0, whole));
}

#[test]
fn a_call_is_made_again_only_where_the_time_was_guessed_wrong() {
    let mut sent = Sent::start();
    let calls = |sent: &mut Sent, micros| {
        let before = sent.server.calls("evalsha");
        sent.charge(micros, month(1_000));
        sent.server.calls("evalsha") - before
    };
    // The script is not there yet.
    calls(&mut sent, FEBRUARY);
    sent.guess(0);
    assert_eq!(calls(&mut sent, FEBRUARY), 2);
    for micros in [FEBRUARY + 1, FEBRUARY - 1, MARCH, MARCH + HOUR, MARCH + 20 * 24 * HOUR] {
        assert_eq!(calls(&mut sent, micros), 1, "at {micros}");
    }
    assert_eq!(calls(&mut sent, MARCH + 200 * 24 * HOUR), 2);
    assert_eq!(calls(&mut sent, MARCH + 201 * 24 * HOUR), 1);
}

#[test]
fn a_plan_by_the_calendar_counts_what_another_plan_uses() {
    let mut sent = Sent::start();
    let year =
        charge(Algorithm::FixedWindow, Quota::per_window(9, Duration::from_secs(31_536_000)));
    let week = charge(
        Algorithm::FixedWindow,
        Quota::per_calendar_week(3).anchor(Weekday::Sunday).in_zone("Europe/Berlin"),
    );
    assert_eq!(sent.charge(FEBRUARY, week), (0, 2));
    assert_eq!(sent.charge(FEBRUARY, year), (0, 7));
    // The week is over. What is used under the other plan counts in the next.
    let next = FEBRUARY + 7 * 24 * HOUR;
    assert_eq!(sent.charge(next, year), (0, 6));
    assert_eq!(sent.charge(next, week), (0, 1));
    assert_eq!(sent.charge(next + 1, year), (0, 4));
    // The script has asked for the week's windows only once.
    let before = sent.server.calls("evalsha");
    sent.charge(next + 2, Charge { cost: 9, ..year });
    sent.charge(next + 3, Charge { cost: 9, ..year });
    assert_eq!(sent.server.calls("evalsha") - before, 2);
}

#[test]
fn a_calendar_that_this_process_does_not_know_is_dropped_when_its_window_is_over() {
    let mut sent = Sent::start();
    let year =
        charge(Algorithm::FixedWindow, Quota::per_window(9, Duration::from_secs(31_536_000)));
    let (name, field) = (sent.names.key(&year), keys::field(&year));
    let start = FEBRUARY - FEBRUARY % (31_536_000 * SECOND);
    let unknown = (numbers::MAX_WINDOW_MICROS + 1 + (77 << 2) + 2) as f64;
    let text: Vec<u8> = [
        [start as f64, 2.0, 9.0, 31_536_000.0 * SECOND as f64].to_vec(),
        [FEBRUARY as f64, 2.0, 5.0, unknown, MARCH as f64].to_vec(),
    ]
    .concat()
    .iter()
    .flat_map(|number| number.to_le_bytes())
    .collect();
    redis::cmd("HSET").arg(&name).arg(&field).arg(&text).exec(&mut sent.connection).unwrap();
    let length = |sent: &mut Sent| -> usize {
        redis::cmd("HSTRLEN").arg(&name).arg(&field).query(&mut sent.connection).unwrap()
    };
    assert_eq!(sent.charge(FEBRUARY, year), (0, 6));
    assert_eq!(length(&mut sent), 72, "it counts as long as its window lasts");
    assert_eq!(sent.charge(MARCH - 1, year), (0, 5));
    assert_eq!(sent.charge(MARCH, year), (0, 4));
    assert_eq!(length(&mut sent), 32);
}

/// Two replicas may have rules of different releases of the time-zone database.
#[test]
fn a_window_that_has_begun_never_begins_again() {
    let mut sent = Sent::start();
    let all = Charge { cost: 5, ..month(5) };
    assert_eq!(sent.charge(FEBRUARY, all), (0, 0));
    // For the other replica, the month has begun two hours later.
    let (name, field) = (sent.names.key(&all), keys::field(&all));
    let text: Vec<u8> =
        redis::cmd("HGET").arg(&name).arg(&field).query(&mut sent.connection).unwrap();
    let later = (FEBRUARY + 2 * HOUR) as f64;
    let text = [&later.to_le_bytes()[..], &text[8..]].concat();
    redis::cmd("HSET").arg(&name).arg(&field).arg(&text).exec(&mut sent.connection).unwrap();
    for hours in [2, 3, 28 * 24] {
        let (wait, left) = sent.charge(FEBRUARY + hours * HOUR, Charge { cost: 1, ..all });
        assert_eq!((wait, left), (MARCH - FEBRUARY - hours * HOUR, 0));
    }
    sent.correct(FEBRUARY + 3 * HOUR, all, Change::GiveBack(1));
    let kept: Vec<u8> =
        redis::cmd("HGET").arg(&name).arg(&field).query(&mut sent.connection).unwrap();
    assert_eq!(kept[..8], later.to_le_bytes());
}

#[test]
fn a_correction_after_the_window_changes_nothing() {
    let mut sent = Sent::start();
    let one = month(5);
    sent.charge(FEBRUARY - 1, Charge { cost: 3, ..one });
    sent.charge(FEBRUARY, Charge { cost: 3, ..one });
    let give_back = |at: u64| Correction {
        charged_at: Some(time(at)),
        ..Correction::new(Charge { cost: 3, ..one }, Change::GiveBack(3))
    };
    for (at, left) in [(FEBRUARY - 1, 2), (FEBRUARY, 5)] {
        let call = ScriptCall::new(&sent.names, &[give_back(at)], &[]);
        let answer = sent.run(&call.at(time(FEBRUARY + 1), Duration::ZERO));
        assert_eq!(answer.usages[0].remaining(), left);
    }
}

#[test]
fn a_clock_set_back_over_the_edge_grants_nothing() {
    let mut sent = Sent::start();
    let all = Charge { cost: 5, ..month(5) };
    let one = Charge { cost: 1, ..all };
    assert_eq!(sent.charge(FEBRUARY, all), (0, 0));
    // A little: it stays the window that has begun. More: what was used is used in the month of now.
    assert_eq!(sent.charge(FEBRUARY - SECOND, one), (MARCH - FEBRUARY + SECOND, 0));
    assert_eq!(sent.charge(FEBRUARY - HOUR, one), (HOUR, 0));
    assert_eq!(sent.charge(FEBRUARY - 1, one), (1, 0));
}

#[test]
fn what_cannot_be_read_of_a_calendar_is_a_spent_key() {
    let mut sent = Sent::start();
    let one = month(10);
    sent.charge(FEBRUARY, one);
    let (name, field) = (sent.names.key(&one), keys::field(&one));
    let good: Vec<u8> =
        redis::cmd("HGET").arg(&name).arg(&field).query(&mut sent.connection).unwrap();
    assert_eq!(good.len(), 40);
    let with = |offset: usize, number: f64| {
        let mut text = good.clone();
        text[offset..offset + 8].copy_from_slice(&number.to_le_bytes());
        text
    };
    let mut texts = vec![good[..39].to_vec(), good[..32].to_vec(), good.repeat(5), vec![0; 40]];
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.5, 1e300] {
        texts.extend([with(0, number), with(8, number), with(24, number), with(32, number)]);
        texts.extend([with(24, number).repeat(2), with(32, number).repeat(2)]);
    }
    texts.push(with(32, FEBRUARY as f64));
    for text in texts {
        redis::cmd("HSET").arg(&name).arg(&field).arg(&text).exec(&mut sent.connection).unwrap();
        assert_eq!(sent.charge(FEBRUARY + 1, one), (MARCH - FEBRUARY - 1, 0), "{text:?}");
        assert_eq!(sent.charge(MARCH - 1, one), (1, 0), "{text:?}");
        assert_eq!(sent.charge(MARCH, one), (0, 9), "{text:?}");
        sent.correct(MARCH, one, Change::Reset);
    }
}

#[test]
fn a_count_is_kept_until_the_month_ends() {
    let mut sent = Sent::start();
    sent.charge(MARCH - 100 * SECOND, month(5));
    let ttl = sent.ttl(&month(5));
    assert!((124_000..=125_002).contains(&ttl), "{ttl} ms");
}
