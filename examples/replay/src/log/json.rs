//! Lines that are JSON objects: Caddy's access log, or an nginx `log_format` with `escape=json`.
//!
//! Caddy's request is an object of its own, with all headers. In a flat object, fields have the names of
//! nginx's variables, and `http_x_api_key` is the header `X-Api-Key`.

use std::{borrow::Cow, fmt, net::IpAddr};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    Headers, Parsed, Request, text,
    time::{self, Times},
};

/// What Caddy writes in place of a credential, unless its setting `log_credentials` is on.
pub const REDACTED: &str = "REDACTED";

/// `wants` says which headers to keep, by their names in lower case.
pub fn parse<'a>(line: &'a str, times: &mut Times, wants: &dyn Fn(&str) -> bool) -> Parsed<'a> {
    let mut parser = serde_json::Deserializer::from_str(line);
    let mut found = Found::default();
    if (Object { found: &mut found, wants, is_top: true }).deserialize(&mut parser).is_err()
        || parser.end().is_err()
    {
        return Parsed::Broken("it is no JSON object");
    }
    let Found { time, took, remote, client, method, target, line, status, headers, .. } = found;
    let (method, target) = match (method, target, line.as_deref().map(text::request_line)) {
        (Some(method), Some(target), _) => (method, target),
        (_, _, Some(Some((method, target)))) => {
            (method.to_owned().into(), target.to_owned().into())
        }
        // What else a server logs.
        _ => return Parsed::NoRequest,
    };
    let time = match time {
        Some((_, Scalar::Number(number))) => time::since_1970(number),
        Some((_, Scalar::Text(text))) => times.read(&text),
        Some((_, Scalar::Other)) | None => None,
    };
    let Some(time) = time else { return Parsed::Broken("its time cannot be read") };
    let Some(status) = status else { return Parsed::Broken("it has no status") };
    // An address that the server has found behind its own proxies needs no header any more.
    let is_found = client.is_some_and(|client| Some(client) != remote);
    let headers = if is_found { without_addresses(headers) } else { headers };
    let address = client.or(remote);
    Parsed::Request(Request { time, took, address, method, target, status, headers })
}

