//! Requests that share policies: [`Category`], and which requests these are: [`Requests`].

use std::{borrow::Cow, fmt, time::Duration};

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor},
};

use super::{
    key::Key,
    one_entry,
    text::{self, Time},
};

/// The requests that share policies; as [`crate::Category`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Category {
    /// The name.
    pub name: String,
    /// The requests.
    pub requests: Vec<Requests>,
    /// The names of the policies that each of the requests must pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// How long requests are held for policies that do not say it themselves. Default: not at all.
    #[serde(default, skip_serializing_if = "Duration::is_zero", with = "text::duration")]
    #[schemars(with = "Time")]
    pub hold: Duration,
}

/// Which requests; as [`crate::Matcher`].
///
/// | in a file | is |
/// |---|---|
/// | `"GET /v1/users/{id}"`, `"POST, PATCH /v1/{*rest}"`, `"/health"` | by method and path: [`Matcher::methods`](crate::Matcher::methods), or any method: [`Matcher::path`](crate::Matcher::path) |
/// | `{ client_ip = ["10.0.0.0/8"] }` | by the client's address, as `[client_ip]` reads it |
/// | `{ key = { by = { header = "x-api-key" }, values = ["…"] } }` | by a key: [`Matcher::key`](crate::Matcher::key) |
/// | `{ function = "internal" }` | by the function that the program [registers](super::Registry::matcher) by this name |
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Requests {
    /// By method and path; without methods, any method.
    Endpoint {
        /// The methods. `GET` includes `HEAD`.
        methods: Vec<Method>,
        /// The path, in axum's syntax.
        path: String,
    },
    /// By the client's address, of which these are the networks.
    ClientIp(Vec<String>),
    /// By a key.
    Key(KnownKeys),
    /// By a registered function.
    Function(String),
}

/// Certain keys.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct KnownKeys {
    /// Where the key comes from.
    pub by: Key,
    /// The keys, in plain text. `Debug` does not show them.
    pub values: Vec<String>,
}

impl KnownKeys {
    /// The requests whose key is one of these.
    #[must_use]
    pub fn new(by: Key, values: Vec<String>) -> Self {
        Self { by, values }
    }
}

impl fmt::Debug for KnownKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownKeys").field("by", &self.by).finish_non_exhaustive()
    }
}

/// Requests with a setting: tables with one entry.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Tagged {
    ClientIp(Vec<String>),
    Key(KnownKeys),
    Function(String),
}

impl Serialize for Requests {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tagged = match self {
            Self::Endpoint { methods, path } => {
                return serializer.serialize_str(&text::write_endpoint(methods, path));
            }
            Self::ClientIp(networks) => Tagged::ClientIp(networks.clone()),
            Self::Key(keys) => Tagged::Key(keys.clone()),
            Self::Function(name) => Tagged::Function(name.clone()),
        };
        tagged.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Requests {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RequestsVisitor;

        impl<'de> Visitor<'de> for RequestsVisitor {
            type Value = Requests;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("requests like `\"GET /v1/users\"` or `{ function = \"internal\" }`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Requests, E> {
                let (methods, path) = text::parse_endpoint(text).map_err(E::custom)?;
                Ok(Requests::Endpoint { methods, path })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Requests, A::Error> {
                Ok(match one_entry::deserialize(map, "{ function = \"internal\" }")? {
                    Tagged::ClientIp(networks) => Requests::ClientIp(networks),
                    Tagged::Key(keys) => Requests::Key(keys),
                    Tagged::Function(name) => Requests::Function(name),
                })
            }
        }

        deserializer.deserialize_any(RequestsVisitor)
    }
}

impl JsonSchema for Requests {
    fn schema_name() -> Cow<'static, str> {
        "Requests".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let tagged = generator.subschema_for::<Tagged>();
        json_schema!({
            "description": "`GET /v1/users`, `POST, PATCH /v1/users`, `/v1/users` for any method; or by address, key or function",
            "anyOf": [{ "type": "string", "pattern": "^([A-Z]+(, *[A-Z]+)* )?/[^ ]*$" }, tagged],
        })
    }
}
