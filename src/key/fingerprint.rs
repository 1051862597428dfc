//! What the limiter keeps instead of keys: keyed hashes of 128 bits, by [`Fingerprinter`].

use std::{
    collections::BTreeMap,
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
};

use siphasher::sip128::{Hasher128, SipHasher13, SipHasher24};

use super::Key;

/// Is hashed with each key of a kind, so that equal keys of two kinds have different fingerprints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Domain {
    pub(crate) key: u64,
    /// The domain of the first key, for joined keys: the same as if that key stood alone.
    pub(crate) first_part: u64,
}

/// Turns keys into fingerprints of 128 bits. A fingerprint does not disclose its key, and without the
/// secret no one can find two keys with the same one. It is SipHash-1-3 (Aumasson and Bernstein, 2012),
/// which protects the standard library's maps from floods of colliding keys.
#[derive(Clone)]
pub(crate) struct Fingerprinter {
    pub(super) secret: (u64, u64),
    /// For fingerprints that never leave the process: two hashes of 64 bits, which take 40 % of the
    /// time. An attacker who sees no hash can find two keys that collide only by chance, and they
    /// would have to collide in both hashes.
    undisclosed: Option<[ahash::RandomState; 2]>,
}

impl Fingerprinter {
    /// With a random secret, which is lost when the process ends.
    pub(crate) fn random() -> Self {
        // The standard library's hasher is keyed by the operating system's random numbers.
        let random = RandomState::new();
        Self { secret: (random.hash_one(0), random.hash_one(1)), undisclosed: None }
    }

    /// With a secret that other processes know too: 128 random bits.
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
    pub(crate) fn with_secret(secret: u128) -> Self {
        Self { secret: ((secret >> 64) as u64, secret as u64), undisclosed: None }
    }

    /// With random secrets, for fingerprints that must not leave this process. Only their
    /// [`public`](Self::public) hashes may.
    pub(crate) fn undisclosed() -> Self {
        let random = RandomState::new();
        let seeds = |first: u64| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|seed| random.hash_one(first | seed));
            ahash::RandomState::with_seeds(a, b, c, d)
        };
        Self { undisclosed: Some([seeds(0), seeds(4)]), ..Self::random() }
    }

    /// The domains of a policy's kinds of key. Two kinds with the same name have different domains.
    ///
    /// A domain depends only on its kind's name. So when a release adds a kind or changes their order,
    /// each key keeps what it has used.
    pub(crate) fn domains<'a>(&self, kinds: impl IntoIterator<Item = &'a str>) -> Box<[Domain]> {
        let mut seen = BTreeMap::<&str, u64>::new();
        let domain = |kind: &'a str| {
            let number = seen.entry(kind).or_default();
            *number = number.saturating_add(1);
            self.nth_domain(*number, kind)
        };
        kinds.into_iter().map(domain).collect()
    }

    /// The domain of the first kind with this name.
    pub(crate) fn domain(&self, kind: &str) -> Domain {
        self.nth_domain(1, kind)
    }

    #[expect(clippy::cast_possible_truncation, reason = "any half of a hash is one")]
    fn nth_domain(&self, number: u64, kind: &str) -> Domain {
        let hash = |number: u64, kind: &str| self.siphash(number, &kind.into()) as u64;
        let key = hash(number, kind);
        let first_part = kind.split_once('+').map_or(key, |(first, _)| hash(1, first));
        Domain { key, first_part }
    }

    /// The fingerprint of a key whose kind has this domain: an API key with the bytes of an address has
    /// another fingerprint than the address.
    #[inline]
    pub(crate) fn fingerprint(&self, domain: u64, key: &Key<'_>) -> u128 {
        let Some([first, second]) = &self.undisclosed else { return self.siphash(domain, key) };
        let key = key.as_bytes();
        u128::from(hash(first, domain, key)) << 64 | u128::from(hash(second, domain, key))
    }

    fn siphash(&self, domain: u64, key: &Key<'_>) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(self.secret.0, self.secret.1);
        hasher.write(&domain.to_le_bytes());
        hasher.write(key.as_bytes());
        hasher.finish128().as_u128()
    }

    /// A number by which two processes see whether they have the same secret. It discloses nothing of
    /// the secret.
    pub(crate) fn identity(&self) -> u64 {
        self.public(0)
    }

    /// A hash that may be published, by SipHash-2-4 with the halves of the secret swapped. Neither the
    /// key nor the fingerprint can be found from it.
    pub(crate) fn public(&self, fingerprint: u128) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(self.secret.1, self.secret.0);
        hasher.write(&fingerprint.to_le_bytes());
        hasher.finish()
    }
}

