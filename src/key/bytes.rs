//! The bytes by which a policy counts: [`Key`].

use std::{borrow::Cow, fmt, net::IpAddr};

use smallvec::SmallVec;

/// The bytes by which a policy counts: an API key, a user's id, an address.
///
/// A key is made from a string, bytes, an integer, an address, or a tuple of these. `Debug` does not
/// show it.
///
/// ```
/// use tower_quota::key::Key;
///
/// let tenant = Key::from("tenant-7");
/// let user_of_tenant = Key::from(("tenant-7", 42_u64));
/// assert_eq!(format!("{tenant:?} {user_of_tenant:?}"), "Key(..) Key(..)");
/// ```
#[derive(Clone)]
pub struct Key<'a> {
    bytes: Bytes<'a>,
    is_joined: bool,
}

#[derive(Clone)]
enum Bytes<'a> {
    Borrowed(&'a [u8]),
    Owned(SmallVec<[u8; 48]>),
}

impl Key<'_> {
    /// The key itself, which may be secret. A string is UTF-8, and a number is little-endian.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Borrowed(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Joins keys. Each has its length before it, so that ("ab", "c") is not ("a", "bc").
    pub(crate) fn joined(keys: &[Key<'_>]) -> Key<'static> {
        let mut bytes = SmallVec::new();
        for key in keys {
            bytes.extend_from_slice(&(key.as_bytes().len() as u64).to_le_bytes());
            bytes.extend_from_slice(key.as_bytes());
        }
        Key { bytes: Bytes::Owned(bytes), is_joined: keys.len() > 1 }
    }

    /// The keys that this one was joined from; `None` if its bytes are not those of joined keys.
    pub(super) fn parts(&self) -> Option<SmallVec<[Key<'_>; 4]>> {
        let (mut parts, mut rest) = (SmallVec::new(), self.as_bytes());
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let (part, after) = after.split_at_checked(length)?;
            parts.push(part.into());
            rest = after;
        }
        Some(parts)
    }

    pub(crate) fn into_owned(self) -> Key<'static> {
        let bytes = match self.bytes {
            Bytes::Borrowed(bytes) => bytes.into(),
            Bytes::Owned(bytes) => bytes,
        };
        Key { bytes: Bytes::Owned(bytes), is_joined: self.is_joined }
    }

    /// The first of the keys that this one was joined from; `None` if it was not joined.
    pub(crate) fn first_part(&self) -> Option<Key<'_>> {
        let (length, rest) = self.as_bytes().split_first_chunk().filter(|_| self.is_joined)?;
        rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?).map(Key::from)
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl<'a> From<Bytes<'a>> for Key<'a> {
    #[inline]
    fn from(bytes: Bytes<'a>) -> Self {
        Key { bytes, is_joined: false }
    }
}

/// From `&str`, `&String`, `&[u8]` and the like.
impl<'a, T: AsRef<[u8]> + ?Sized> From<&'a T> for Key<'a> {
    #[inline]
    fn from(bytes: &'a T) -> Self {
        Bytes::Borrowed(bytes.as_ref()).into()
    }
}

impl From<Vec<u8>> for Key<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::Owned(bytes.into()).into()
    }
}

impl From<String> for Key<'_> {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl<'a> From<Cow<'a, str>> for Key<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        match text {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}

macro_rules! from_integer {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Key<'_> {
            fn from(number: $integer) -> Self {
                Bytes::Owned(SmallVec::from_slice(&number.to_le_bytes())).into()
            }
        }
    )*};
}
from_integer!(u32, u64, u128, i32, i64);

impl From<IpAddr> for Key<'_> {
    fn from(ip: IpAddr) -> Self {
        let bytes = match ip {
            IpAddr::V4(ip) => SmallVec::from_slice(&ip.octets()),
            IpAddr::V6(ip) => SmallVec::from_slice(&ip.octets()),
        };
        Bytes::Owned(bytes).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_keys_do_not_run_together() {
        assert_ne!(Key::from(("ab", "c")).as_bytes(), Key::from(("a", "bc")).as_bytes());
        assert_ne!(Key::from(("a", "")).as_bytes(), Key::from(("", "a")).as_bytes());
    }

    #[test]
    fn only_joined_keys_have_a_first_part() {
        assert_eq!(Key::from(("ab", 7_u64)).first_part().unwrap(), "ab".into());
        assert_eq!(Key::from((("ab", "c"), 7_u64)).first_part().unwrap(), ("ab", "c").into());
        assert!(Key::from("\x01\0\0\0\0\0\0\0abc").first_part().is_none());
        assert!(Key::from("ab").first_part().is_none());
    }
}
