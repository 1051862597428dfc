//! Reads a table with one entry, whose name says what the table is: [`deserialize`].

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// What is said after the name of a second entry.
pub(super) const SECOND: &str = "is a second setting in a table for one; write it in a table of its own, or leave it \
                                 out";

/// What is said of an empty table, before an example.
pub(super) const EMPTY: &str = "a table is empty here; write one like";

/// Reads the table. `example` is what to write instead of an empty one.
///
/// # Errors
/// The table is empty, or has a second entry. serde would leave that one unread.
pub(super) fn deserialize<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    mut map: A,
    example: &'static str,
) -> Result<T, A::Error> {
    let value = T::deserialize(MapAccessDeserializer::new(First { map: &mut map, example }))?;
    end(&mut map)?;
    Ok(value)
}

/// Fails if the table has one more entry.
pub(super) fn end<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_key::<Second>().map(drop)
}

/// A table of which an entry is read.
struct First<'a, A> {
    map: &'a mut A,
    example: &'static str,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for First<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let key = self.map.next_key_seed(seed)?;
        let key = key.ok_or_else(|| A::Error::custom(format!("{EMPTY} `{}`", self.example)))?;
        Ok(Some(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

/// The name of a second entry, which there must not be. The error is made of the name, so that a
/// format knows its place.
enum Second {}

impl<'de> Deserialize<'de> for Second {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl Visitor<'_> for NameVisitor {
            type Value = Second;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the end of the table")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Second, E> {
                Err(E::custom(format!("`{}` {SECOND}", name.escape_debug())))
            }
        }

        deserializer.deserialize_identifier(NameVisitor)
    }
}
