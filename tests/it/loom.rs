//! How threads share the store's slots, under every interleaving that the memory model allows.

use loom::{
    sync::{Arc, atomic},
    thread,
};

use self::atomic::AtomicU64;

#[path = "../../src/store/memory/sync.rs"]
mod sync;

use self::sync::{TAKEN, Version, Words};

/// A segment of two slots, in which a key is moved from the first to the second. A slot has three
/// words, or one more in between.
struct Segment<const N: usize> {
    version: Version,
    slots: [Words<N>; 2],
}

const KEY: u64 = 7;

/// The key's state after so many uses: words that belong together.
fn state<const N: usize>(uses: u64) -> [u64; N] {
    std::array::from_fn(|at| if at == 0 { KEY } else { (1 + uses) * at as u64 })
}

/// How many uses a state tells, which is whole.
fn uses<const N: usize>(read: [u64; N]) -> u64 {
    let uses = read[1] - 1;
    assert_eq!(read, state(uses), "what is still there is whole");
    uses
}

fn is_of_key<const N: usize>(read: &[u64; N]) -> bool {
    read[0] == KEY && read[N - 1] != 0
}

impl<const N: usize> Segment<N> {
    fn new() -> Arc<Self> {
        let slot = |words: [u64; N]| words.map(AtomicU64::new);
        let slots = [slot(state(0)), slot([0; N])];
        Arc::new(Self { version: Version::default(), slots })
    }

    /// What `found` makes of the key's slot as it was read, if it was found whole.
    fn glance<T>(&self, found: impl Fn(sync::Seen, &Words<N>, [u64; N]) -> Option<T>) -> Option<T> {
        let seen = self.version.see()?;
        let slots = self.slots.iter();
        let mut ends = slots.map(|words| (words, sync::ends(words)));
        let (words, ends) = ends.find(|(_, ends)| is_of_key(ends))?;
        let read = sync::read_between(ends, words);
        if read[N - 1] & TAKEN != 0 {
            return None;
        }
        found(seen, words, read)
    }

    /// Counts one use, where nobody is in the way.
    fn count(&self) -> u64 {
        let counted = self.glance(|seen, words, read| {
            let taken = self.version.take(seen, words, read)?;
            taken.write(state(uses(read) + 1));
            Some(())
        });
        u64::from(counted.is_some())
    }

    /// Moves the key to the other slot, as the one who has the lock.
    fn change_place(&self, others: &mut Others) {
        let moving = self.version.try_move().expect("nobody else moves slots");
        let [from, to] = self.slots.each_ref();
        let read = others.wait_until(|| moving.empty(from));
        moving.fill(to, state(uses::<N>(read)));
    }

    /// Drops the key, and gives its slot to another; what was in it.
    fn give_to(&self, other: [u64; N], others: &mut Others) -> [u64; N] {
        let moving = self.version.try_move().expect("nobody else moves slots");
        let slot = others.wait_until(|| moving.empty(&self.slots[0]));
        moving.fill(&self.slots[0], other);
        slot
    }

    /// Counts one use, as the one who has the lock.
    fn count_locked(&self, others: &mut Others) {
        let moving = self.version.try_move().expect("nobody else moves slots");
        let read = others.wait_until(|| moving.settle(&self.slots[0]));
        others.wait_until(|| moving.write(&self.slots[0], state(uses::<N>(read) + 1)));
    }

    fn assert_counted(&self, times: u64) {
        let read = self.slots.each_ref().map(sync::read);
        let held: Vec<_> = read.iter().filter(|slot| is_of_key(slot)).collect();
        assert_eq!(held, [&state::<N>(times)]);
    }
}

/// Those who count meanwhile, and what those have counted who are done.
struct Others {
    counting: Vec<thread::JoinHandle<u64>>,
    counted: u64,
}

impl Others {
    fn counting<const N: usize>(segment: &Arc<Segment<N>>, threads: usize) -> Self {
        let counting = (0..threads).map(|_| in_thread(segment, Segment::count)).collect();
        Self { counting, counted: 0 }
    }

    fn join_one(&mut self) -> Option<()> {
        self.counted += self.counting.pop()?.join().unwrap();
        Some(())
    }

    /// Tries again whenever one of the others is done: loom has no patience with those who spin.
    fn wait_until<T>(&mut self, mut attempt: impl FnMut() -> Option<T>) -> T {
        loop {
            if let Some(done) = attempt() {
                return done;
            }
            self.join_one().expect("when all are done, nobody is in the way");
        }
    }

    fn join(mut self) -> u64 {
        while self.join_one().is_some() {}
        self.counted
    }
}

fn in_thread<T: 'static, const N: usize>(
    segment: &Arc<Segment<N>>,
    run: impl FnOnce(&Segment<N>) -> T + 'static,
) -> thread::JoinHandle<T> {
    let segment = Arc::clone(segment);
    thread::spawn(move || run(&segment))
}

