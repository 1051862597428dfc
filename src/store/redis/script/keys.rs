//! The names of keys and fields in Redis, and the cluster's slot of a key.

use std::sync::{Arc, atomic::AtomicU64};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::holder::Holder;
#[cfg(test)]
use crate::clock::Now;
use crate::{algorithm::Algorithm, store::Charge};

/// The number of a cluster's slots.
const SLOTS: u16 = 16_384;

/// Makes the names of keys.
#[derive(Clone, Debug)]
pub(crate) struct KeyNames {
    pub(crate) prefix: String,
    /// The server's time of about its last answer, in microseconds; 0 if there was none. A call tells the
    /// windows of that time.
    pub(super) server_time: Arc<AtomicU64>,
    pub(crate) holder: Holder,
    /// The time that a test sets.
    #[cfg(test)]
    pub(crate) time: std::sync::Arc<std::sync::Mutex<Option<Now>>>,
}

impl KeyNames {
    /// `prefix` has no brace, so that a cluster places a key by its shard alone.
    pub(crate) fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            server_time: Arc::default(),
            holder: Holder::new(),
            #[cfg(test)]
            time: std::sync::Arc::default(),
        }
    }

    /// The Redis key of a charge's counts.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
    pub(super) fn key(&self, charge: &Charge) -> String {
        let (high, low) = ((charge.key >> 64) as u64, charge.key as u64);
        let mut name = self.in_shard(charge.shard);
        push(&mut name, high);
        if low != charge.shard {
            push(&mut name, low);
        }
        name
    }

    /// The Redis key of what a policy's settings are. It is in the slot of the probe's key, and no count
    /// has it.
    pub(crate) fn announcement(&self, policy: u64) -> String {
        let mut name = self.in_shard(0) + "policy:";
        push(&mut name, policy);
        name
    }

    /// The Redis key of the number that stands for the secret. It is in the slot of the probe's key, and no
    /// count has it.
    pub(crate) fn secret(&self) -> String {
        self.in_shard(0) + "secret"
    }

    /// The Redis key of the overrides in a space. It is in the slot of the probe's key, and no count has
    /// it.
    pub(crate) fn overrides(&self, space: u64) -> String {
        let mut name = self.in_shard(0) + "overrides:";
        push(&mut name, space);
        name
    }

    /// The beginning of a name, by which a cluster places the key.
    #[expect(clippy::arithmetic_side_effects, reason = "a length of what is in memory")]
    fn in_shard(&self, shard: u64) -> String {
        let mut name = String::with_capacity(self.prefix.len() + 36);
        name.push_str(&self.prefix);
        name.push_str(":{");
        push(&mut name, shard);
        name.push('}');
        name
    }
}

/// The version of the states that the script writes. Another way to write them needs another number.
const FORMAT: u8 = 2;

/// The field of a policy. Each algorithm and each format has fields of its own, since it cannot read
/// the counts of others.
pub(super) fn field(charge: &Charge) -> [u8; 9] {
    let mut field = [0; 9];
    field[..8].copy_from_slice(&charge.policy.to_le_bytes());
    field[8] = FORMAT << 4 | algorithm(charge);
    field
}

/// The field of a policy's penalty. It has the policy's algorithm, as a policy with another algorithm is
/// another policy.
pub(super) fn penalty_field(charge: &Charge) -> [u8; 9] {
    let mut field = field(charge);
    field[8] |= PENALTY;
    field
}

/// The field that says when the key was reset under a policy, and what its bucket was given back lately. Units in
/// flight are never reset, and have no such field.
pub(super) fn reset_field(charge: &Charge) -> [u8; 9] {
    let mut field = field(charge);
    field[8] |= RESET;
    field
}

/// Beside the numbers of the algorithms.
const PENALTY: u8 = 8;
/// Beside the numbers of the algorithms, without that of units in flight.
const RESET: u8 = 4;

/// The number of the algorithm in the script.
pub(super) fn algorithm(charge: &Charge) -> u8 {
    match charge.algorithm {
        Algorithm::TokenBucket => 1,
        Algorithm::FixedWindow => 2,
        Algorithm::SlidingWindow => 3,
        Algorithm::InFlight => 4,
    }
}

/// The cluster's slot of a shard's keys, as in the Redis Cluster specification: CRC-16/XMODEM of what is
/// between the braces, modulo the number of slots. The `redis` crate computes it by the same crate,
/// and does not show the number.
pub(super) fn slot(shard: u64) -> u16 {
    let mut tag = String::new();
    push(&mut tag, shard);
    crc16::State::<crc16::XMODEM>::calculate(tag.as_bytes()) % SLOTS
}

/// Adds a number as 11 characters of base64.
fn push(name: &mut String, number: u64) {
    URL_SAFE_NO_PAD.encode_string(number.to_be_bytes(), name);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;

    const CHARGE: Charge =
        Charge::new(3, 1 << 64 | 2, Algorithm::TokenBucket, Quota::per_second(1));

    #[test]
    fn each_count_has_a_short_name_of_its_own() {
        let names = KeyNames::new("test");
        assert_eq!(names.key(&CHARGE), "test:{AAAAAAAAAAI}AAAAAAAAAAE");
        assert_eq!(names.announcement(7), "test:{AAAAAAAAAAA}policy:AAAAAAAAAAc");
        assert_eq!(names.overrides(7), "test:{AAAAAAAAAAA}overrides:AAAAAAAAAAc");
        let name = |names: &KeyNames, charge: &Charge| (names.key(charge), field(charge));
        assert_ne!(field(&CHARGE), penalty_field(&CHARGE));
        let others = [
            Charge { key: 1 << 64 | 3, ..CHARGE },
            Charge { key: 2 << 64 | 2, ..CHARGE },
            Charge { policy: 4, ..CHARGE },
            Charge { shard: 3, ..CHARGE },
            Charge { shard: 3, key: 1 << 64 | 3, ..CHARGE },
            Charge { algorithm: Algorithm::FixedWindow, ..CHARGE },
            Charge { algorithm: Algorithm::SlidingWindow, ..CHARGE },
        ];
        let mut all: Vec<_> = others.iter().map(|charge| name(&names, charge)).collect();
        all.extend([name(&names, &CHARGE), name(&KeyNames::new("other"), &CHARGE)]);
        all.sort();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count, "{all:?}");
    }

    #[test]
    fn a_shard_has_one_slot() {
        // From `CLUSTER KEYSLOT`.
        assert_eq!([0, 1, u64::MAX].map(slot), [8_595, 8_471, 13_281]);
    }
}
