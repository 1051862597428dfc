//! The overrides that a limiter knows, by caller: [`OverrideTable`].

use std::{
    array,
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

use super::{CallersOwn, OverrideError, known::Known};
use crate::{
    clock::Now,
    lock::Mutex,
    override_record::Override,
    store::{MAX_OVERRIDES, OverrideVersion},
};

/// A change copies one part of the table of so many.
const PARTS: usize = 64;

/// The overrides that a limiter knows, by the fingerprints of callers.
///
/// A request that looks a caller up takes no lock, writes nothing that threads share, and copies
/// nothing unless the caller has an override.
pub(in crate::limiter) struct OverrideTable {
    /// Whether requests need not look any caller up. Mostly it is so.
    can_skip: AtomicBool,
    /// When the last override ends, by the monotonic clock; 0 if there are none.
    last_end: AtomicU64,
    parts: [ArcSwap<ByCaller>; PARTS],
    writer: Mutex<Writer>,
}

type ByCaller = HashMap<u128, Arc<[Known]>, BuildHasherDefault<FingerprintHasher>>;

/// A fingerprint is a hash already, and callers cannot choose it.
#[derive(Default)]
struct FingerprintHasher(u64);

impl Hasher for FingerprintHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u128(&mut self, fingerprint: u128) {
        // The other half chooses the part.
        self.0 = (fingerprint >> 64) as u64;
    }
}

/// What only changes need.
#[derive(Default)]
struct Writer {
    /// How many overrides there are, with those that have ended and were not removed yet.
    count: usize,
    /// The version of the store that the table has; `None` before the first.
    version: Option<OverrideVersion>,
    /// Whether requests look callers up even if the table is empty.
    never_skips: bool,
}

/// One change of the table.
pub(super) enum Edit {
    Set(Known),
    End { caller: u128, policy: Option<String> },
    EndAll(u128),
}

impl Edit {
    fn caller(&self) -> u128 {
        match self {
            Self::Set(known) => known.data.caller.0,
            Self::End { caller, .. } | Self::EndAll(caller) => *caller,
        }
    }
}

impl Default for OverrideTable {
    fn default() -> Self {
        Self {
            can_skip: AtomicBool::new(true),
            last_end: AtomicU64::new(0),
            parts: array::from_fn(|_| ArcSwap::default()),
            writer: Mutex::default(),
        }
    }
}

impl OverrideTable {
    /// Whether requests need not look any caller up.
    #[inline]
    pub(in crate::limiter) fn can_skip(&self) -> bool {
        self.can_skip.load(Ordering::Acquire)
    }

    /// Whether any override applies at `now`.
    pub(in crate::limiter) fn any_applies(&self, now: Now) -> bool {
        self.last_end.load(Ordering::Acquire) > now.monotonic_nanos()
    }

    /// The overrides of a caller that apply at `now`; `None` if there are none.
    pub(in crate::limiter) fn get(&self, caller: u128, now: Now) -> Option<CallersOwn> {
        CallersOwn::known(self.part(caller).load().get(&caller)?, now)
    }

    /// All overrides that apply at `now`.
    pub(super) fn all(&self, now: Now) -> Vec<Override> {
        let at = now.monotonic_nanos();
        let parts = self.parts.iter().map(ArcSwap::load_full);
        let mut all = Vec::new();
        for part in parts {
            let known = part.values().flat_map(|known| known.iter());
            all.extend(known.filter(|known| known.ends_at > at).map(|known| known.view(now)));
        }
        all
    }

    /// How many overrides apply at `now`.
    #[cfg(feature = "metrics")]
    pub(in crate::limiter) fn count(&self, now: Now) -> usize {
        if self.last_end.load(Ordering::Acquire) == 0 {
            return 0;
        }
        let at = now.monotonic_nanos();
        let count = |part: &ByCaller| {
            let known = part.values().flat_map(|known| known.iter());
            known.filter(|known| known.ends_at > at).count()
        };
        self.parts.iter().map(|part| count(&part.load())).sum()
    }

    /// Sets whether requests look callers up even if the table is empty.
    pub(super) fn never_skip(&self, never_skips: bool) {
        let mut writer = self.writer.lock();
        writer.never_skips = never_skips;
        self.publish(&writer);
    }

    /// The store's version that the table has.
    pub(super) fn version(&self) -> Option<OverrideVersion> {
        self.writer.lock().version
    }

