//! The overrides of a limiter as data that outlives the process: [`SavedOverrides`].

use serde::{Deserialize, Serialize};

use super::OverrideError;
use crate::{key::Fingerprinter, override_record::Override};

/// All overrides of a limiter, to be kept in a file or in a database; from
/// [`Overrides::save`](crate::overrides::Overrides::save).
///
/// It implements the traits of `serde`. Callers are in it as fingerprints only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedOverrides {
    /// By which secret the fingerprints were made; it does not disclose the secret.
    secret_id: String,
    overrides: Vec<Override>,
}

impl SavedOverrides {
    pub(super) fn new(fingerprints: &Fingerprinter, overrides: Vec<Override>) -> Self {
        Self { secret_id: secret_id(fingerprints), overrides }
    }

    pub(super) fn for_secret(
        self,
        fingerprints: &Fingerprinter,
    ) -> Result<Vec<Override>, OverrideError> {
        let is_same = self.secret_id == secret_id(fingerprints);
        if is_same { Ok(self.overrides) } else { Err(OverrideError::OtherSecret) }
    }

    /// The overrides, in the order in which they were set.
    #[must_use]
    pub fn overrides(&self) -> &[Override] {
        &self.overrides
    }
}

fn secret_id(fingerprints: &Fingerprinter) -> String {
    format!("{:016x}", fingerprints.identity())
}
