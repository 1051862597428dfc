//! An explanation as plain text.

use std::fmt;

use super::{
    CallerExplanation, ExpectedVerdict, Explanation, Numbers, PolicyExplanation, PolicyVerdict,
    QuotaFrom, TriedKey, TriedMatcher,
};
use crate::{
    algorithm::Algorithm,
    policy::english::{self, rounded},
};

/// Several lines of plain text, for a terminal.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.verdict)?;
        if self.without_store {
            f.write_str(
                "The store does not answer: each policy does what it is set to do then.\n",
            )?;
        }
        for tried in &self.tried {
            writeln!(f, "{tried}")?;
        }
        match &self.category {
            None if self.exempt => f.write_str("The request is exempt: no policy counts it.\n")?,
            None => f.write_str("The request is in no category.\n")?,
            Some(_) => {}
        }
        for other in &self.other_categories {
            writeln!(f, "It counts in category `{other}` too: routers read its path differently.")?;
        }
        self.caller.iter().try_for_each(|caller| write!(f, "{caller}"))?;
        for walk in &self.addresses {
            f.write_str("\nThe client's address:\n")?;
            walk.to_string().lines().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        if self.policies.is_empty() && !self.exempt && self.verdict == ExpectedVerdict::Admitted {
            f.write_str("No policy applies.\n")?;
        }
        self.policies.iter().try_for_each(|policy| write!(f, "\n{policy}"))
    }
}

impl fmt::Display for ExpectedVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admitted => f.write_str("The request passes."),
            Self::Held { wait } => {
                write!(f, "The request is held for {}, and then passes.", rounded(*wait))
            }
            Self::Refused { policy, reason, retry_after } => {
                f.write_str("The request is refused")?;
                if let Some(policy) = policy {
                    write!(f, " by policy `{policy}`")?;
                }
                write!(f, ": {reason}")?;
                match retry_after {
                    Some(wait) => write!(f, ". It passes in {}.", rounded(*wait)),
                    None => f.write_str(". Waiting does not help."),
                }
            }
        }
    }
}

impl fmt::Display for TriedMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.category {
            Some(category) => write!(f, "category `{category}`: {}", self.requests)?,
            None => write!(f, "exemption: {}", self.requests)?,
        }
        if self.in_all_readings {
            f.write_str(", in any reading of the path")?;
        }
        f.write_str(if self.matches { ": matches" } else { ": does not match" })
    }
}

impl fmt::Display for CallerExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "The caller: {}", self.key)?;
        if let Some(left) = self.blocked {
            let block = self.overrides.iter().find(|own| own.policy().is_none());
            let author = block.and_then(|block| block.author.as_deref());
            let by = match self.blocked_by_source {
                true => "the override source",
                false => operator(author),
            };
            write!(f, ", blocked by {by} for {}", rounded(left))?;
            let reason = block.and_then(|block| block.reason.as_deref());
            if let Some(reason) = reason.filter(|_| !self.blocked_by_source) {
                write!(f, ": {reason}")?;
            }
        }
        if self.source_unavailable {
            f.write_str(", of whom the override source does not tell: it does not answer")?;
        }
        f.write_str("\n")
    }
}

impl fmt::Display for TriedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found { kind } => write!(f, "{kind}"),
            Self::Missing { kind } => write!(f, "{kind} (missing)"),
            Self::Unreadable { kind, status } => write!(f, "{kind} (unreadable, {status})"),
        }
    }
}

impl fmt::Display for PolicyExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dry_run = if self.dry_run { ", a dry run" } else { "" };
        writeln!(f, "Policy `{}`{dry_run}: {}", self.name, self.verdict)?;
        let limit = english::limit(&self.quota, self.algorithm, self.unit.as_deref());
        writeln!(f, "  quota: {limit}{}", self.quota_from)?;
        match &self.keys[..] {
            [] if self.global => f.write_str("  key: none, all requests count together\n")?,
            [] => {}
            keys => {
                let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
                writeln!(f, "  key: {}", keys.join(", then "))?;
            }
        }
        if let Some(Numbers { cost, limit, remaining, reset }) = self.numbers {
            let at_end = if self.settles_at_end { ", until it is settled at the end" } else { "" };
            write!(f, "  cost: {cost}{at_end}\n  left: {remaining} of {limit}")?;
            let is_in_flight = self.algorithm == Algorithm::InFlight;
            match (remaining < limit, self.verdict) {
                (true, PolicyVerdict::Admitted) if is_in_flight => {
                    f.write_str(" after the request, more when one ends\n")?;
                }
                (true, _) if is_in_flight => f.write_str(", more when a request ends\n")?,
                (true, PolicyVerdict::Admitted) => {
                    writeln!(f, " after the request, more in {}", rounded(reset))?;
                }
                (true, _) => writeln!(f, ", more in {}", rounded(reset))?,
                (false, _) => f.write_str("\n")?,
            }
        }
        if let Some(penalty) = &self.penalty {
            writeln!(f, "  penalty: {penalty}")?;
        }
        if let Some(block) = self.blocked {
            writeln!(f, "  blocked: for {} more", rounded(block))?;
        }
        if !self.or_else.is_empty() {
            let names: Vec<_> = self.or_else.iter().map(|name| format!("`{name}`")).collect();
            writeln!(f, "  or else: {}", names.join(", then "))?;
        }
        if !self.hold.is_zero() {
            write!(f, "  holds a request: up to {}", rounded(self.hold))?;
            if let Some(tenant) = &self.fair_by {
                write!(f, ", in turns by {tenant}")?;
            }
            f.write_str("\n")?;
        }
        Ok(())
    }
}

impl fmt::Display for PolicyVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("passes, as the quota is unlimited"),
            Self::Skipped => f.write_str("passes uncounted, as there is no key"),
            Self::Admitted => f.write_str("passes"),
            Self::PassedOver => f.write_str("passed over, another policy of its waterfall decides"),
            Self::Refused { reason, retry_after: None } => write!(f, "refuses: {reason}"),
            Self::Refused { reason, retry_after: Some(wait) } => {
                write!(f, "refuses for {}: {reason}", rounded(*wait))
            }
            Self::NotAsked => f.write_str("not asked"),
        }
    }
}

/// What follows the quota.
impl fmt::Display for QuotaFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy => Ok(()),
            #[cfg(feature = "calendar")]
            Self::Schedule { hours } => write!(f, " (at the hours {hours})"),
            Self::Plan { name } => write!(f, " (plan `{name}`)"),
            Self::UnknownPlan => f.write_str(" (the policy's own: the plan is not in its table)"),
            Self::Function => f.write_str(" (by a function of the request)"),
            Self::Invalid => f.write_str(" (a function gave a quota that cannot be)"),
            Self::Override { left, author, reason } => {
                let operator = operator(author.as_deref());
                write!(f, " (set by {operator}, for {} more", rounded(*left))?;
                if let Some(reason) = reason {
                    write!(f, ": {reason}")?;
                }
                f.write_str(")")
            }
            Self::OverrideSource => f.write_str(" (by the override source)"),
        }
    }
}

fn operator(author: Option<&str>) -> &str {
    author.unwrap_or("an operator")
}