fn without_addresses(mut headers: Headers<'_>) -> Headers<'_> {
    headers.retain(|(name, _)| !name.contains("forwarded") && !name.ends_with("-ip"));
    headers
}

#[derive(Default)]
struct Found<'a> {
    /// With the rank of the field: the finest time counts.
    time: Option<(u8, Scalar<'a>)>,
    took: Option<u64>,
    remote: Option<IpAddr>,
    client: Option<IpAddr>,
    method: Option<Cow<'a, str>>,
    target: Option<Cow<'a, str>>,
    has_raw_target: bool,
    /// `GET / HTTP/1.1`.
    line: Option<Cow<'a, str>>,
    status: Option<u16>,
    headers: Headers<'a>,
}

/// Reads an object into what was found: the whole line, or Caddy's `request` in it.
struct Object<'f, 'a> {
    found: &'f mut Found<'a>,
    wants: &'f dyn Fn(&str) -> bool,
    is_top: bool,
}

impl<'a> DeserializeSeed<'a> for Object<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Object<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    /// The `request` of a flat object.
    fn visit_borrowed_str<E: de::Error>(self, line: &'a str) -> Result<(), E> {
        if self.is_top {
            return Err(E::custom("a text"));
        }
        self.found.line = Some(line.into());
        Ok(())
    }

    fn visit_str<E: de::Error>(self, line: &str) -> Result<(), E> {
        if self.is_top {
            return Err(E::custom("a text"));
        }
        self.found.line = Some(line.to_owned().into());
        Ok(())
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { found, wants, is_top } = self;
        while let Some(Text(name)) = map.next_key()? {
            match &*name {
                "request" if is_top => {
                    map.next_value_seed(Object { found, wants, is_top: false })?;
                }
                "headers" | "request_headers" => {
                    map.next_value_seed(HeadersOf { found: &mut *found, wants })?;
                }
                "ts" | "msec" | "time" | "timestamp" | "@timestamp" | "time_iso8601"
                | "time_local" => {
                    let rank = u8::from(matches!(&*name, "ts" | "msec"));
                    let time: Scalar<'_> = map.next_value()?;
                    let is_finer = found.time.as_ref().is_none_or(|(known, _)| rank > *known);
                    if is_finer {
                        found.time = Some((rank, time));
                    }
                }
                "duration" | "request_time" => {
                    found.took = match map.next_value()? {
                        Scalar::Number(number) => time::seconds(number),
                        Scalar::Text(text) => time::length(&text),
                        Scalar::Other => None,
                    };
                }
                "remote_ip" | "remote_addr" => found.remote = address(&map.next_value()?),
                "client_ip" => found.client = address(&map.next_value()?),
                "method" | "request_method" => {
                    found.method = map.next_value::<Scalar<'_>>()?.text()
                }
                // `uri` of nginx is the path after its own changes, without the query.
                "request_uri" => {
                    found.target = map.next_value::<Scalar<'_>>()?.text();
                    found.has_raw_target = true;
                }
                "uri" | "path" => {
                    let target = map.next_value::<Scalar<'_>>()?.text();
                    if !found.has_raw_target {
                        found.target = target;
                    }
                }
                "status" => {
                    found.status = match map.next_value()? {
                        Scalar::Number(number) => Some(number as u16),
                        Scalar::Text(text) => text.parse().ok(),
                        Scalar::Other => None,
                    };
                }
                _ => match name.strip_prefix("http_").map(|name| name.replace('_', "-")) {
                    Some(header) if wants(&header) => {
                        let value = map.next_value::<Scalar<'_>>()?.text();
                        // nginx writes nothing, or `-`, for a header that is not there.
                        let value = value.filter(|value| !value.is_empty() && value != "-");
                        found.headers.extend(value.map(|value| (header.into(), value)));
                    }
                    _ => {
                        map.next_value::<IgnoredAny>()?;
                    }
                },
            }
        }
        Ok(())
    }
}

/// An address, perhaps with a port.
fn address(scalar: &Scalar<'_>) -> Option<IpAddr> {
    let Scalar::Text(text) = scalar else { return None };
    let with_port = || text.parse().ok().map(|address: std::net::SocketAddr| address.ip());
    text.parse().ok().or_else(with_port)
}

/// Reads headers: names with a list of values, or one value.
struct HeadersOf<'f, 'a> {
    found: &'f mut Found<'a>,
    wants: &'f dyn Fn(&str) -> bool,
}

impl<'a> DeserializeSeed<'a> for HeadersOf<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for HeadersOf<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("headers")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(name)) = map.next_key()? {
            let name = name.to_ascii_lowercase();
            if (self.wants)(&name) {
                let Values(values) = map.next_value()?;
                let named = |value| (name.clone().into(), value);
                self.found.headers.extend(values.into_iter().map(named));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// One text, or a list of them.
struct Values<'a>(Vec<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Values<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ValuesVisitor;

        impl<'de> Visitor<'de> for ValuesVisitor {
            type Value = Values<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the values of a header")
            }

            fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Values<'de>, E> {
                Ok(Values(vec![value.into()]))
            }

            fn visit_str<E>(self, value: &str) -> Result<Values<'de>, E> {
                Ok(Values(vec![value.to_owned().into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Values<'de>, A::Error> {
                let mut values = Vec::new();
                while let Some(Text(value)) = list.next_element()? {
                    values.push(value);
                }
                Ok(Values(values))
            }
        }

        deserializer.deserialize_any(ValuesVisitor)
    }
}

/// A text that is borrowed unless it has escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Scalar::deserialize(deserializer)? {
            Scalar::Text(text) => Ok(Self(text)),
            Scalar::Number(_) | Scalar::Other => Err(de::Error::custom("no text")),
        }
    }
}

/// A text or a number; whatever else it may be.
enum Scalar<'a> {
    Text(Cow<'a, str>),
    Number(f64),
    Other,
}

