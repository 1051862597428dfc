//! Three replicas that hold units in flight, a fault, and how many were held at once.

use std::{
    collections::HashMap,
    io::BufRead,
    ops::Range,
    process::Child,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::Duration,
};

use common::redis::wait_for;
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    holder::{Event, Holding, KEYS, UNITS, key_of},
    replica::{Role, micros},
    stage::{REPLICAS, Replica, Row, start},
};

/// A replica that was cut off has a new connection by then: probes are no further apart.
pub const RECONNECTED: Duration = Duration::from_millis(500);
/// The replica that fails, if one does.
pub const FIRST: usize = 0;
/// No replica.
pub const NONE: usize = REPLICAS;

/// Replicas at work. They are killed when dropped.
pub struct Holders {
    replicas: Vec<Holder>,
    timeout: Duration,
    fault: Range<u64>,
}

struct Holder {
    process: Child,
    events: Arc<Mutex<Vec<Event>>>,
    reader: Option<JoinHandle<()>>,
    /// When it was killed, in microseconds since 1970.
    killed: Option<u64>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A unit that was held, as its replica reports it. Times are microseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    pub replica: usize,
    pub key: usize,
    pub asked: u64,
    pub from: u64,
    pub until: u64,
}

impl Holder {
    /// Reads all that it prints at once, because a full pipe would stop it.
    fn new((process, stdout): Replica) -> Self {
        let events = Arc::default();
        let read: Arc<Mutex<Vec<Event>>> = Arc::clone(&events);
        let read = move || {
            for line in stdout.lines() {
                // One that was killed may have printed half of a line.
                let Ok(event) = serde_json::from_str(&line.unwrap()) else { break };
                read.lock().unwrap().push(event);
            }
        };
        Self { process, events, reader: Some(thread::spawn(read)), killed: None }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

impl Holders {
    /// Returns when each key's units were all held at once.
    pub fn start(orders: impl Fn(usize) -> Holding) -> Self {
        let replicas = start((0..REPLICAS).map(|place| Role::Holds(orders(place))));
        let replicas = replicas.into_iter().map(Holder::new).collect();
        let (timeout, now) = (orders(0).timeout, micros());
        let holders = Self { replicas, timeout, fault: now..now };
        holders.until_full(NONE);
        holders
    }

    pub fn fault_has_begun(&mut self) {
        self.fault = micros()..micros();
    }

    pub fn fault_has_ended(&mut self) {
        self.fault.end = micros();
    }

    /// Stops the first replica where it is (SIGSTOP) while it holds units of each key, and begins the
    /// fault.
    pub fn stop_one(&mut self) {
        wait_for("a replica that holds units of each key", || {
            self.replicas[FIRST].signal(Signal::STOP);
            let at = micros();
            // Until it has stopped, and all that it has printed is read.
            thread::sleep(Duration::from_millis(30));
            let held = held_at(&self.spans(), FIRST, at);
            if held.iter().all(|held| *held > 0) {
                self.fault = at..at;
                return Some(());
            }
            self.replicas[FIRST].signal(Signal::CONT);
            None
        });
    }

    pub fn resume_one(&mut self) {
        self.replicas[FIRST].signal(Signal::CONT);
        self.fault_has_ended();
    }

    /// Ends the first replica, which [has stopped](Self::stop_one), without a chance to tidy up.
    pub fn kill_one(&mut self) {
        let stopped = &mut self.replicas[FIRST];
        stopped.process.kill().unwrap();
        stopped.killed = Some(self.fault.start);
    }

    /// Waits until all other replicas have held all units of each key at once since the fault.
    pub fn until_full(&self, without: usize) {
        wait_for("all units to be held again", || {
            let full = full_since(&self.spans(), self.fault.end, without)?;
            (full <= self.known_until(without)).then_some(())
        });
    }

    /// Waits until the first replica holds units of each key for long requests.
    pub fn until_long(&self) {
        wait_for("long requests", || {
            let goes_on = |span: &&Span| span.until == u64::MAX && span.from + 200_000 < micros();
            let long: Vec<_> = self.spans().iter().filter(goes_on).copied().collect();
            let held = held_at(&long, FIRST, micros());
            held.iter().all(|held| *held > 0).then_some(())
        });
    }

    /// The time until which all that other replicas held is known: each has printed a later line.
    fn known_until(&self, without: usize) -> u64 {
        let others = self.replicas.iter().enumerate().filter(|(place, _)| *place != without);
        let others = others.filter(|(_, holder)| holder.killed.is_none());
        let last = |holder: &Holder| holder.events.lock().unwrap().iter().map(Event::at).max();
        let last = others.map(|(_, holder)| last(holder).unwrap_or(0)).min().unwrap();
        // Two threads of a replica may print two lines in the wrong order.
        last.saturating_sub(50_000)
    }

    fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for (replica, holder) in self.replicas.iter().enumerate() {
            let mut open = HashMap::new();
            for event in &*holder.events.lock().unwrap() {
                match *event {
                    Event::Entered { caller, asked, at } => {
                        let (key, until) = (key_of(caller), holder.killed.unwrap_or(u64::MAX));
                        open.insert(caller, Span { replica, key, asked, from: at, until });
                    }
                    Event::Left { caller, at } => {
                        spans.extend(open.remove(&caller).map(|span| Span { until: at, ..span }));
                    }
                    _ => {}
                }
            }
            spans.extend(open.into_values());
        }
        spans
    }

    /// Lets the replicas come to an end.
    pub fn end(mut self) -> Held {
        for holder in &mut self.replicas {
            drop(holder.process.stdin.take());
        }
        for holder in &mut self.replicas {
            let is_well = holder.process.wait().unwrap().success();
            assert!(is_well || holder.killed.is_some());
            holder.reader.take().unwrap().join().unwrap();
        }
        let (mut unavailable, mut lateness) = (Vec::new(), Duration::ZERO);
        for holder in &self.replicas {
            for event in &*holder.events.lock().unwrap() {
                match event {
                    Event::Unavailable { at } => unavailable.push(*at),
                    // One that was stopped knows of no other lateness.
                    Event::Lateness(late) if *late < self.timeout => lateness = lateness.max(*late),
                    _ => {}
                }
            }
        }
        let (spans, fault) = (self.spans(), self.fault.clone());
        Held { spans, fault, unavailable, lateness, timeout: self.timeout }
    }
}

/// All that was held.
pub struct Held {
    spans: Vec<Span>,
    /// In microseconds since 1970, as all times here.
    pub fault: Range<u64>,
    unavailable: Vec<u64>,
    lateness: Duration,
    timeout: Duration,
}

impl Held {
    /// How often a replica states what it holds.
    pub fn statement(&self) -> Duration {
        self.timeout / 5
    }

