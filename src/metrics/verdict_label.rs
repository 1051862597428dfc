//! The values of the label `verdict`: [`VerdictLabel`].

/// What a policy decided about a request, as a value of the label `verdict`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum VerdictLabel {
    Allowed,
    Held,
    Refused,
    MissingKey,
    UnreadableKey,
    Unavailable,
    Blocked,
    DryRunAllowed,
    DryRunRefused,
}

impl VerdictLabel {
    pub(super) const ALL: [Self; 9] = [
        Self::Allowed,
        Self::Held,
        Self::Refused,
        Self::MissingKey,
        Self::UnreadableKey,
        Self::Unavailable,
        Self::Blocked,
        Self::DryRunAllowed,
        Self::DryRunRefused,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Held => "held",
            Self::Refused => "refused",
            Self::MissingKey => "missing_key",
            Self::UnreadableKey => "unreadable_key",
            Self::Unavailable => "unavailable",
            Self::Blocked => "blocked",
            Self::DryRunAllowed => "dry_run_allowed",
            Self::DryRunRefused => "dry_run_refused",
        }
    }

    pub(super) fn is_dry_run(self) -> bool {
        matches!(self, Self::DryRunAllowed | Self::DryRunRefused)
    }
}
