//! The responses: [`Layer`], [`HeaderStyle`] and [`OnRejection`].

use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Unexpected, Visitor},
    ser::SerializeMap,
};

use super::{
    is_default, one_entry,
    text::{self, Time},
};
use crate::{layer, layer::ResetFormat};

/// How requests are answered; as [`crate::RateLimitLayerBuilder`], whose methods have the same names
/// and say more.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Layer {
    /// The styles of quota headers; an empty list means no headers. Default: `["x_ratelimit"]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<HeaderStyle>>,
    /// The policy that headers with room for one policy show. Default: the tightest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header_policy: Option<String>,
    /// Whether refusals have `Retry-After`. Default: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<bool>,
    /// The longest time by which waits are lengthened. Default: none.
    #[serde(skip_serializing_if = "Duration::is_zero", with = "text::duration")]
    #[schemars(with = "Time")]
    pub jitter_retry_after: Duration,
    /// The response to a refused request.
    #[serde(skip_serializing_if = "is_default")]
    pub on_rejection: OnRejection,
    /// Whether handlers find the [`Decision`](crate::Decision) in the request's extensions. Default:
    /// false.
    #[serde(skip_serializing_if = "is_default")]
    pub expose_decision: bool,
}

/// A style of quota headers; as [`crate::HeaderStyle`].
///
/// In a file, its name, or a table of its name and its settings: `"ratelimit_dictionary"`,
/// `{ x_ratelimit = { reset = "seconds" } }`, `{ ratelimit_lists = { partition_key = true } }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeaderStyle {
    /// Which style.
    pub name: StyleName,
    /// The format of the reset. Default: as the style says.
    pub reset: Option<ResetFormat>,
    /// Whether the partition key is shown.
    pub partition_key: bool,
}

/// The name of a style; as the constructors of [`crate::HeaderStyle`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StyleName {
    /// [`x_ratelimit`](crate::HeaderStyle::x_ratelimit).
    #[serde(rename = "x_ratelimit")]
    XRateLimit,
    /// [`ratelimit`](crate::HeaderStyle::ratelimit).
    #[serde(rename = "ratelimit")]
    RateLimit,
    /// [`ratelimit_dictionary`](crate::HeaderStyle::ratelimit_dictionary).
    #[serde(rename = "ratelimit_dictionary")]
    Dictionary,
    /// [`ratelimit_lists`](crate::HeaderStyle::ratelimit_lists).
    #[serde(rename = "ratelimit_lists")]
    Lists,
}

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct StyleSettings {
    #[serde(skip_serializing_if = "Option::is_none")]
    reset: Option<ResetFormat>,
    #[serde(skip_serializing_if = "is_default")]
    partition_key: bool,
}

/// The response to a refused request; as [`crate::response`].
///
/// In a file, its name, or a table of its name and its settings: `"json"`, `"plain_text"`, `"problem"`,
/// `{ problem = { detail = true } }`, `{ function = "own" }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnRejection {
    /// [`Rejection::to_response`](crate::Rejection::to_response).
    #[default]
    Json,
    /// [`response::plain_text`](crate::response::plain_text).
    PlainText,
    /// [`response::Problem`](crate::response::Problem).
    Problem(Problem),
    /// The function that the program [registers](super::Registry::on_rejection) by this name.
    Function(String),
}

/// Responses by their names alone.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum RejectionName {
    Json,
    PlainText,
    Problem,
}

/// Responses with a setting: tables with one entry.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum TaggedRejection {
    Problem(Problem),
    Function(String),
}

/// Problem details; as [`crate::response::Problem`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Problem {
    /// The type, a URI. Default: the [standard types](crate::response::Problem::quota_exceeded).
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The title. `{policy}` in it becomes the name of the policy that refuses. Default: as the type
    /// says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Whether the message is its `detail`. With the standard types it always is.
    #[serde(skip_serializing_if = "is_default")]
    pub detail: bool,
    /// Whether the request's id is its `instance`.
    #[serde(skip_serializing_if = "is_default")]
    pub instance: bool,
}