    /// How soon a statement restores what was lost. A busy machine may lose one more statement.
    pub fn put_right_in(&self) -> Duration {
        RECONNECTED + 2 * self.statement()
    }

    /// How late anything may be on this machine.
    fn late(&self) -> Duration {
        Duration::from_millis(500) + 3 * self.lateness
    }

    /// The most units of a key at once.
    pub fn most(&self, key: usize) -> u64 {
        counts(&self.spans, key, NONE).map(|(_, held)| held).max().unwrap_or(0)
    }

    /// Never more were held than may be.
    pub fn keeps_the_limit(&self) -> &Self {
        self.exceeds_by_at_most([0; KEYS])
    }

    /// Never more than so many beyond what may be held.
    pub fn exceeds_by_at_most(&self, excess: [u64; KEYS]) -> &Self {
        for (key, excess) in excess.into_iter().enumerate() {
            let most = self.most(key);
            assert!(most <= UNITS + excess, "{most} at once of key {key}, of {UNITS} and {excess}");
        }
        self
    }

    /// More were held than may be, which shows that the fault has happened.
    pub fn exceeds(&self) -> &Self {
        assert!((0..KEYS).any(|key| self.most(key) > UNITS), "others take what is free");
        self
    }

    /// From this long after the fault on, no request enters while the limit is reached.
    pub fn enters_no_more_after(&self, time: Duration) -> &Self {
        let since = self.fault.end + micros_of(time + self.late());
        for key in 0..KEYS {
            let mut before = 0;
            for (at, held) in counts(&self.spans, key, NONE) {
                assert!(at < since || held < before || held <= UNITS, "{held} of key {key}");
                before = held;
            }
        }
        self
    }

