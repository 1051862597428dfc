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
    /// Those that are among all of these.
    All {
        /// The parts.
        of: Vec<Self>,
    },
    /// Those that are among one of these, or several.
    Any {
        /// The parts.
        of: Vec<Self>,
    },
    /// All but these.
    Not {
        /// The requests that are left out.
        of: Box<Self>,
    },
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
            Kind::All(parts) => Self::All { of: parts.iter().map(Self::from).collect() },
            Kind::Any(parts) => Self::Any { of: parts.iter().map(Self::from).collect() },
            Kind::Not(part) => Self::Not { of: Box::new(Self::from(&**part)) },
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
            Self::All { of } => write!(f, "({})", joined(of, ") and (")),
            Self::Any { of } => write!(f, "({})", joined(of, ") or (")),
            Self::Not { of } => write!(f, "all but ({of})"),
        }
    }
}

fn joined(requests: &[Requests], between: &str) -> String {
    requests.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}
