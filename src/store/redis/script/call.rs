//! One run of the script: [`ScriptCall`].

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};
#[cfg(test)]
use std::time::Duration;

use redis::{
    Arg, Cmd, ErrorKind, RedisError, RedisResult, Script, ServerErrorKind, Value,
    aio::ConnectionLike, cluster_async::ClusterConnection, cluster_routing::SingleNodeRoutingInfo,
};
use smallvec::SmallVec;

use super::{
    calendars::{self, Windows},
    keys::{self, KeyNames},
    numbers::micros,
    operation::{CHARGE_SIZE, Operation, Used},
    reply::{self, ExpectedReply},
};
#[cfg(test)]
use crate::clock::Now;
use crate::{
    algorithm::Algorithm,
    quota::{MAX_UNITS, Quota},
    store::{Answer, Charge, Correction},
};

const SOURCE: &str = concat!(
    include_str!("arguments.lua"),
    include_str!("algorithms.lua"),
    include_str!("several_quotas.lua"),
    include_str!("penalties.lua"),
    include_str!("given_back.lua"),
    include_str!("count.lua"),
);
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(SOURCE));

#[derive(Clone, Debug)]
pub(crate) struct ScriptCall {
    command: Cmd,
    expected: SmallVec<[ExpectedReply; 4]>,
    /// The shard of its keys. A cluster keeps them on one server.
    pub(crate) shard: u64,
    /// How many keys.
    keys: usize,
    /// The calendars of its quotas. With none, the command has no windows.
    calendars: SmallVec<[u64; 2]>,
    server_time: Arc<AtomicU64>,
}

/// How often a call is made, each time with the windows that the server has asked for. The second time
/// is enough, unless another window begins just then, or another replica counts under further quotas.
const MAX_TRIES: usize = 4;

/// The microseconds after which the server's time is remembered again. Windows are much longer.
const RENEWED_AFTER: u64 = 60_000_000;

impl ScriptCall {
    /// Makes all corrections, and then all charges or none. No two charges are of the same key and
    /// policy. A charge with a lease takes as many units as there are, up to the lease, and its usage
    /// says how many there were before.
    #[expect(clippy::arithmetic_side_effects, reason = "lengths of what is in memory")]
    pub(crate) fn new(names: &KeyNames, corrections: &[Correction], charges: &[Charge]) -> Self {
        let operations = corrections.len() + charges.len();
        let mut keys: SmallVec<[&Charge; 4]> = SmallVec::new();
        // Each with the index of its key.
        let mut fields: SmallVec<[(usize, [u8; 9]); 8]> = SmallVec::new();
        let mut packed = Vec::with_capacity(operations * CHARGE_SIZE);
        let mut penalties = Vec::new();
        let mut expected = SmallVec::with_capacity(operations);
        let mut calendars = SmallVec::new();
        let mut used = Used::default();
        let each =
            corrections.iter().map(|each| Operation::correct(each, &names.holder, &mut penalties));
        let rest = charges.iter().skip(1).map(Some).chain([None]);
        let charged = charges.iter().zip(rest);
        let charged = charged.map(|(charge, next)| Operation::charge(charge, next, &names.holder));
        for operation in each.chain(charged) {
            let charge = operation.charge;
            let is_same = |other: &&Charge| (other.shard, other.key) == (charge.shard, charge.key);
            let key = keys.iter().position(is_same).unwrap_or_else(|| {
                keys.push(charge);
                keys.len() - 1
            });
            let mut index_of = |field: [u8; 9]| {
                let fields_of_key = fields.iter().filter(|(of_key, _)| *of_key == key);
                let (mut known, count) = (fields_of_key.clone(), fields_of_key.count());
                known.position(|(_, other)| *other == field).unwrap_or_else(|| {
                    fields.push((key, field));
                    count
                })
            };
            let field = index_of(keys::field(charge));
            let second = operation.second_field().map(&mut index_of);
            calendars.extend(calendars::number(&charge.quota));
            used.add(&operation, second.is_some());
            expected.push(operation.pack(key, field, second, &mut packed));
        }
        let operations = used.pack(keys.len(), &fields, &packed);
        let mut command =
            Cmd::with_capacity(4 + keys.len(), 96 + keys.len() * 64 + operations.len());
        command.arg("EVALSHA").arg(SCRIPT.get_hash()).arg(keys.len());
        for key in &keys {
            command.arg(names.key(key));
        }
        // A call without keys only reads the time, which is the same on any server.
        let shard = keys.last().map_or(0, |key| key.shard);
        command.arg(operations);
        let server_time = Arc::clone(&names.server_time);
        if !calendars.is_empty() {
            command.arg(Windows::new(&calendars, server_time.load(Relaxed)).packed);
        }
        if !penalties.is_empty() {
            if calendars.is_empty() {
                command.arg("");
            }
            command.arg(penalties);
        }
        let keys = keys.len();
        let call = Self { command, expected, shard, keys, calendars, server_time };
        #[cfg(test)]
        if let Some(now) = *names.time.lock().unwrap() {
            return call.at(now, Duration::from_secs(3_600));
        }
        call
    }

    /// Charges a key that no caller has. It writes, since some servers that answer cannot write.
    pub(crate) fn probe(names: &KeyNames, shard: u64) -> Self {
        let quota = Quota::per_second(MAX_UNITS);
        let charge = Charge::new(0, shard.into(), Algorithm::TokenBucket, quota);
        Self::new(names, &[], &[charge])
    }

    /// The cluster's slot of its keys.
    pub(crate) fn slot(&self) -> u16 {
        keys::slot(self.shard)
    }

