//! What was decided about the requests of a log: [`Tally`], by policy, key and minute.

use std::sync::Arc;

use ahash::AHashMap;
use http::request::Parts;
use tower_quota::{Decision, Outcome, Reason};

use crate::{engine::Witness, keys::KeyReader, log::Log, subject::Subject};

const MINUTE: u64 = 60_000_000_000;

/// Requests that passed, and that were refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: u64,
    pub refused: u64,
}

/// Counts by minutes since 1970, in order; minutes without a request are left out.
pub type Minutes = Vec<(u64, Counts)>;

/// What all policies have done.
pub struct Tally {
    log: Arc<Log>,
    pub all: Counts,
    /// Requests that no policy counts.
    pub uncounted: u64,
    /// Requests that waited before they were decided, and the longest wait.
    pub held: u64,
    pub longest_hold: u64,
    /// Requests that were refused for another reason than a policy's: blocked callers.
    pub blocked: u64,
    pub minutes: Minutes,
    pub policies: Vec<PolicyTally>,
}

/// What one policy has done.
pub struct PolicyTally {
    pub name: String,
    pub is_dry_run: bool,
    readers: Vec<KeyReader>,
    shows_keys: bool,
    /// Requests that it has counted, or that it refused.
    pub all: Counts,
    /// Of those refused: for a missing or an unreadable key, and in a block of the policy's penalty.
    pub without_key: u64,
    pub unreadable: u64,
    pub penalized: u64,
    pub minutes: Minutes,
    pub keys: Vec<KeyTally>,
    /// The numbers of keys by their bytes, for each kind of key.
    known: Vec<AHashMap<Box<[u8]>, u32>>,
    /// The numbers of keys by address and headers, for kinds of keys that depend on nothing else.
    senders: Vec<AHashMap<u64, Option<u32>>>,
    /// Each request that was counted: its line, and its key.
    pub counted: Vec<(u32, u32)>,
}

/// What one policy has done to one key.
#[derive(Clone, Debug)]
pub struct KeyTally {
    pub kind: String,
    pub text: String,
    pub all: Counts,
    pub first_refused: Option<u64>,
    /// The minute with the most requests.
    pub busiest: (u64, u64),
    /// The minute of the last request, and the requests in it.
    current: (u64, u64),
}

impl Tally {
    pub fn new(log: &Arc<Log>, subject: &Subject, shows_keys: bool) -> Self {
        let seen =
            subject.limits.policies.iter().filter(|(name, _)| !subject.unseen.contains_key(*name));
        let policies = seen.map(|(name, policy)| PolicyTally {
            name: name.clone(),
            is_dry_run: policy.dry_run,
            readers: subject.readers(policy),
            shows_keys,
            all: Counts::default(),
            without_key: 0,
            unreadable: 0,
            penalized: 0,
            minutes: Vec::new(),
            keys: Vec::new(),
            known: vec![AHashMap::new(); policy.keys.len().max(1)],
            senders: vec![AHashMap::new(); policy.keys.len()],
            counted: Vec::new(),
        });
        Self {
            log: Arc::clone(log),
            all: Counts::default(),
            uncounted: 0,
            held: 0,
            longest_hold: 0,
            blocked: 0,
            minutes: Vec::new(),
            policies: policies.collect(),
        }
    }
}

impl Witness for Tally {
    fn decided(&mut self, line: u32, decision: &Decision) {
        let start = self.log.lines[line as usize].start;
        let minute = start / MINUTE;
        let is_allowed = decision.is_allowed();
        add(&mut self.all, is_allowed);
        add_to(&mut self.minutes, minute, is_allowed);
        let held = u64::try_from(decision.held().as_nanos()).unwrap_or(u64::MAX);
        self.held += u64::from(held > 0);
        self.longest_hold = self.longest_hold.max(held);
        self.blocked += u64::from(decision.reason() == Some(Reason::Blocked));
        let mut outcomes = decision.outcomes().chain(decision.dry_runs()).peekable();
        self.uncounted += u64::from(is_allowed && outcomes.peek().is_none());
        for outcome in outcomes {
            // There are few policies.
            let policy = self.policies.iter_mut().find(|policy| policy.name == outcome.policy());
            let Some(policy) = policy else { continue };
            policy.decided(&self.log, line, &outcome);
        }
    }
}

