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
    Penalty,
    DryRunAllowed,
    DryRunRefused,
    DryRunPenalty,
}

impl VerdictLabel {
    /// Each with its text, in the order of their numbers.
    pub(super) const ALL: [(Self, &str); 11] = [
        (Self::Allowed, "allowed"),
        (Self::Held, "held"),
        (Self::Refused, "refused"),
        (Self::MissingKey, "missing_key"),
        (Self::UnreadableKey, "unreadable_key"),
        (Self::Unavailable, "unavailable"),
        (Self::Blocked, "blocked"),
        (Self::Penalty, "penalty"),
        (Self::DryRunAllowed, "dry_run_allowed"),
        (Self::DryRunRefused, "dry_run_refused"),
        (Self::DryRunPenalty, "dry_run_penalty"),
    ];

    pub(super) fn is_dry_run(self) -> bool {
        matches!(self, Self::DryRunAllowed | Self::DryRunRefused | Self::DryRunPenalty)
    }
}