    /// The same call, run as if it was `now`. Counts are kept longer than they matter, since a test's
    /// time is not the server's.
    #[cfg(test)]
    pub(super) fn at(mut self, now: Now, longer: Duration) -> Self {
        // Before the time come the operations, the windows and the penalties.
        for _ in self.command.args_iter().count()..self.keys + 6 {
            self.command.arg("");
        }
        self.command.arg(micros(now)).arg(longer.as_millis() as u64);
        self
    }

    /// Runs the script where its keys are. A server that does not know the script gets it with the
    /// call.
    pub(crate) async fn run(&self, connection: &mut impl ConnectionLike) -> RedisResult<Answer> {
        let again = match self.run_once(connection).await? {
            Ok(answer) => return Ok(answer),
            Err(again) => again,
        };
        // Boxed, as all that happens seldom, so that the futures of other calls stay small.
        Box::pin(again.run_again(connection)).await
    }

    async fn run_once(
        &self,
        connection: &mut impl ConnectionLike,
    ) -> RedisResult<Result<Answer, Box<Self>>> {
        let reply = match self.command.query_async(connection).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                Box::pin(async { self.with_source().query_async(connection).await }).await
            }
            reply => reply,
        };
        self.answer_or_again(&reply?)
    }

    async fn run_again(
        mut self: Box<Self>,
        connection: &mut impl ConnectionLike,
    ) -> RedisResult<Answer> {
        for _ in 1..MAX_TRIES {
            match self.run_once(connection).await? {
                Ok(answer) => return Ok(answer),
                Err(call) => self = call,
            }
        }
        Err(unexpected())
    }

    /// Runs the script on a server of a cluster that takes over the slot of its keys.
    pub(crate) async fn run_asking(
        &self,
        connection: &mut ClusterConnection,
        node: SingleNodeRoutingInfo,
    ) -> RedisResult<Answer> {
        let mut again: Option<Box<Self>> = None;
        for _ in 0..MAX_TRIES {
            let call = again.as_deref().unwrap_or(self);
            let mut asking = redis::pipe();
            asking.cmd("ASKING").add_command(call.with_source());
            let mut replies = connection.route_pipeline(asking, 0, 2, node.clone()).await?;
            let reply = replies.pop().ok_or_else(unexpected)?.extract_error()?;
            match call.answer_or_again(&reply)? {
                Ok(answer) => return Ok(answer),
                Err(call) => again = Some(call),
            }
        }
        Err(unexpected())
    }

    /// The answer; or the call that is to be made instead, as the script has done nothing without the
    /// windows of some calendars.
    fn answer_or_again(&self, reply: &Value) -> RedisResult<Result<Answer, Box<Self>>> {
        if let Value::BulkString(bytes) = reply
            && let Some((micros, needed)) = reply::calendars_needed(bytes)
        {
            self.server_time.store(micros, Relaxed);
            return Ok(Err(Box::new(self.with_windows(needed, micros))));
        }
        let answer = self.read(reply)?;
        let (now, before) = (micros(answer.at), self.server_time.load(Relaxed));
        // Seldom, so that many threads do not wait for each other.
        if now.abs_diff(before) > RENEWED_AFTER {
            self.server_time.store(now, Relaxed);
        }
        Ok(Ok(answer))
    }

    /// The same call with the windows of these calendars as well, at this time of the server.
    fn with_windows(&self, needed: SmallVec<[u64; 4]>, micros: u64) -> Self {
        let mut calendars = self.calendars.clone();
        calendars.extend(needed);
        let windows = Windows::new(&calendars, micros).packed;
        let arguments = self.command.args_iter().filter_map(|argument| match argument {
            Arg::Simple(argument) => Some(argument),
            _ => None,
        });
        let mut command = Cmd::new();
        // The name of the command, the script, the number of keys, the keys, and the operations.
        let before = self.keys.saturating_add(4);
        arguments.clone().take(before).for_each(|argument| _ = command.arg(argument));
        command.arg(windows);
        arguments.skip(before.saturating_add(1)).for_each(|argument| _ = command.arg(argument));
        Self { command, calendars, ..self.clone() }
    }

    /// The command that brings the script along.
    pub(super) fn with_source(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(SOURCE);
        for argument in self.command.args_iter().skip(2) {
            if let Arg::Simple(argument) = argument {
                command.arg(argument);
            }
        }
        command
    }

    /// Whatever bytes a server sends, they are an answer or an error.
    pub(super) fn read(&self, reply: &Value) -> RedisResult<Answer> {
        let answer = match reply {
            Value::BulkString(reply) => reply::read(&self.expected, reply),
            _ => None,
        };
        answer.ok_or_else(unexpected)
    }
}

fn unexpected() -> RedisError {
    let problem = "the script's answer is not as expected";
    RedisError::from((ErrorKind::UnexpectedReturnType, problem))
}

/// Reads any bytes as the reply to these corrections and charges.
///
/// # Panics
/// If the answer cannot be true.
#[cfg(any(fuzzing, test))]
pub(crate) fn read_any(
    corrections: &[Correction],
    charges: &[Charge],
    reply: &[u8],
) -> Result<Answer, crate::store::StoreError> {
    let call = ScriptCall::new(&KeyNames::new(""), corrections, charges);
    let answer = call.read(&Value::BulkString(reply.to_vec()));
    if let Ok(answer) = &answer {
        reply::check(&call.expected, answer);
    }
    answer.map_err(|error| crate::store::StoreError::new(error.to_string()))
}
