//! An override in a field of the hash, and the script's reply: [`read_reply`].

use std::{str, time::Duration};

use redis::Value;
use serde::{Deserialize, Serialize};

use crate::{
    key::Fingerprint,
    override_record::{MAX_TIME, Override, OverrideKind, SavedQuota},
    store::{OverrideVersion, SharedOverrides, StoreError},
    warning::{Code, warn},
};

const BLOCK: u8 = b'b';
const QUOTA: u8 = b'q';

/// The text of a block that cannot be read.
const UNREADABLE: &str = "this block cannot be read";

/// What an override says, besides its times.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    quota: Option<SavedQuota>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    author: Option<String>,
}

/// The field of a caller's block, or of its quota under a policy.
pub(super) fn field(caller: Fingerprint, policy: Option<&str>) -> Vec<u8> {
    let mut field = caller.to_bytes().to_vec();
    field.push(if policy.is_some() { QUOTA } else { BLOCK });
    field.extend_from_slice(policy.unwrap_or_default().as_bytes());
    field
}

/// What stands in the field behind the times, which the server writes.
#[expect(clippy::expect_used, reason = "these types have no key that is no text")]
pub(super) fn value(new: &Override) -> Vec<u8> {
    let quota = match &new.kind {
        OverrideKind::Block => None,
        OverrideKind::Quota { quota, .. } => Some(SavedQuota::new(*quota)),
    };
    let text = Text { quota, reason: new.reason.clone(), author: new.author.clone() };
    serde_json::to_vec(&text).expect("it can be written as JSON")
}

/// Whose field it is, and of which policy; `None` if it is that of no caller.
fn read_field(field: &[u8]) -> Option<(Fingerprint, Option<String>)> {
    let (caller, rest) = field.split_first_chunk::<16>()?;
    let (kind, policy) = rest.split_first()?;
    let policy = str::from_utf8(policy).ok()?;
    let policy = match (*kind, policy) {
        (BLOCK, "") => None,
        (QUOTA, policy) => Some(policy.to_owned()),
        _ => return None,
    };
    Some((Fingerprint::from_bytes(*caller), policy))
}

/// The override in a field; `None` if it cannot be read.
fn read_value(caller: Fingerprint, policy: Option<&str>, value: &[u8]) -> Option<Override> {
    let (since, rest) = value.split_first_chunk::<8>()?;
    let (until, text) = rest.split_first_chunk::<8>()?;
    let (since, until) = (read_time(*since)?, read_time(*until)?);
    let Text { quota, reason, author } = serde_json::from_slice(text).ok()?;
    let kind = match (policy, quota) {
        (None, None) => OverrideKind::Block,
        (Some(policy), Some(quota)) => {
            OverrideKind::Quota { policy: policy.to_owned(), quota: quota.quota()? }
        }
        _ => return None,
    };
    let read = Override { caller, kind, reason, author, since, until };
    read.text_problem().is_none().then_some(read)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number")]
fn read_time(micros: [u8; 8]) -> Option<Duration> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let micros = f64::from_le_bytes(micros);
    let is_whole = (0.0..EXACT).contains(&micros) && micros.fract() == 0.0;
    is_whole.then(|| Duration::from_micros(micros as u64))
}

/// Reads the script's reply. Whatever a server sends, it is an answer or an error.
pub(super) fn read_reply(reply: &Value) -> Result<SharedOverrides, StoreError> {
    let unexpected = || StoreError::new("the answer about overrides is not as expected");
    try_read(reply).ok_or_else(unexpected)
}

fn try_read(reply: &Value) -> Option<SharedOverrides> {
    let Value::Array(parts) = reply else { return None };
    let [Value::BulkString(now), Value::BulkString(version), is_all, is_full, before, records] =
        &parts[..]
    else {
        return None;
    };
    let now = Duration::from_micros(str::from_utf8(now).ok()?.parse().ok()?);
    let version = OverrideVersion(version[..].try_into().ok()?);
    let (mut set, mut ended) = (Vec::new(), Vec::new());
    for (field, value) in pairs(records)? {
        match (read_field(field), value) {
            (None, _) => warn_unreadable(),
            (Some(ended_of), []) => ended.push(ended_of),
            (Some((caller, policy)), value) => {
                match read_record(caller, policy.as_deref(), value, now) {
                    Some(read) => set.push(read),
                    // If another one was known before, it does not hold any more.
                    None => ended.push((caller, policy)),
                }
            }
        }
    }
    let before = pairs(before)?.filter_map(|(field, value)| {
        let (caller, policy) = read_field(field)?;
        read_record(caller, policy.as_deref(), value, now)
    });
    Some(SharedOverrides {
        version,
        now,
        is_all: flag(is_all)?,
        set,
        ended,
        before: before.collect(),
        is_full: flag(is_full)?,
    })
}