    /// Changes overrides that only this process has. Returns those that were replaced or ended.
    ///
    /// # Errors
    /// [`OverrideError::Full`], and nothing was changed.
    pub(super) fn edit(&self, edit: Edit, now: Now) -> Result<Vec<Override>, OverrideError> {
        let mut writer = self.writer.lock();
        if let Edit::Set(known) = &edit {
            let is_new = self
                .get(known.data.caller.0, now)
                .is_none_or(|own| own.all().all(|own| own.policy() != known.data.policy()));
            if is_new && writer.count >= MAX_OVERRIDES {
                self.remove_ended(&mut writer, now);
            }
            if is_new && writer.count >= MAX_OVERRIDES {
                return Err(OverrideError::Full);
            }
        }
        let end = if let Edit::Set(known) = &edit { Some(known.ends_at) } else { None };
        let before = self.apply(&mut writer, edit, now);
        match end {
            Some(end) => drop(self.last_end.fetch_max(end, Ordering::AcqRel)),
            None => self.update_last_end(now),
        }
        self.publish(&writer);
        Ok(before)
    }

    /// Applies what a store has answered to a question that was asked at the version `asked`. `false`
    /// if the table has another version by now: then nothing is changed.
    pub(super) fn apply_shared(
        &self,
        edits: Vec<Edit>,
        is_all: bool,
        (asked, version): (Option<OverrideVersion>, OverrideVersion),
        now: Now,
    ) -> bool {
        let mut writer = self.writer.lock();
        if writer.version != asked {
            return false;
        }
        writer.version = Some(version);
        if is_all {
            self.replace_all(&mut writer, edits, now);
        } else {
            for edit in edits {
                self.apply(&mut writer, edit, now);
            }
        }
        self.update_last_end(now);
        self.publish(&writer);
        true
    }

    fn part(&self, caller: u128) -> &ArcSwap<ByCaller> {
        &self.parts[caller as usize % PARTS]
    }

    /// Makes one change. Returns what applied before.
    #[expect(clippy::arithmetic_side_effects, reason = "a count of what is in memory")]
    fn apply(&self, writer: &mut Writer, edit: Edit, now: Now) -> Vec<Override> {
        let caller = edit.caller();
        let part = self.part(caller);
        let current = part.load_full();
        let known = current.get(&caller).map_or(&[][..], |known| known);
        let at = now.monotonic_nanos();
        let (mut kept, mut before) = (Vec::with_capacity(known.len() + 1), Vec::new());
        for known in known {
            let goes = match &edit {
                Edit::Set(new) => known.is_of(new.data.policy()),
                Edit::End { policy, .. } => known.is_of(policy.as_deref()),
                Edit::EndAll(_) => true,
            };
            match (goes, known.ends_at > at) {
                (true, true) => before.push(known.view(now)),
                (false, true) => kept.push(known.clone()),
                (_, false) => {}
            }
        }
        if let Edit::Set(new) = edit {
            kept.push(earlier(new, known));
        }
        if kept.is_empty() && known.is_empty() {
            return before;
        }
        writer.count = writer.count + kept.len() - known.len();
        let mut changed = (*current).clone();
        match kept.is_empty() {
            true => changed.remove(&caller),
            false => changed.insert(caller, kept.into()),
        };
        part.store(Arc::new(changed));
        before
    }

    fn replace_all(&self, writer: &mut Writer, edits: Vec<Edit>, now: Now) {
        let mut parts: [HashMap<u128, Vec<Known>>; PARTS] = array::from_fn(|_| HashMap::new());
        for edit in edits {
            let Edit::Set(new) = edit else { continue };
            let caller = new.data.caller.0;
            let before = self.part(caller).load();
            let before = before.get(&caller).map_or(&[][..], |known| known);
            let new = earlier(new, before);
            parts[caller as usize % PARTS].entry(caller).or_default().push(new);
        }
        let at = now.monotonic_nanos();
        writer.count = 0;
        for (part, all) in self.parts.iter().zip(parts) {
            let mut by_caller = ByCaller::default();
            for (caller, mut known) in all {
                known.retain(|known| known.ends_at > at);
                writer.count = writer.count.saturating_add(known.len());
                if !known.is_empty() {
                    by_caller.insert(caller, known.into());
                }
            }
            part.store(Arc::new(by_caller));
        }
    }

    fn remove_ended(&self, writer: &mut Writer, now: Now) {
        let all = self.all_known(now);
        self.replace_all(writer, all.into_iter().map(Edit::Set).collect(), now);
    }

    fn all_known(&self, now: Now) -> Vec<Known> {
        let at = now.monotonic_nanos();
        let mut all = Vec::new();
        for part in &self.parts {
            let part = part.load();
            let known = part.values().flat_map(|known| known.iter());
            all.extend(known.filter(|known| known.ends_at > at).cloned());
        }
        all
    }

