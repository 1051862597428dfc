//! The requests of a matcher, in a description: [`Requests`].

use std::fmt;

use serde::Serialize;

use crate::{
    key::KeyExtractor,
    matcher::{Kind, Matcher},
};

/// The requests that a [`Matcher`] matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "by")]
#[non_exhaustive]
pub enum Requests {
    /// By method and path.
    Endpoint {
        /// The methods; any method, if empty.
        methods: Vec<String>,
        /// The path, in axum's syntax: `/users/{id}`.
        path: String,
    },
    /// By the client's address. The addresses are not shown.
    ClientIp,
    /// By a key. The keys are not shown.
    Key {
        /// The kind of key, such as `x-api-key`.
        kind: String,
    },
    /// By a function of the request.
    Function,
}

impl From<&Matcher> for Requests {
    fn from(matcher: &Matcher) -> Self {
        match &matcher.kind {
            Kind::Route { methods, path, .. } => {
                let methods = methods.iter().flatten().map(ToString::to_string).collect();
                Self::Endpoint { methods, path: path.to_string() }
            }
            Kind::Closure(_) => Self::Function,
            Kind::ClientIp { .. } => Self::ClientIp,
            Kind::Key { extractor, .. } => Self::Key { kind: extractor.kind().into_owned() },
        }
    }
}

/// `GET, HEAD /users/{id}`, or plain English.
impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint { methods, path } if methods.is_empty() => f.write_str(path),
            Self::Endpoint { methods, path } => write!(f, "{} {path}", methods.join(", ")),
            Self::ClientIp => f.write_str("requests from certain addresses"),
            Self::Key { kind } => write!(f, "requests with certain keys ({kind})"),
            Self::Function => f.write_str("requests that a function of the server chooses"),
        }
    }
}