impl PolicyTally {
    fn decided(&mut self, log: &Log, line: u32, outcome: &Outcome<'_>) {
        let start = log.lines[line as usize].start;
        let is_allowed = outcome.is_allowed();
        // Of a waterfall, only the quota counts that a request draws on, or that refuses it.
        if is_allowed && !outcome.is_drawn_on() {
            return;
        }
        add(&mut self.all, is_allowed);
        add_to(&mut self.minutes, start / MINUTE, is_allowed);
        match outcome.reason() {
            Some(Reason::MissingKey) => self.without_key += 1,
            Some(Reason::UnreadableKey) => self.unreadable += 1,
            Some(Reason::Penalty) => self.penalized += 1,
            _ => {}
        }
        if let Some(key) = self.key(outcome.key_kind(), log, line) {
            self.counted.push((line, key));
            self.keys[key as usize].decided(start, is_allowed);
        }
    }

    /// The number of the request's key, which may be a new one; `None` if it has none.
    fn key(&mut self, kind: &str, log: &Log, line: u32) -> Option<u32> {
        if self.readers.is_empty() {
            return Some(self.number(0, kind, &[], || "all together".to_owned()));
        }
        let place = self.readers.iter().position(|reader| reader.kind == kind)?;
        let is_of_sender = self.readers[place].is_of_sender;
        if is_of_sender && let Some(key) = self.senders[place].get(&log.sender(line)) {
            return *key;
        }
        let key = self.read(place, kind, &log.request(line).into_parts().0);
        if is_of_sender {
            self.senders[place].insert(log.sender(line), key);
        }
        key
    }

    fn read(&mut self, place: usize, kind: &str, request: &Parts) -> Option<u32> {
        let found = self.readers[place].with_bytes(request, |bytes| {
            self.known[place].get(bytes).copied().ok_or_else(|| bytes.to_vec())
        });
        Some(found?.unwrap_or_else(|bytes| {
            let text = self.readers[place].text(request, self.shows_keys);
            self.number(place, kind, &bytes, || text)
        }))
    }

    fn number(&mut self, of: usize, kind: &str, key: &[u8], text: impl FnOnce() -> String) -> u32 {
        if let Some(known) = self.known[of].get(key) {
            return *known;
        }
        let number = u32::try_from(self.keys.len()).expect("there are no more keys than lines");
        self.keys.push(KeyTally {
            kind: kind.to_owned(),
            text: text(),
            all: Counts::default(),
            first_refused: None,
            busiest: (0, 0),
            current: (0, 0),
        });
        self.known[of].insert(key.into(), number);
        number
    }

    /// How many keys were refused at least once.
    pub fn refused_keys(&self) -> usize {
        self.keys.iter().filter(|key| key.all.refused > 0).count()
    }

    /// The keys, those with the most refusals first, then those with the most requests.
    pub fn loudest(&self) -> Vec<&KeyTally> {
        let mut keys: Vec<_> = self.keys.iter().collect();
        keys.sort_by_key(|key| std::cmp::Reverse((key.all.refused, key.all.passed)));
        keys
    }
}

impl KeyTally {
    fn decided(&mut self, start: u64, is_allowed: bool) {
        add(&mut self.all, is_allowed);
        let minute = start / MINUTE;
        if self.current.0 == minute {
            self.current.1 += 1;
        } else {
            self.current = (minute, 1);
        }
        if self.current.1 > self.busiest.1 {
            self.busiest = self.current;
        }
        if !is_allowed {
            self.first_refused = self.first_refused.or(Some(start));
        }
    }
}

fn add(counts: &mut Counts, is_allowed: bool) {
    if is_allowed {
        counts.passed += 1;
    } else {
        counts.refused += 1;
    }
}

/// Requests end in nearly the order of their starts: the minute is one of the last.
fn add_to(minutes: &mut Minutes, minute: u64, is_allowed: bool) {
    let place = minutes.iter().rposition(|(known, _)| *known <= minute);
    let place = match place {
        Some(place) if minutes[place].0 == minute => place,
        place => {
            let place = place.map_or(0, |place| place + 1);
            minutes.insert(place, (minute, Counts::default()));
            place
        }
    };
    add(&mut minutes[place].1, is_allowed);
}