    fn update_last_end(&self, now: Now) {
        let at = now.monotonic_nanos();
        let last = |part: &ArcSwap<ByCaller>| {
            let part = part.load();
            part.values().flat_map(|known| known.iter()).map(|known| known.ends_at).max()
        };
        let last_end = self.parts.iter().filter_map(last).max().filter(|end| *end > at);
        self.last_end.store(last_end.unwrap_or(0), Ordering::Release);
    }

    /// Lets requests see whether they have to look callers up.
    fn publish(&self, writer: &Writer) {
        let is_empty = self.last_end.load(Ordering::Acquire) == 0;
        self.can_skip.store(is_empty && !writer.never_skips, Ordering::Release);
    }
}

/// The override, with the earlier end if it is known already: the clock of its store may have been
/// set back since.
fn earlier(mut new: Known, known: &[Known]) -> Known {
    if let Some(same) = known.iter().find(|known| known.data == new.data) {
        new.ends_at = new.ends_at.min(same.ends_at);
    }
    new
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{key::Fingerprint, override_record::OverrideKind};

    fn at(seconds: u64) -> Now {
        Now::new(Duration::from_secs(seconds), Duration::from_secs(seconds))
    }

    fn block(caller: u128, now: Now, until: u64) -> Edit {
        let (since, until) = (now.unix(), Duration::from_secs(until));
        let block = Override::new(Fingerprint(caller), OverrideKind::Block, since, until);
        Edit::Set(Known::new(block, now.unix(), now))
    }

    #[test]
    fn overrides_are_bounded_and_room_comes_with_time() {
        let table = OverrideTable::default();
        for caller in 0..MAX_OVERRIDES as u128 {
            table.edit(block(caller, at(0), 60), at(0)).unwrap();
        }
        let one_more = |now| table.edit(block(u128::MAX, at(now), 120), at(now));
        assert_eq!(one_more(59), Err(OverrideError::Full));
        assert_eq!(table.edit(block(7, at(59), 90), at(59)).unwrap().len(), 1, "a known one may");
        table.edit(Edit::EndAll(7), at(59)).unwrap();
        assert!(one_more(59).is_ok(), "and makes room");
        assert!(table.edit(block(8, at(60), 90), at(60)).is_ok());
        assert_eq!(table.all(at(60)).len(), 2);
    }

    #[test]
    fn a_table_is_empty_again_after_the_last_override() {
        let table = OverrideTable::default();
        assert!(table.can_skip());
        table.edit(block(7, at(0), 60), at(0)).unwrap();
        assert!(!table.can_skip() && table.get(7, at(0)).is_some());
        let ended = table.edit(Edit::End { caller: 7, policy: None }, at(0)).unwrap();
        assert_eq!((ended.len(), table.can_skip()), (1, true));
        table.never_skip(true);
        assert!(!table.can_skip());
    }

    #[test]
    fn a_wall_clock_that_is_set_makes_no_block_longer_or_shorter() {
        let table = OverrideTable::default();
        let hour = Duration::from_secs(3_600);
        let now = |monotonic, unix| Now::new(monotonic, unix);
        let set_at = now(hour, 100 * hour);
        table.edit(block(7, set_at, 101 * 3_600), set_at).unwrap();
        for unix in [90 * hour, 100 * hour, 200 * hour] {
            let left =
                |monotonic| table.get(7, now(monotonic, unix)).and_then(|own| own.blocked_for());
            assert_eq!(left(hour + hour / 2), Some(hour / 2));
            assert_eq!(left(2 * hour), None);
        }
    }

    #[test]
    fn an_override_that_is_known_ends_no_later_if_it_is_read_again() {
        let table = OverrideTable::default();
        let read = |now: u64, store_now: u64, versions| {
            let (since, until) = (Duration::from_secs(1_000), Duration::from_secs(1_060));
            let block = Override::new(Fingerprint(7), OverrideKind::Block, since, until);
            let known = Known::new(block, Duration::from_secs(store_now), at(now));
            assert!(table.apply_shared(vec![Edit::Set(known)], true, versions, at(now)));
        };
        let version = |number| OverrideVersion([number; 16]);
        read(0, 1_000, (None, version(1)));
        // The store's clock was set back.
        read(30, 970, (Some(version(1)), version(2)));
        assert!(table.get(7, at(59)).is_some() && table.get(7, at(60)).is_none());
        let is_late = !table.apply_shared(vec![], true, (None, version(1)), at(31));
        assert!(is_late && table.get(7, at(59)).is_some());
    }
}