impl HeaderStyle {
    /// A style with its default settings.
    #[must_use]
    pub fn new(name: StyleName) -> Self {
        Self { name, reset: None, partition_key: false }
    }

    pub(super) fn style(self) -> layer::HeaderStyle {
        let mut style = match self.name {
            StyleName::XRateLimit => layer::HeaderStyle::x_ratelimit(),
            StyleName::RateLimit => layer::HeaderStyle::ratelimit(),
            StyleName::Dictionary => layer::HeaderStyle::ratelimit_dictionary(),
            StyleName::Lists => layer::HeaderStyle::ratelimit_lists(),
        };
        if let Some(reset) = self.reset {
            style = style.reset(reset);
        }
        if self.partition_key { style.partition_key() } else { style }
    }
}

impl Problem {
    pub(super) fn problem(&self) -> layer::response::Problem {
        let mut problem = match &self.kind {
            Some(kind) => layer::response::Problem::new(kind.clone()),
            None => layer::response::Problem::quota_exceeded(),
        };
        if let Some(title) = self.title.clone() {
            problem = problem.title(move |rejection| title.replace("{policy}", rejection.policy()));
        }
        if self.detail {
            problem = problem.detail();
        }
        if self.instance { problem.instance() } else { problem }
    }
}

impl Serialize for HeaderStyle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if *self == Self::new(self.name) {
            return self.name.serialize(serializer);
        }
        let settings = StyleSettings { reset: self.reset, partition_key: self.partition_key };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.name, &settings)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for HeaderStyle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StyleVisitor;

        impl<'de> Visitor<'de> for StyleVisitor {
            type Value = HeaderStyle;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "a style like `\"x_ratelimit\"` or `{ ratelimit = { reset = \"unix_seconds\" } }`",
                )
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<HeaderStyle, E> {
                let name = serde::de::value::StrDeserializer::new(name);
                StyleName::deserialize(name).map(HeaderStyle::new)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HeaderStyle, A::Error> {
                let (name, settings): (_, StyleSettings) = map
                    .next_entry()?
                    .ok_or_else(|| A::Error::invalid_value(Unexpected::Map, &self))?;
                one_entry::end(&mut map)?;
                let StyleSettings { reset, partition_key } = settings;
                Ok(HeaderStyle { name, reset, partition_key })
            }
        }

        deserializer.deserialize_any(StyleVisitor)
    }
}

impl<'de> Deserialize<'de> for OnRejection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RejectionVisitor;

        impl<'de> Visitor<'de> for RejectionVisitor {
            type Value = OnRejection;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a response like `\"problem\"` or `{ function = \"own\" }`")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<OnRejection, E> {
                let name =
                    RejectionName::deserialize(serde::de::value::StrDeserializer::new(name))?;
                Ok(match name {
                    RejectionName::Json => OnRejection::Json,
                    RejectionName::PlainText => OnRejection::PlainText,
                    RejectionName::Problem => OnRejection::Problem(Problem::default()),
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OnRejection, A::Error> {
                Ok(match one_entry::deserialize(map, "{ problem = { detail = true } }")? {
                    TaggedRejection::Problem(problem) => OnRejection::Problem(problem),
                    TaggedRejection::Function(name) => OnRejection::Function(name),
                })
            }
        }

        deserializer.deserialize_any(RejectionVisitor)
    }
}

impl JsonSchema for OnRejection {
    fn schema_name() -> Cow<'static, str> {
        "OnRejection".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = generator.subschema_for::<RejectionName>();
        let tagged = generator.subschema_for::<TaggedRejection>();
        json_schema!({ "anyOf": [name, tagged] })
    }
}

impl JsonSchema for HeaderStyle {
    fn schema_name() -> Cow<'static, str> {
        "HeaderStyle".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let name = generator.subschema_for::<StyleName>();
        let settings = generator.subschema_for::<StyleSettings>();
        json_schema!({
            "anyOf": [
                name,
                {
                    "type": "object",
                    "propertyNames": name,
                    "additionalProperties": settings,
                    "minProperties": 1,
                    "maxProperties": 1,
                },
            ],
        })
    }
}
