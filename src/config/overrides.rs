//! Blocks and quotas of single callers: [`Override`], as a file has it.

use std::{borrow::Cow, fmt, time::Duration};

use jiff::{SignedDuration, Timestamp, civil};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        Error, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};
use toml::value::Datetime;

use super::{is_default, one_entry};
use crate::{key, quota::Quota};

/// A block of one caller, or a quota of its own under one policy, until a date; as
/// [`overrides::Override`](crate::overrides::Override). [`Limits::apply_overrides`](super::Limits::apply_overrides) sets it.
///
/// Its key may be a secret: `Debug` does not show it, nor do errors and logs. `Serialize` writes it,
/// as the file has it.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Override {
    /// The caller's key, as [`caller`](super::Limits::caller) finds it; an address for `ip`. If that is
    /// several keys together, or a registered extractor that makes a tuple of texts, one text for each.
    /// The crate does not know which keys a registered extractor makes. So a key of another form is no
    /// error, and applies to no caller.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "key_parts")]
    #[schemars(with = "KeyParts")]
    pub key: Vec<String>,
    /// Whether the caller is refused. Then there is no policy and no quota.
    #[serde(default, skip_serializing_if = "is_default")]
    pub block: bool,
    /// The policy under which the caller has another quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The caller's quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<Quota>,
    /// When it ends, since 1970 UTC; at most 366 days ahead. In a file, a date-time with an offset:
    /// `2027-01-31T00:00:00Z`, with or without quotes.
    #[serde(with = "end")]
    #[schemars(with = "End")]
    pub until: Duration,
    /// Why; at most 200 characters. Operators see it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Override {
    /// A block of the caller with this key until this time since 1970 UTC.
    #[must_use]
    pub fn block<S: Into<String>>(key: impl IntoIterator<Item = S>, until: Duration) -> Self {
        let key = key.into_iter().map(Into::into).collect();
        Self { key, block: true, policy: None, quota: None, until, reason: None }
    }

    /// A quota of the caller with this key under a policy until this time since 1970 UTC.
    #[must_use]
    pub fn quota<S: Into<String>>(
        key: impl IntoIterator<Item = S>,
        policy: impl Into<String>,
        quota: Quota,
        until: Duration,
    ) -> Self {
        let (policy, quota) = (Some(policy.into()), Some(quota));
        Self { block: false, policy, quota, ..Self::block(key, until) }
    }

    /// The caller's key; `None` if it is not there.
    pub(super) fn caller_key(&self) -> Option<key::Key<'_>> {
        match &*self.key {
            [] => None,
            [key] => Some(key.into()),
            parts => {
                let parts: Vec<_> = parts.iter().map(key::Key::from).collect();
                Some(key::Key::joined(&parts))
            }
        }
    }
}

impl fmt::Debug for Override {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Override")
            .field("block", &self.block)
            .field("policy", &self.policy)
            .field("quota", &self.quota)
            .field("until", &self.until)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// A text, or a list of texts.
struct KeyParts;

impl JsonSchema for KeyParts {
    fn schema_name() -> Cow<'static, str> {
        "KeyParts".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let list = json_schema!({
            "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 4,
        });
        json_schema!({ "anyOf": [{ "type": "string" }, list] })
    }
}

mod key_parts {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        parts: &[String],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match parts {
            [key] => serializer.serialize_str(key),
            parts => parts.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<String>, D::Error> {
        struct PartsVisitor;

        impl<'de> Visitor<'de> for PartsVisitor {
            type Value = Vec<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a list of texts if the caller's key has several parts")
            }

            fn visit_str<E>(self, key: &str) -> Result<Vec<String>, E> {
                Ok(vec![key.to_owned()])
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Vec<String>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items))
            }
        }

        deserializer.deserialize_any(PartsVisitor)
    }
}

/// A date-time with an offset.
struct End;

impl JsonSchema for End {
    fn schema_name() -> Cow<'static, str> {
        "End".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "`2027-01-31T00:00:00Z`, or with another offset: `2027-01-31T00:00:00+08:00`",
        })
    }
}

mod end {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        until: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let until = SignedDuration::try_from(*until).and_then(Timestamp::from_duration);
        serializer.collect_str(&until.unwrap_or(Timestamp::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        struct EndVisitor;

        impl<'de> Visitor<'de> for EndVisitor {
            type Value = Duration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a date-time like `2027-01-31T00:00:00Z`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Duration, E> {
                parse(text).map_err(E::custom)
            }

            /// TOML's own date-time.
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Duration, A::Error> {
                let no_date = |_| A::Error::custom(NO_DATE);
                let date = Datetime::deserialize(MapAccessDeserializer::new(&mut map));
                let date = date.map_err(no_date)?;
                one_entry::end(&mut map).map_err(no_date)?;
                self.visit_str(&date.to_string())
            }
        }

        deserializer.deserialize_any(EndVisitor)
    }
}

const NO_DATE: &str = "`until` is no date-time; write one like `until = 2027-01-31T00:00:00Z`";

/// A time before 1970 is 1970: both have passed.
fn parse(text: &str) -> Result<Duration, &'static str> {
    if let Ok(until) = text.parse::<Timestamp>() {
        return Ok(until.as_duration().try_into().unwrap_or_default());
    }
    Err(match text.parse::<civil::DateTime>() {
        Ok(_) => {
            "`until` does not say which time zone it is in; write an offset, as in \
             `until = 2027-01-31T00:00:00Z` or `2027-01-31T00:00:00+08:00`"
        }
        Err(_) => NO_DATE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_date_time_with_an_offset() {
        let at = Duration::from_secs;
        for (text, until) in [
            ("2027-01-31T00:00:00Z", at(1_801_353_600)),
            ("2027-01-31 00:00:00Z", at(1_801_353_600)),
            ("2027-01-31T08:00:00+08:00", at(1_801_353_600)),
            ("2027-01-31T00:00:00.5Z", at(1_801_353_600) + Duration::from_millis(500)),
            ("1969-12-31T00:00:00Z", Duration::ZERO),
        ] {
            assert_eq!(parse(text), Ok(until), "{text}");
        }
        for (text, problem) in [
            ("2027-01-31T00:00:00", "an offset"),
            ("2027-01-31", "an offset"),
            ("2027-02-31T00:00:00Z", "no date-time"),
            ("08:00:00", "no date-time"),
            ("tomorrow", "no date-time"),
            ("", "no date-time"),
        ] {
            assert!(parse(text).unwrap_err().contains(problem), "{text}");
        }
    }

    #[test]
    fn debug_does_not_show_the_key() {
        let block = Override::block(["sk_live_secret"], Duration::ZERO);
        assert!(!format!("{block:?}").contains("sk_live"), "{block:?}");
    }
}
