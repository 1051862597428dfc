//! Threads that share the store's slots, in every interleaving that the memory model allows.

use loom::{
    sync::{Arc, atomic},
    thread,
};

use self::atomic::AtomicU64;

#[path = "../../src/store/memory/seqlock.rs"]
mod seqlock;

use self::seqlock::{AtomicSlot, LOCKED, Stamp, Version};

/// A shard of two slots, in which a key is moved from the first to the second. A slot has three
/// words, or four.
struct Shard<const N: usize> {
    version: Version,
    slots: [AtomicSlot<N>; 2],
}

const KEY: u64 = 7;

/// The key's state after so many uses: words that belong together.
fn state<const N: usize>(uses: u64) -> [u64; N] {
    std::array::from_fn(|at| if at == 0 { KEY } else { (1 + uses) * at as u64 })
}

/// How many uses a state has counted. Asserts that it is whole.
fn uses<const N: usize>(read: [u64; N]) -> u64 {
    let uses = read[1] - 1;
    assert_eq!(read, state(uses), "what is still there is whole");
    uses
}

fn is_of_key<const N: usize>(read: &[u64; N]) -> bool {
    read[0] == KEY && read[N - 1] != 0
}

impl<const N: usize> Shard<N> {
    fn new() -> Arc<Self> {
        let slot = |words: [u64; N]| words.map(AtomicU64::new);
        let slots = [slot(state(0)), slot([0; N])];
        Arc::new(Self { version: Version::default(), slots })
    }

    /// What `found` makes of the key's slot as it was read, if the slot was found and is not
    /// locked.
    fn read_whole<T>(
        &self,
        found: impl Fn(Stamp, &AtomicSlot<N>, [u64; N]) -> Option<T>,
    ) -> Option<T> {
        self.read_any(|stamp, slot, read| match read[N - 1] & LOCKED {
            0 => found(stamp, slot, read),
            _ => None,
        })
    }

    /// The same, with a slot that may be locked.
    fn read_any<T>(
        &self,
        found: impl Fn(Stamp, &AtomicSlot<N>, [u64; N]) -> Option<T>,
    ) -> Option<T> {
        let stamp = self.version.stamp()?;
        let slots = self.slots.iter();
        let mut ends = slots.map(|slot| (slot, seqlock::read_ends(slot)));
        let (slot, ends) = ends.find(|(_, ends)| is_of_key(ends))?;
        found(stamp, slot, seqlock::read_between(ends, slot))
    }

    /// Counts one use, if no other thread is in the way.
    fn count(&self) -> u64 {
        let counted = self.read_whole(|stamp, slot, read| {
            let guard = self.version.try_lock(stamp, slot, read)?;
            guard.write(state(uses(read) + 1));
            Some(())
        });
        u64::from(counted.is_some())
    }

    /// Counts one use in addition to whatever others have counted since the slot was read.
    fn count_as_it_is(&self) -> u64 {
        let counted = self.read_any(|stamp, slot, read| {
            let (guard, read) = self.version.lock(stamp, slot, read, 2)?;
            guard.write(state(uses(read) + 1));
            Some(())
        });
        u64::from(counted.is_some())
    }

    /// Locks the key's slot, and finds that there is nothing to count.
    fn lock_and_leave(&self) -> u64 {
        self.read_any(|stamp, slot, read| {
            let (_guard, read) = self.version.lock(stamp, slot, read, 2)?;
            uses(read);
            Some(())
        });
        0
    }

    /// Moves the key to the other slot, as the thread that has the mutex.
    fn change_place(&self, others: &mut Others) {
        let writer = self.version.try_write().expect("no other thread moves slots");
        let [from, to] = self.slots.each_ref();
        let read = others.wait_until(|| writer.clear(from));
        writer.fill(to, state(uses::<N>(read)));
    }

    /// Drops the key, and gives its slot to another key. Returns what was in it.
    fn give_to(&self, other: [u64; N], others: &mut Others) -> [u64; N] {
        let writer = self.version.try_write().expect("no other thread moves slots");
        let slot = others.wait_until(|| writer.clear(&self.slots[0]));
        writer.fill(&self.slots[0], other);
        slot
    }

    /// Counts one use, as the thread that has the mutex.
    fn count_locked(&self, others: &mut Others) {
        let writer = self.version.try_write().expect("no other thread moves slots");
        let read = others.wait_until(|| writer.read(&self.slots[0]));
        others.wait_until(|| writer.write(&self.slots[0], state(uses::<N>(read) + 1)));
    }

    fn assert_counted(&self, times: u64) {
        let read = self.slots.each_ref().map(seqlock::read);
        let held: Vec<_> = read.iter().filter(|slot| is_of_key(slot)).collect();
        assert_eq!(held, [&state::<N>(times)]);
    }
}