/// The override in a field. A block that cannot be read is a block all the same.
fn read_record(
    caller: Fingerprint,
    policy: Option<&str>,
    value: &[u8],
    now: Duration,
) -> Option<Override> {
    let read = read_value(caller, policy, value);
    if read.is_some() {
        return read;
    }
    warn_unreadable();
    let unreadable = || {
        let until = now.saturating_add(MAX_TIME);
        let block = Override::new(caller, OverrideKind::Block, now, until);
        Override { reason: Some(UNREADABLE.to_owned()), ..block }
    };
    policy.is_none().then(unreadable)
}

fn pairs(values: &Value) -> Option<impl Iterator<Item = (&[u8], &[u8])>> {
    let Value::Array(values) = values else { return None };
    let is_text = |value: &Value| matches!(value, Value::BulkString(_));
    let (pairs, []) = values.as_chunks::<2>() else { return None };
    values.iter().all(is_text).then_some(())?;
    Some(pairs.iter().filter_map(|pair| match pair {
        [Value::BulkString(field), Value::BulkString(value)] => Some((&field[..], &value[..])),
        _ => None,
    }))
}

fn flag(value: &Value) -> Option<bool> {
    match value {
        Value::Int(0) => Some(false),
        Value::Int(1) => Some(true),
        _ => None,
    }
}

#[cold]
fn warn_unreadable() {
    warn(Code::UnreadableOverride, "", || {
        "an override in the store cannot be read: a newer release or somebody else has written it; a \
         block that cannot be read blocks its caller, and a quota that cannot be read is left out; end \
         it with `end_all`, or use the newer release"
            .to_owned()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;

    const CALLER: Fingerprint = Fingerprint(7 << 90 | 3);

    fn stored(new: &Override) -> Vec<u8> {
        let micros = |time: Duration| (time.as_micros() as f64).to_le_bytes();
        [&micros(new.since)[..], &micros(new.until)[..], &value(new)[..]].concat()
    }

    fn block() -> Override {
        let at = Duration::from_secs;
        Override::new(CALLER, OverrideKind::Block, at(1_000), at(4_600))
    }

    fn quota(quota: Quota) -> Override {
        Override { kind: OverrideKind::Quota { policy: "read".to_owned(), quota }, ..block() }
    }

    #[test]
    fn each_override_is_read_as_it_was_written() {
        let reasoned =
            Override { reason: Some("é\"".into()), author: Some("ana".into()), ..block() };
        for new in [
            block(),
            reasoned,
            quota(Quota::per_minute(7).burst(2)),
            quota(Quota::per_day(0)),
            quota(Quota::unlimited()),
            quota(Quota::in_flight(4)),
        ] {
            let (caller, policy) = read_field(&field(CALLER, new.policy())).unwrap();
            assert_eq!(read_value(caller, policy.as_deref(), &stored(&new)), Some(new));
        }
    }

    #[test]
    fn an_unreadable_block_blocks_and_an_unreadable_quota_is_left_out() {
        let now = Duration::from_secs(5_000);
        let whole = stored(&block());
        for value in [b"", &whole[..15], &whole[..16], &[0xff; 40][..]] {
            let read = read_record(CALLER, None, value, now).unwrap();
            assert_eq!((read.left(now), read.kind), (MAX_TIME, OverrideKind::Block));
            assert_eq!(read_record(CALLER, Some("read"), value, now), None);
        }
        // A block with a quota, and a quota without one.
        let of_quota = stored(&quota(Quota::per_day(1)));
        assert!(read_record(CALLER, None, &of_quota, now).unwrap().reason.is_some());
        assert_eq!(read_record(CALLER, Some("read"), &whole, now), None);
        for field in [&b"version"[..], &[1; 16], &[1; 17], &[b'b'; 18]] {
            assert_eq!(read_field(field), None);
        }
    }

    #[test]
    fn a_reply_of_another_shape_is_an_error() {
        let text = |text: &[u8]| Value::BulkString(text.to_vec());
        let reply = |records: Vec<Value>| {
            let version = text(&[1; 16]);
            let lists = [Value::Array(vec![]), Value::Array(records)];
            let head = [text(b"5000000000"), version, Value::Int(1), Value::Int(0)];
            Value::Array(head.into_iter().chain(lists).collect())
        };
        let (name, ended) = (field(CALLER, None), field(CALLER, Some("read")));
        let records = vec![text(&name), text(&stored(&block())), text(&ended), text(b"")];
        let read = read_reply(&reply(records)).unwrap();
        assert_eq!((read.set, read.now), (vec![block()], Duration::from_secs(5_000)));
        assert_eq!(read.ended, [(CALLER, Some("read".to_owned()))]);
        for wrong in [
            Value::Nil,
            Value::Array(vec![]),
            reply(vec![text(&name)]),
            reply(vec![text(&name), Value::Nil]),
        ] {
            assert!(read_reply(&wrong).is_err());
        }
    }
}
