use std::hash::{BuildHasher, Hasher, RandomState};

use siphasher::sip128::{Hasher128, SipHasher24};

use super::Key;

/// Turns keys into 128 bits that say nothing of them, and that nobody without the secret can
/// make collide: SipHash-2-4 (Aumasson and Bernstein, 2012).
#[derive(Clone)]
pub(crate) struct Fingerprinter {
    secret: (u64, u64),
}

impl Fingerprinter {
    /// With a secret of its own, gone with the process.
    pub(crate) fn random() -> Self {
        // The standard library's hasher is keyed by the operating system's random numbers.
        let random = RandomState::new();
        Self { secret: (random.hash_one(0), random.hash_one(1)) }
    }

    /// `domain` keeps keys of different kinds apart: an API key that reads like an address is not
    /// that address.
    pub(crate) fn fingerprint(&self, domain: u8, key: &Key<'_>) -> u128 {
        let mut hasher = SipHasher24::new_with_keys(self.secret.0, self.secret.1);
        hasher.write_u8(domain);
        hasher.write(key.as_bytes());
        hasher.finish128().as_u128()
    }
}

impl std::fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fingerprinter(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_has_the_same_fingerprint_under_the_same_secret_only() {
        let (ours, theirs) = (Fingerprinter::random(), Fingerprinter::random());
        let key = Key::from("sk_live_pro_tenant");
        assert_eq!(ours.fingerprint(0, &key), ours.clone().fingerprint(0, &key));
        assert_ne!(ours.fingerprint(0, &key), ours.fingerprint(1, &key));
        assert_ne!(ours.fingerprint(0, &key), theirs.fingerprint(0, &key));
    }
}
