use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

#[cfg(test)]
use crate::clock::Now;
use crate::{algorithm::Algorithm, store::Charge};

/// Of a cluster.
const SLOTS: u16 = 16_384;

/// How counts are called in Redis.
#[derive(Clone, Debug)]
pub(in super::super) struct Names {
    prefix: String,
    /// What a test says that the time is, if it does.
    #[cfg(test)]
    pub(super) time: std::sync::Arc<std::sync::Mutex<Option<Now>>>,
}

impl Names {
    /// Without a brace in `prefix`, so that the shard decides alone where a cluster keeps a key.
    pub(in super::super) fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            #[cfg(test)]
            time: std::sync::Arc::default(),
        }
    }

    pub(in super::super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where the counts of a key are: in the part of a cluster that its shard says.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "the two halves of 128 bits, and a length of what is in memory"
    )]
    pub(super) fn key(&self, charge: &Charge) -> String {
        let (high, low) = ((charge.key >> 64) as u64, charge.key as u64);
        let mut name = String::with_capacity(self.prefix.len() + 36);
        name.push_str(&self.prefix);
        name.push_str(":{");
        push(&mut name, charge.shard);
        name.push('}');
        push(&mut name, high);
        if low != charge.shard {
            push(&mut name, low);
        }
        name
    }
}

/// How counts are written. Another way to write them needs another number.
const FORMAT: u8 = 2;

/// The field of a policy. Algorithms cannot read each other's counts, so each has its own; and so does
/// each format, so that replicas of two releases neither misread nor overwrite each other's.
pub(super) fn field(charge: &Charge) -> [u8; 9] {
    let mut field = [0; 9];
    field[..8].copy_from_slice(&charge.policy.to_le_bytes());
    field[8] = FORMAT << 4 | algorithm(charge);
    field
}

/// The number of the algorithm in the script.
pub(super) fn algorithm(charge: &Charge) -> u8 {
    match charge.algorithm {
        Algorithm::TokenBucket => 1,
        Algorithm::FixedWindow => 2,
        Algorithm::SlidingWindow => 3,
    }
}

/// The slot of a cluster that the keys of a shard are in: of what is between the braces of their
/// names, CRC-16/XMODEM modulo the number of slots (Redis Cluster specification).
pub(super) fn slot(shard: u64) -> u16 {
    let mut tag = String::new();
    push(&mut tag, shard);
    crc16::State::<crc16::XMODEM>::calculate(tag.as_bytes()) % SLOTS
}

/// In 11 characters.
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
    fn a_name_is_short_and_no_other_s() {
        let names = Names::new("test");
        assert_eq!(names.key(&CHARGE), "test:{AAAAAAAAAAI}AAAAAAAAAAE");
        let place = |names: &Names, charge: &Charge| (names.key(charge), field(charge));
        let others = [
            Charge { key: 1 << 64 | 3, ..CHARGE },
            Charge { key: 2 << 64 | 2, ..CHARGE },
            Charge { policy: 4, ..CHARGE },
            Charge { shard: 3, ..CHARGE },
            Charge { shard: 3, key: 1 << 64 | 3, ..CHARGE },
            Charge { algorithm: Algorithm::FixedWindow, ..CHARGE },
            Charge { algorithm: Algorithm::SlidingWindow, ..CHARGE },
        ];
        let mut all: Vec<_> = others.iter().map(|charge| place(&names, charge)).collect();
        all.extend([place(&names, &CHARGE), place(&Names::new("other"), &CHARGE)]);
        all.sort();
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count, "{all:?}");
    }

    #[test]
    fn a_shard_has_one_slot() {
        // Told by `CLUSTER KEYSLOT`.
        assert_eq!([0, 1, u64::MAX].map(slot), [8_595, 8_471, 13_281]);
    }
}