#[inline]
fn hash(state: &ahash::RandomState, domain: u64, key: &[u8]) -> u64 {
    let mut hasher = state.build_hasher();
    hasher.write_u64(domain);
    hasher.write(key);
    hasher.finish()
}

/// A keyed hash of a key, of 128 bits: it identifies the key without disclosing it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub(crate) u128);

impl Fingerprint {
    /// The fingerprint as bytes, for a log that stores it.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The fingerprint whose bytes [`to_bytes`](Self::to_bytes) returned.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The fingerprint of this text of 32 hexadecimal digits, as `to_string` returns it. `None` for
    /// any other text.
    ///
    /// ```
    /// use tower_quota::key::Fingerprint;
    ///
    /// let text = "00112233445566778899aabbccddeeff";
    /// assert_eq!(Fingerprint::from_hex(text).unwrap().to_string(), text);
    /// assert_eq!(Fingerprint::from_hex("+112233445566778899aabbccddeeff0"), None);
    /// ```
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u128::from_str_radix(text, 16).ok().filter(|_| is_hex).map(Self)
    }
}

/// 32 hexadecimal digits.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_has_the_same_fingerprint_under_the_same_secret_only() {
        for make in [Fingerprinter::random, Fingerprinter::undisclosed] {
            let (ours, theirs) = (make(), make());
            let key = Key::from("sk_live_pro_tenant");
            assert_eq!(ours.fingerprint(0, &key), ours.clone().fingerprint(0, &key));
            assert_ne!(ours.fingerprint(0, &key), ours.fingerprint(1, &key));
            assert_ne!(ours.fingerprint(0, &key), theirs.fingerprint(0, &key));
        }
    }

    #[test]
    fn a_kind_of_key_is_its_name_whatever_stands_beside_it() {
        let fingerprints = Fingerprinter::with_secret(7);
        let domains = |kinds: &[&'static str]| -> Vec<u64> {
            fingerprints.domains(kinds.iter().copied()).iter().map(|domain| domain.key).collect()
        };
        let [a, b] = domains(&["a", "b"])[..] else { panic!("two") };
        assert_ne!(a, b);
        assert_eq!(domains(&["b", "a"]), [b, a]);
        assert_eq!(domains(&["b"]), [b]);
        let [first, _, second] = domains(&["a", "b", "a"])[..] else { panic!("three") };
        assert_eq!(first, a);
        assert!(second != a && second != b, "two kinds of one name are two kinds");
        let joined = fingerprints.domains(["a+b"])[0];
        assert_eq!(joined.first_part, a, "one server has what its first part has alone");
        assert_ne!(joined.key, a);
    }

    #[test]
    fn similar_keys_share_no_half_of_a_fingerprint() {
        let fingerprints = Fingerprinter::undisclosed();
        let mut halves = std::collections::HashSet::new();
        let mut see = |key: &[u8]| {
            let fingerprint = fingerprints.fingerprint(0, &key.into());
            assert!(halves.insert(fingerprint as u64) && halves.insert((fingerprint >> 64) as u64));
        };
        // Keys of each length, and a key with each of its bits flipped.
        (0..300).for_each(|length| see(&vec![0; length]));
        let key = *b"sk_live_4f9a1c77b2e05d3388aa9f2c0123456z";
        for bit in 0..8 * key.len() {
            let mut key = key;
            key[bit / 8] ^= 1 << (bit % 8);
            see(&key);
        }
        (0..20_000).for_each(|number: u32| see(format!("sk_live_{number:032x}").as_bytes()));
    }

    #[test]
    fn the_public_fingerprint_depends_on_the_secret_and_shows_no_part_of_the_other() {
        let (ours, theirs) = (Fingerprinter::random(), Fingerprinter::random());
        let fingerprint = ours.fingerprint(0, &Key::from("sk_live_pro_tenant"));
        let public = ours.public(fingerprint);
        assert_eq!(public, ours.clone().public(fingerprint));
        assert_ne!(public, theirs.public(fingerprint));
        assert_ne!(public, fingerprint as u64);
        assert_ne!(public, (fingerprint >> 64) as u64);
    }
}