/// A way to count, and how often it has counted.
type Count<const N: usize> = fn(&Shard<N>) -> u64;

/// The threads that count meanwhile, and what those have counted that are done.
struct Others {
    counting: Vec<thread::JoinHandle<u64>>,
    counted: u64,
}

impl Others {
    fn counting<const N: usize>(shard: &Arc<Shard<N>>, threads: usize) -> Self {
        Self::each(shard, &vec![Shard::count as Count<N>; threads])
    }

    /// A thread for each of these.
    fn each<const N: usize>(shard: &Arc<Shard<N>>, count: &[Count<N>]) -> Self {
        let counting = count.iter().map(|count| in_thread(shard, *count)).collect();
        Self { counting, counted: 0 }
    }

    fn join_one(&mut self) -> Option<()> {
        self.counted += self.counting.pop()?.join().unwrap();
        Some(())
    }

    /// Tries again whenever one of the others is done: loom does not end if a thread spins.
    fn wait_until<T>(&mut self, mut attempt: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(done) = attempt() {
                return done;
            }
            self.join_one().expect("when all are done, none is in the way");
        }
    }

    fn join(mut self) -> u64 {
        while self.join_one().is_some() {}
        self.counted
    }
}

fn in_thread<T: 'static, const N: usize>(
    shard: &Arc<Shard<N>>,
    run: impl FnOnce(&Shard<N>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let shard = Arc::clone(shard);
    thread::spawn(move || run(&shard))
}

