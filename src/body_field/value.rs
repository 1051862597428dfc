//! The value of a field: [`Value`].

use crate::key::{Extracted, same_text};

/// What was found of a field so far.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Absent,
    Null,
    Scalar(String),
    /// There twice, or an array or object: it is not known what the handler reads.
    Unclear,
}

impl Value {
    pub(super) fn add(&mut self, found: Self) {
        *self = match self {
            Self::Absent => found,
            _ => Self::Unclear,
        };
    }

    pub(super) fn text(text: &str) -> Self {
        Self::Scalar(text.to_owned())
    }

    /// The field as a key.
    pub(super) fn extracted(&self) -> Extracted<'static> {
        match self {
            Self::Absent | Self::Null => Extracted::Missing,
            Self::Unclear => Extracted::UNREADABLE,
            // Handlers in some languages end the text at a NUL.
            Self::Scalar(text) if text.contains('\0') => Extracted::UNREADABLE,
            Self::Scalar(text) => Extracted::Found(same_text(text).into()),
        }
    }
}

impl From<serde_json::Value> for Value {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(value) => Self::Scalar(value.to_string()),
            serde_json::Value::Number(number) => Self::Scalar(number.to_string()),
            serde_json::Value::String(text) => Self::Scalar(text),
            serde_json::Value::Array(_) | serde_json::Value::Object(_) => Self::Unclear,
        }
    }
}