/// Up to `preemptions` of threads that could go on: without a bound, these take minutes.
fn bounded(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

fn what_is_read_is_never_half_of_a_write<const N: usize>() {
    bounded(4, || {
        let segment = Segment::<N>::new();
        let writer = in_thread(&segment, Segment::count);
        let reader = in_thread(&segment, |segment| {
            segment.glance(|seen, words, read| {
                if segment.version.still(seen, words, read) {
                    uses(read);
                }
                Some(())
            })
        });
        assert_eq!(writer.join().unwrap(), 1, "nobody else writes");
        reader.join().unwrap();
    });
}

fn what_moves_is_never_half_read<const N: usize>() {
    bounded(4, || {
        let segment = Segment::<N>::new();
        let mut others = Others::counting(&segment, 0);
        let mover = in_thread(&segment, move |segment| segment.change_place(&mut others));
        let reader = in_thread(&segment, |segment| {
            segment.glance(|seen, words, read| {
                if segment.version.still(seen, words, read) {
                    assert_eq!(read, state(0));
                }
                Some(())
            })
        });
        mover.join().unwrap();
        reader.join().unwrap();
    });
}

fn who_sees_that_all_has_moved_finds_it_moved<const N: usize>() {
    bounded(4, || {
        let segment = Segment::<N>::new();
        let before = segment.version.see();
        let mut others = Others::counting(&segment, 0);
        let mover = in_thread(&segment, move |segment| segment.change_place(&mut others));
        let reader = in_thread(&segment, move |segment| {
            segment.glance(|seen, words, _| {
                let is_moved = std::ptr::eq(words, &segment.slots[1]);
                assert!(is_moved || Some(seen) == before);
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
    bounded(4, || {
        let segment = Segment::<N>::new();
        let mut others = Others::counting(&segment, 1);
        let mover = in_thread(&segment, move |segment| {
            let before = segment.give_to(other(1), &mut others);
            assert_eq!(uses(before), others.join());
        });
        mover.join().unwrap();
        assert_eq!(sync::read(&segment.slots[0]), other(1));
    });
}

fn a_slot_that_another_key_has_got_is_not_read<const N: usize>() {
    bounded(4, || {
        let segment = Segment::<N>::new();
        let mut others = Others::counting(&segment, 0);
        let mover = in_thread(&segment, move |segment| segment.give_to(other(5), &mut others));
        let reader = in_thread(&segment, |segment| {
            segment.glance(|seen, words, read| {
                if segment.version.still(seen, words, read) {
                    assert_eq!(read, state(0));
                }
                Some(())
            })
        });
        mover.join().unwrap();
        reader.join().unwrap();
    });
}

/// As with token buckets, whose number is mostly 0, and with the older entries of a log.
fn nothing_is_lost_where_one_word_before_the_last_tells<const N: usize>() {
    bounded(4, || {
        let segment = Segment::<N>::new();
        let count = |segment: &Segment<N>| {
            let counted = segment.glance(|seen, words, read| {
                let mut written = read;
                written[N - 2] += 1;
                segment.version.take(seen, words, read)?.write(written);
                Some(())
            });
            u64::from(counted.is_some())
        };
        let counting = [(); 2].map(|()| in_thread(&segment, count));
        let counted: u64 = counting.into_iter().map(|thread| thread.join().unwrap()).sum();
        let mut expected = state::<N>(0);
        expected[N - 2] += counted;
        assert_eq!(sync::read(&segment.slots[0]), expected);
    });
}

fn of_what_two_count_nothing_is_lost<const N: usize>() {
    bounded(4, || {
        let segment = Segment::<N>::new();
        // Both in threads of their own: loom does not interleave the one that starts them.
        let counted = Others::counting(&segment, 2).join();
        assert!(counted >= 1, "one of them was first");
        segment.assert_counted(counted);
    });
}

fn nothing_is_lost_while_slots_move<const N: usize>() {
    bounded(4, || {
        let segment = Segment::<N>::new();
        let mut others = Others::counting(&segment, 1);
        let mover = in_thread(&segment, move |segment| {
            segment.change_place(&mut others);
            others.join()
        });
        segment.assert_counted(mover.join().unwrap());
    });
}

fn nothing_is_lost_beside_one_who_has_the_lock<const N: usize>() {
    beside_one_who_has_the_lock::<N>(1, 4);
}

#[test]
fn nothing_is_lost_of_two_beside_one_who_has_the_lock() {
    beside_one_who_has_the_lock::<3>(2, 2);
}

fn beside_one_who_has_the_lock<const N: usize>(others: usize, preemptions: usize) {
    bounded(preemptions, move || {
        let segment = Segment::<N>::new();
        let mut others = Others::counting(&segment, others);
        let locked = in_thread(&segment, move |segment| {
            segment.count_locked(&mut others);
            others.join()
        });
        segment.assert_counted(locked.join().unwrap() + 1);
    });
}

/// Each with slots of three words and of four.
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
    a_slot_that_another_key_has_got_is_not_read
    nothing_is_lost_where_one_word_before_the_last_tells
    of_what_two_count_nothing_is_lost
    nothing_is_lost_while_slots_move
    nothing_is_lost_beside_one_who_has_the_lock
}
