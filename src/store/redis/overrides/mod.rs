//! Overrides that replicas share in Redis: [`RedisOverrides`].
//!
//! # Key and fields
//! All overrides are in one hash, which is in the slot of the probe's key:
//! ```text
//! tower-quota:{AAAAAAAAAAA}overrides:<space: u64>    base64
//!   <caller: 16 bytes> b                    a block of the caller
//!   <caller: 16 bytes> q <policy>           the caller's quota under a policy
//!       f64 since, f64 until                microseconds since 1970, by the server's clock
//!       JSON                                the quota, the reason and the author
//!   version                                 f64 number, and the id of the last change: 8 bytes
//!   log                                     the last 256 changes; for each: id, u16 length, field
//!   expires                                 when the last override ends, as decimal digits
//! ```
//! A version is a number, which each change raises, and a random id. So a replica sees whether the
//! server has lost a change that the replica knows, and then made another one: after a fail-over, say.
//! Then, or if the log does not go back far enough, it gets all overrides.
//!
//! # Reply
//! An array: the server's time in microseconds; the version; 1 if these are all overrides; 1 if there
//! was no room; field and value of what was replaced or ended; and field and value of what has changed.
//! An override that was ended has an empty value.
//!
//! # What cannot be read
//! Another release may have written it, or anybody else. If its field is that of a block, the caller is
//! blocked as long as it is there. A quota that cannot be read is left out: the policy's own holds. What
//! names no caller is left out. Each time, the warning `unreadable_override` is given.

mod record;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock},
    time::Duration,
};

use redis::{Cmd, Script, Value};
use tokio::runtime::Handle;

use self::record::{field, read_reply, value};
use super::{connection_manager::ConnectionManager, no_runtime};
use crate::store::{
    MAX_OVERRIDES, OverrideFuture, OverrideStore, OverrideUpdate, OverrideVersion, SharedOverrides,
    StoreError,
};

const SOURCE: &str = include_str!("overrides.lua");
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(SOURCE));

/// How long a server may take. No request waits for it, and all 10,000 overrides take it some 20 ms.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The overrides in one server or cluster.
#[derive(Clone)]
pub(super) struct RedisOverrides {
    pub(super) manager: Arc<ConnectionManager>,
}

/// A command to run, in two forms: a server that does not know the script gets it with the call.
pub(super) struct OverrideCall {
    pub(super) known: Cmd,
    pub(super) with_source: Cmd,
}

impl OverrideCall {
    fn new(key: &str, arguments: &[&[u8]]) -> Self {
        let command = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(1).arg(key).arg(arguments);
            command
        };
        Self { known: command("EVALSHA", SCRIPT.get_hash()), with_source: command("EVAL", SOURCE) }
    }

    fn read(key: &str, version: Option<OverrideVersion>) -> Self {
        Self::new(key, &[b"read", version_bytes(&version), b"", b""])
    }

    fn change(key: &str, update: &OverrideUpdate, version: Option<OverrideVersion>) -> Self {
        let id = RandomState::new().hash_one(0).to_be_bytes();
        let version = version_bytes(&version);
        match update {
            OverrideUpdate::Set(new) => {
                let time = new.until.saturating_sub(new.since).as_micros().to_string();
                let (field, value) = (field(new.caller, new.policy()), value(new));
                let max = MAX_OVERRIDES.to_string();
                let arguments: [&[u8]; 7] =
                    [b"set", version, &id, &field, time.as_bytes(), &value, max.as_bytes()];
                Self::new(key, &arguments)
            }
            OverrideUpdate::End { caller, policy } => {
                Self::new(key, &[b"end", version, &id, &field(*caller, policy.as_deref())])
            }
            OverrideUpdate::EndAll(caller) => {
                Self::new(key, &[b"end all", version, &id, &caller.to_bytes()])
            }
        }
    }
}

fn version_bytes(version: &Option<OverrideVersion>) -> &[u8] {
    version.as_ref().map_or(&[], |version| &version.0)
}

impl RedisOverrides {
    async fn read_changes(
        self,
        key: String,
        known: Option<OverrideVersion>,
    ) -> Result<SharedOverrides, StoreError> {
        if let Some(known) = known {
            // One cheap command, as mostly nothing has changed.
            let mut version = redis::cmd("HMGET");
            version.arg(&key).arg("version");
            if is_version(&self.manager.ask(&version, TIMEOUT).await?, known) {
                return Ok(unchanged(known));
            }
        }
        let call = OverrideCall::read(&key, known);
        read_reply(&self.manager.run_overrides(&call, TIMEOUT).await?)
    }
}

impl OverrideStore for RedisOverrides {
    fn read(&self, space: u64, known: Option<OverrideVersion>) -> OverrideFuture {
        let key = self.manager.names.overrides(space);
        Box::pin(self.clone().read_changes(key, known))
    }

    fn change(
        &self,
        space: u64,
        change: OverrideUpdate,
        known: Option<OverrideVersion>,
    ) -> OverrideFuture {
        let Ok(runtime) = Handle::try_current() else {
            return Box::pin(async { Err(no_runtime()) });
        };
        let call = OverrideCall::change(&self.manager.names.overrides(space), &change, known);
        let manager = Arc::clone(&self.manager);
        // A task makes the change even if the caller leaves.
        let changing = runtime.spawn(async move { manager.run_overrides(&call, TIMEOUT).await });
        Box::pin(async {
            read_reply(&changing.await.map_err(|error| super::ended_early(&error))??)
        })
    }

    fn first_read_timeout(&self) -> Duration {
        // A read does not take longer.
        self.manager.decision_timeout().min(TIMEOUT)
    }
}

/// The answer that nothing has changed.
fn unchanged(version: OverrideVersion) -> SharedOverrides {
    SharedOverrides::new(version, Duration::ZERO)
}

/// Whether the reply is the hash's version. Without a hash, the version is 0.
fn is_version(reply: &Value, known: OverrideVersion) -> bool {
    match reply {
        Value::Array(values) => match &values[..] {
            [Value::BulkString(version)] => version[..] == known.0,
            [Value::Nil] => known.0 == [0; 16],
            _ => false,
        },
        _ => false,
    }
}