/// Checks interleavings with up to `preemptions` of threads that could go on. Without a bound, the
/// tests take minutes.
fn bounded(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn what_is_read_is_never_half_of_a_write<const N: usize>() {
    bounded(4, || {
        let shard = Shard::<N>::new();
        let writer = in_thread(&shard, Shard::count);
        let reader = in_thread(&shard, |shard| {
            shard.read_whole(|stamp, slot, read| {
                if shard.version.validate(stamp, slot, read) {
                    uses(read);
                }
                Some(())
            })
        });
        assert_eq!(writer.join().unwrap(), 1, "no other thread writes");
        reader.join().unwrap();
    });
}

/// While one thread writes, another reads the key's first state, or nothing.
fn assert_read_whole_beside<const N: usize>(
    write: impl Fn(&Shard<N>, &mut Others) + Copy + Send + Sync + 'static,
) {
    bounded(4, move || {
        let shard = Shard::<N>::new();
        let mut others = Others::counting(&shard, 0);
        let writer = in_thread(&shard, move |shard| write(shard, &mut others));
        let reader = in_thread(&shard, |shard| {
            shard.read_whole(|stamp, slot, read| {
                if shard.version.validate(stamp, slot, read) {
                    assert_eq!(read, state(0));
                }
                Some(())
            })
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

fn what_moves_is_never_half_read<const N: usize>() {
    assert_read_whole_beside::<N>(Shard::change_place);
}

fn who_sees_that_all_has_moved_finds_it_moved<const N: usize>() {
    bounded(4, || {
        let shard = Shard::<N>::new();
        let before = shard.version.stamp();
        let mut others = Others::counting(&shard, 0);
        let mover = in_thread(&shard, move |shard| shard.change_place(&mut others));
        let reader = in_thread(&shard, move |shard| {
            shard.read_whole(|stamp, slot, _| {
                let is_moved = std::ptr::eq(slot, &shard.slots[1]);
                assert!(is_moved || Some(stamp) == before);
                Some(())
            })
        });
        mover.join().unwrap();
        reader.join().unwrap();
    });
}

/// Another key's state, in as many words.
fn other<const N: usize>(time: u64) -> [u64; N] {
    std::array::from_fn(|at| if at == 0 { KEY + 1 } else { time * at as u64 })
}

fn a_slot_that_another_key_has_got_is_not_charged<const N: usize>() {
    not_charged_if_another_key_has_it::<N>(Shard::count);
}

fn a_slot_that_another_key_has_got_is_not_charged_as_it_is<const N: usize>() {
    not_charged_if_another_key_has_it::<N>(Shard::count_as_it_is);
}

fn not_charged_if_another_key_has_it<const N: usize>(count: Count<N>) {
    bounded(4, move || {
        let shard = Shard::<N>::new();
        let mut others = Others::each(&shard, &[count]);
        let mover = in_thread(&shard, move |shard| {
            let before = shard.give_to(other(1), &mut others);
            assert_eq!(uses(before), others.join());
        });
        mover.join().unwrap();
        assert_eq!(seqlock::read(&shard.slots[0]), other(1));
    });
}

fn a_slot_that_another_key_has_got_is_not_read<const N: usize>() {
    assert_read_whole_beside::<N>(|shard, others| {
        shard.give_to(other(5), others);
    });
}

/// As with token buckets, whose number is mostly 0, and with the older steps of a log.
fn nothing_is_lost_where_one_word_before_the_last_tells<const N: usize>() {
    bounded(4, || {
        let shard = Shard::<N>::new();
        let count = |shard: &Shard<N>| {
            let counted = shard.read_whole(|stamp, slot, read| {
                let mut written = read;
                written[N - 2] += 1;
                shard.version.try_lock(stamp, slot, read)?.write(written);
                Some(())
            });
            u64::from(counted.is_some())
        };
        let counting = [(); 2].map(|()| in_thread(&shard, count));
        let counted: u64 = counting.into_iter().map(|thread| thread.join().unwrap()).sum();
        let mut expected = state::<N>(0);
        expected[N - 2] += counted;
        assert_eq!(seqlock::read(&shard.slots[0]), expected);
    });
}

fn of_what_two_count_nothing_is_lost<const N: usize>() {
    bounded(4, || {
        let shard = Shard::<N>::new();
        // Both in threads of their own: loom does not interleave the thread that starts them.
        let counted = Others::counting(&shard, 2).join();
        assert!(counted >= 1, "one of them was first");
        shard.assert_counted(counted);
    });
}

fn of_what_is_counted_as_it_is_nothing_is_lost<const N: usize>() {
    for others in [Shard::count, Shard::count_as_it_is, Shard::lock_and_leave] {
        bounded(4, move || {
            let shard = Shard::<N>::new();
            let counted = Others::each(&shard, &[Shard::count_as_it_is, others]).join();
            shard.assert_counted(counted);
        });
    }
}

fn nothing_is_lost_while_slots_move<const N: usize>() {
    not_lost_while_slots_move::<N>(Shard::count);
}

fn nothing_that_is_counted_as_it_is_is_lost_while_slots_move<const N: usize>() {
    not_lost_while_slots_move::<N>(Shard::count_as_it_is);
}

fn not_lost_while_slots_move<const N: usize>(count: Count<N>) {
    bounded(4, move || {
        let shard = Shard::<N>::new();
        let mut others = Others::each(&shard, &[count]);
        let mover = in_thread(&shard, move |shard| {
            shard.change_place(&mut others);
            others.join()
        });
        shard.assert_counted(mover.join().unwrap());
    });
}

fn nothing_is_lost_beside_one_who_has_the_lock<const N: usize>() {
    beside_one_who_has_the_lock::<N>(&[Shard::count], 4);
    beside_one_who_has_the_lock::<N>(&[Shard::count_as_it_is], 4);
}

#[test]
fn nothing_is_lost_of_two_beside_one_who_has_the_lock() {
    beside_one_who_has_the_lock::<3>(&[Shard::count, Shard::count], 2);
}

#[test]
fn nothing_is_lost_of_two_beside_one_who_empties_and_fills_the_slot() {
    beside_one_who_has_the_lock::<3>(&[Shard::count, Shard::count_as_it_is], 2);
}

fn beside_one_who_has_the_lock<const N: usize>(others: &'static [Count<N>], preemptions: usize) {
    bounded(preemptions, move || {
        let shard = Shard::<N>::new();
        let mut others = Others::each(&shard, others);
        let locked = in_thread(&shard, move |shard| {
            shard.count_locked(&mut others);
            others.join()
        });
        shard.assert_counted(locked.join().unwrap() + 1);
    });
}

/// Each test with slots of three words, as of counters, and of four, which has an older step of a
/// log.
macro_rules! with_each_width {
    ($($name:ident)*) => { $(mod $name {
        #[test]
        fn narrow() {
            super::$name::<3>();
        }

        #[test]
        fn wide() {
            super::$name::<4>();
        }
    })* };
}

with_each_width! {
    what_is_read_is_never_half_of_a_write
    what_moves_is_never_half_read
    who_sees_that_all_has_moved_finds_it_moved
    a_slot_that_another_key_has_got_is_not_charged
    a_slot_that_another_key_has_got_is_not_charged_as_it_is
    a_slot_that_another_key_has_got_is_not_read
    nothing_is_lost_where_one_word_before_the_last_tells
    of_what_two_count_nothing_is_lost
    of_what_is_counted_as_it_is_nothing_is_lost
    nothing_is_lost_while_slots_move
    nothing_that_is_counted_as_it_is_is_lost_while_slots_move
    nothing_is_lost_beside_one_who_has_the_lock
}