impl<'a> Scalar<'a> {
    fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) | Self::Other => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl<'de> Visitor<'de> for ScalarVisitor {
            type Value = Scalar<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(text.into()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Text(text.to_owned().into()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Number(number))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Number(number as f64))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Number(number as f64))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Other)
            }

            fn visit_unit<E>(self) -> Result<Scalar<'de>, E> {
                Ok(Scalar::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar<'de>, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar<'de>, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
        }

        deserializer.deserialize_any(ScalarVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> String {
        let wants = |name: &str| ["x-api-key", "x-forwarded-for", "authorization"].contains(&name);
        match parse(line, &mut Times::default(), &wants) {
            Parsed::Request(request) => {
                let Request { address, method, target, status, took, headers, time } = request;
                let address = address.map_or("?".to_owned(), |address| address.to_string());
                let headers: String =
                    headers.iter().map(|(name, value)| format!(" {name}={value}")).collect();
                let (time, took) = (time / 1_000_000, took.unwrap_or(0) / 1_000);
                format!("{time}ms {took}us {address} {method} {target} {status}{headers}")
            }
            Parsed::NoRequest => "no request".to_owned(),
            Parsed::Broken(reason) => reason.to_owned(),
        }
    }

    #[test]
    fn lines_of_caddy() {
        let line = r#"{"level":"info","ts":1646861401.5241,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":"127.0.0.1","remote_port":"41342","client_ip":"127.0.0.1","proto":"HTTP/2.0","method":"GET","host":"localhost","uri":"/a?b=\"c\"","headers":{"User-Agent":["curl/7.82.0"],"X-Api-Key":["k1","k2"],"Authorization":["REDACTED"]},"tls":{"resumed":false,"version":772}},"bytes_read":0,"user_id":"","duration":0.000929675,"size":10900,"status":200,"resp_headers":{"Server":["Caddy"],"X-Api-Key":["no"]}}"#;
        let shown = "1646861401524ms 929us 127.0.0.1 GET /a?b=\"c\" 200 x-api-key=k1 x-api-key=k2";
        assert_eq!(read(line), format!("{shown} authorization=REDACTED"));
        let behind = line.replace(r#""client_ip":"127.0.0.1""#, r#""client_ip":"2001:db8::7""#);
        let behind = behind.replace(r#""X-Api-Key":["k1","k2"]"#, r#""X-Forwarded-For":["a"]"#);
        assert!(read(&behind).contains(" 2001:db8::7 GET"), "{}", read(&behind));
        assert!(!read(&behind).contains("x-forwarded-for"), "{}", read(&behind));
        assert_eq!(read(r#"{"level":"info","ts":1646861401.5,"msg":"serving"}"#), "no request");
    }

    #[test]
    fn lines_of_nginx() {
        for (line, expected) in [
            (
                r#"{"time":"2025-10-10T12:00:00+00:00","remote_addr":"192.0.2.7","request":"GET /a HTTP/1.1","status":"200","request_time":"0.050","http_x_api_key":"k"}"#,
                "1760097600000ms 50000us 192.0.2.7 GET /a 200 x-api-key=k",
            ),
            (
                r#"{"time_local":"10/Oct/2025:12:00:00 +0000","msec":"1760097600.250","remote_addr":"[2001:db8::7]:443","request_method":"PUT","request_uri":"/b?c","uri":"/d","status":201,"http_x_api_key":"","more":[1,{"a":null}]}"#,
                "1760097600250ms 0us 2001:db8::7 PUT /b?c 201",
            ),
            (
                r#"{"msec":1760097600.25,"uri":"/d","method":"GET","remote_addr":"unix:","status":200}"#,
                "1760097600250ms 0us ? GET /d 200",
            ),
            (r#"{"msec":1760097600.25,"request":"-","status":400}"#, "no request"),
            (r#"{"request":"GET / HTTP/1.1","status":200}"#, "its time cannot be read"),
            (r#"{"msec":1760097600.25,"request":"GET / HTTP/1.1"}"#, "it has no status"),
            (r#"{"msec":1760097600.25,"request":"#, "it is no JSON object"),
            (r#"{"msec":1} {}"#, "it is no JSON object"),
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
    }
}
