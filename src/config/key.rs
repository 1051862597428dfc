//! Whose quota a request uses: [`Key`], and how the client's address is read: [`ClientIp`].

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use super::one_entry;

/// Where a key comes from.
///
/// | in a file | is |
/// |---|---|
/// | `"ip"` | the client's address, as `[client_ip]` says |
/// | `{ ip = { ipv4_prefix = 24 } }` | the same, by larger or smaller networks |
/// | `"bearer"` | [`key::bearer`](crate::key::bearer) |
/// | `{ header = "x-api-key" }` | [`key::header`](crate::key::header) |
/// | `{ cookie = "session" }` | [`key::cookie`](crate::key::cookie) |
/// | `{ query = "api_key" }` | [`key::query`](crate::key::query) |
/// | `{ path_param = { path = "/v1/{tenant}/{*rest}", name = "tenant" } }` | [`key::path_param`](crate::key::path_param) |
/// | `{ body_field = "email" }` | [`key::body_field`](crate::key::body_field); the program adds the layer that reads it |
/// | `["tenant", "ip"]` | two to four keys together |
/// | `"tenant"`, any other text | the extractor that the program [registers](super::Registry::key) by this name |
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Key {
    /// `"ip"`, or `{ ip = { … } }`.
    Ip(Prefixes),
    /// `"bearer"`.
    Bearer,
    /// `{ header = "…" }`.
    Header(String),
    /// `{ cookie = "…" }`.
    Cookie(String),
    /// `{ query = "…" }`.
    Query(String),
    /// `{ path_param = { path = "…", name = "…" } }`.
    PathParam(PathParam),
    /// `{ body_field = "…" }`.
    BodyField(String),
    /// `["…", "…"]`.
    Together(Vec<Self>),
    /// The name of a registered extractor.
    Registered(String),
}

/// The keys of a file that are text, and not the name of a registered extractor.
pub(super) const BUILT_IN: [&str; 2] = ["ip", "bearer"];

/// Keys with a setting: tables with one entry.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Tagged {
    Ip(Prefixes),
    Header(String),
    Cookie(String),
    Query(String),
    PathParam(PathParam),
    BodyField(String),
}

/// How many bits of an address count. What is not set is as `[client_ip]` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Prefixes {
    /// [`key::ClientIp::ipv4_prefix`](crate::key::ClientIp::ipv4_prefix).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_prefix: Option<u8>,
    /// [`key::ClientIp::ipv6_prefix`](crate::key::ClientIp::ipv6_prefix).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_prefix: Option<u8>,
}

/// A parameter of the path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct PathParam {
    /// The path with the parameter, in axum's syntax.
    pub path: String,
    /// The parameter's name.
    pub name: String,
}

/// How the client's address is read; as [`key::ClientIp`](crate::key::ClientIp).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct ClientIp {
    /// The proxies whose header is read, by address or network; `unix:` is a peer on a Unix socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_proxies: Option<Vec<String>>,
    /// The number of proxies whose header is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust_hops: Option<usize>,
    /// The header that proxies write: `forwarded`, or one that holds a single address. Default:
    /// `x-forwarded-for`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// How many bits of an IPv4 address count. Default: 32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4_prefix: Option<u8>,
    /// How many bits of an IPv6 address count. Default: 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6_prefix: Option<u8>,
}

impl ClientIp {
    /// The extractor, with these prefixes where they are set.
    pub(super) fn extractor(&self, prefixes: Prefixes) -> crate::key::ClientIp {
        let mut client_ip = crate::key::ClientIp::new();
        if let Some(proxies) = &self.trust_proxies {
            client_ip = client_ip.trust_proxies(proxies);
        }
        if let Some(hops) = self.trust_hops {
            client_ip = client_ip.trust_hops(hops);
        }
        if let Some(header) = &self.header {
            client_ip = client_ip.header(header);
        }
        if let Some(bits) = prefixes.ipv4_prefix.or(self.ipv4_prefix) {
            client_ip = client_ip.ipv4_prefix(bits);
        }
        if let Some(bits) = prefixes.ipv6_prefix.or(self.ipv6_prefix) {
            client_ip = client_ip.ipv6_prefix(bits);
        }
        client_ip
    }
}

impl From<Tagged> for Key {
    fn from(tagged: Tagged) -> Self {
        match tagged {
            Tagged::Ip(prefixes) => Self::Ip(prefixes),
            Tagged::Header(name) => Self::Header(name),
            Tagged::Cookie(name) => Self::Cookie(name),
            Tagged::Query(name) => Self::Query(name),
            Tagged::PathParam(param) => Self::PathParam(param),
            Tagged::BodyField(name) => Self::BodyField(name),
        }
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tagged = match self {
            Self::Ip(prefixes) if *prefixes == Prefixes::default() => {
                return serializer.serialize_str("ip");
            }
            Self::Bearer => return serializer.serialize_str("bearer"),
            Self::Registered(name) => return serializer.serialize_str(name),
            Self::Together(keys) => return keys.serialize(serializer),
            Self::Ip(prefixes) => Tagged::Ip(*prefixes),
            Self::Header(name) => Tagged::Header(name.clone()),
            Self::Cookie(name) => Tagged::Cookie(name.clone()),
            Self::Query(name) => Tagged::Query(name.clone()),
            Self::PathParam(param) => Tagged::PathParam(param.clone()),
            Self::BodyField(name) => Tagged::BodyField(name.clone()),
        };
        tagged.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key like `\"ip\"` or `{ header = \"x-api-key\" }`")
            }

            fn visit_str<E>(self, name: &str) -> Result<Key, E> {
                Ok(match name {
                    "ip" => Key::Ip(Prefixes::default()),
                    "bearer" => Key::Bearer,
                    name => Key::Registered(name.to_owned()),
                })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Key, A::Error> {
                let mut keys = Vec::new();
                while let Some(key) = items.next_element()? {
                    keys.push(key);
                }
                Ok(Key::Together(keys))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Key, A::Error> {
                let tagged: Tagged = one_entry::deserialize(map, "{ header = \"x-api-key\" }")?;
                Ok(tagged.into())
            }
        }

        deserializer.deserialize_any(KeyVisitor)
    }
}

impl JsonSchema for Key {
    fn schema_name() -> Cow<'static, str> {
        "Key".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let tagged = generator.subschema_for::<Tagged>();
        let key = generator.subschema_for::<Self>();
        json_schema!({
            "description": "`ip`, `bearer`, a key with a setting, or the name of a registered key; a list of keys counts by all of them together",
            "anyOf": [
                { "type": "string" },
                tagged,
                { "type": "array", "items": key, "minItems": 2, "maxItems": 4 },
            ],
        })
    }
}