    /// What replicas held then of each key, and were about to hold: this one, or all.
    pub fn held_at(&self, replica: usize, at: u64) -> [u64; KEYS] {
        held_at(&self.spans, replica, at)
    }

    /// How many units were taken after one time, and held at another one.
    pub fn taken_since(&self, since: u64, at: u64) -> [u64; KEYS] {
        let later: Vec<_> = self.spans.iter().filter(|span| span.from > since).copied().collect();
        held_at(&later, NONE, at)
    }

    /// From the fault until all units of each key were held at once by replicas but this one.
    pub fn healed(&self, since: u64, without: usize) -> Duration {
        let full = full_since(&self.spans, since, without).expect("it was waited for");
        Duration::from_micros(full - since)
    }

    /// The report of a fault, if it was healed in time.
    pub fn row(&self, fault: &'static str, healed: Duration, in_time: Duration) -> Row {
        let late = self.late();
        assert!(healed <= in_time + late, "{healed:?}, more than {in_time:?} and {late:?}");
        let met = self.unavailable.iter().filter(|at| **at >= self.fault.start).count();
        let seen = format!("503 for {met}");
        let most = (0..KEYS).map(|key| self.most(key)).max().unwrap();
        Row { fault, seen, admitted: format!("{most} at most"), healed: Some(healed) }
    }
}

/// How many units of a key were held after each change, by replicas but this one.
fn counts(spans: &[Span], key: usize, without: usize) -> impl Iterator<Item = (u64, u64)> {
    let is_counted =
        |span: &&Span| span.key == key && span.replica != without && span.from < span.until;
    let counted = spans.iter().filter(is_counted);
    let mut changes: Vec<_> =
        counted.flat_map(|span| [(span.from, true), (span.until, false)]).collect();
    // At one moment, units that come back are counted before those that are taken.
    changes.sort_unstable();
    let mut held = 0;
    changes.into_iter().map(move |(at, enters)| {
        held = if enters { held + 1 } else { held - 1 };
        (at, held)
    })
}

/// When, since then, all units of each key had been held at once by replicas but this one.
fn full_since(spans: &[Span], since: u64, without: usize) -> Option<u64> {
    let of_key = |key| {
        let mut before = 0;
        for (at, held) in counts(spans, key, without) {
            if at >= since && before >= UNITS {
                return Some(since);
            }
            if at >= since && held >= UNITS {
                return Some(at);
            }
            before = held;
        }
        None
    };
    (0..KEYS).map(of_key).try_fold(since, |last, full| Some(last.max(full?)))
}

/// What a replica, or all of them, held then of each key, or was about to hold: its caller had asked.
fn held_at(spans: &[Span], replica: usize, at: u64) -> [u64; KEYS] {
    let is_held = |span: &&Span| {
        let is_its = replica == NONE || span.replica == replica;
        is_its && span.asked <= at && at < span.until
    };
    let mut held = [0; KEYS];
    spans.iter().filter(is_held).for_each(|span| held[span.key] += 1);
    held
}

fn micros_of(time: Duration) -> u64 {
    time.as_micros() as u64
}

/// An excess is found.
pub fn the_checks_see_what_is_too_much() {
    let span = |replica, from, until| Span { replica, key: 0, asked: from - 1, from, until };
    let spans = |each: &[(usize, u64, u64)]| -> Vec<Span> {
        each.iter().map(|&(replica, from, until)| span(replica, from, until)).collect()
    };
    let most = |each| counts(&spans(each), 0, NONE).map(|(_, held)| held).max();
    assert_eq!(most(&[(0, 1, 5), (1, 5, 9), (2, 9, 12)]), Some(1), "who leaves goes first");
    assert_eq!(most(&[(0, 1, 6), (1, 5, 10), (2, 9, 12)]), Some(2));
    assert_eq!(most(&[(0, 1, u64::MAX), (1, 5, 7), (2, 6, 8)]), Some(3));
    let held = spans(&[(0, 10, 20), (1, 10, 20), (0, 15, 16)]);
    assert_eq!(held_at(&held, 0, 15)[0], 2);
    assert_eq!(held_at(&held, 0, 9)[0], 1, "it has asked");
    assert_eq!(held_at(&held, NONE, 19)[0], 2);
}
