//! How threads share the store's slots, under every interleaving that the memory model allows.

use loom::{
    sync::{Arc, atomic},
    thread,
};

use self::atomic::AtomicU64;

#[path = "../src/store/memory/sync.rs"]
mod sync;

use self::sync::{TAKEN, Version, Words};

/// A segment of two slots, in which a key is moved from the first to the second. Its state is a
/// time and a number that belong together: the number is twice the time.
struct Segment {
    version: Version,
    slots: [Words; 2],
}

const KEY: u64 = 7;

fn is_of_key([key, _, last]: &[u64; 3]) -> bool {
    *key == KEY && *last != 0
}

impl Segment {
    fn new() -> Arc<Self> {
        let slot = |[a, b, c]: [u64; 3]| [AtomicU64::new(a), AtomicU64::new(b), AtomicU64::new(c)];
        let slots = [slot([KEY, 1, 2]), slot([0, 0, 0])];
        Arc::new(Self { version: Version::default(), slots })
    }

    /// What `found` makes of the key's slot as it was read, if it was found whole.
    fn glance<T>(&self, found: impl Fn(sync::Seen, &Words, [u64; 3]) -> Option<T>) -> Option<T> {
        let seen = self.version.see()?;
        let slots = self.slots.iter();
        let mut read = slots.map(|words| (words, sync::read(words)));
        let (words, read) = read.find(|(_, slot)| is_of_key(slot))?;
        if read[2] & TAKEN != 0 {
            return None;
        }
        found(seen, words, read)
    }

    /// Adds one, where nobody is in the way.
    fn count(&self) -> u64 {
        let counted = self.glance(|seen, words, read| {
            let taken = self.version.take(seen, words, read)?;
            let [key, time, number] = read;
            assert_eq!((key, number), (KEY, 2 * time), "what is still there is whole");
            taken.write((time + 1, number + 2));
            Some(())
        });
        u64::from(counted.is_some())
    }

    /// Moves the key to the other slot, as the one who has the lock.
    fn change_place(&self, others: &mut Others) {
        let moving = self.version.try_move().expect("nobody else moves slots");
        let [from, to] = self.slots.each_ref();
        let [key, time, number] = others.wait_until(|| moving.empty(from));
        assert_eq!((key, number), (KEY, 2 * time));
        moving.fill(to, [key, time, number]);
    }

    /// Drops the key, and gives its slot to another; what was in it.
    fn give_to(&self, other: [u64; 3], others: &mut Others) -> [u64; 3] {
        let moving = self.version.try_move().expect("nobody else moves slots");
        let slot = others.wait_until(|| moving.empty(&self.slots[0]));
        moving.fill(&self.slots[0], other);
        slot
    }

    /// Adds one, as the one who has the lock.
    fn count_locked(&self, others: &mut Others) {
        let moving = self.version.try_move().expect("nobody else moves slots");
        let [key, time, number] = others.wait_until(|| moving.settle(&self.slots[0]));
        others.wait_until(|| moving.write(&self.slots[0], [key, time + 1, number + 2]));
    }

    fn assert_counted(&self, times: u64) {
        let read = self.slots.each_ref().map(sync::read);
        let held: Vec<_> = read.iter().filter(|slot| is_of_key(slot)).collect();
        assert_eq!(held, [&[KEY, 1 + times, 2 + 2 * times]]);
    }
}

/// Those who count meanwhile, and what those have counted who are done.
struct Others {
    counting: Vec<thread::JoinHandle<u64>>,
    counted: u64,
}

impl Others {
    fn counting(segment: &Arc<Segment>, threads: usize) -> Self {
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

fn in_thread<T: 'static>(
    segment: &Arc<Segment>,
    run: impl FnOnce(&Segment) -> T + 'static,
) -> thread::JoinHandle<T> {
    let segment = Arc::clone(segment);
    thread::spawn(move || run(&segment))
}

#[test]
fn what_is_read_is_never_half_of_a_write() {
    loom::model(|| {
        let segment = Segment::new();
        let writer = in_thread(&segment, Segment::count);
        let reader = in_thread(&segment, |segment| {
            segment.glance(|seen, words, read| {
                let [key, time, number] = read;
                if segment.version.still(seen, words, read) {
                    assert_eq!((key, number), (KEY, 2 * time));
                }
                Some(())
            })
        });
        assert_eq!(writer.join().unwrap(), 1, "nobody else writes");
        reader.join().unwrap();
    });
}

/// Up to `preemptions` of threads that could go on: without a bound, these take minutes.
fn bounded(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

#[test]
fn what_moves_is_never_half_read() {
    bounded(4, || {
        let segment = Segment::new();
        let mut others = Others::counting(&segment, 0);
        let mover = in_thread(&segment, move |segment| segment.change_place(&mut others));
        let reader = in_thread(&segment, |segment| {
            segment.glance(|seen, words, read| {
                let [key, time, number] = read;
                if segment.version.still(seen, words, read) {
                    assert_eq!((key, time, number), (KEY, 1, 2));
                }
                Some(())
            })
        });
        mover.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn who_sees_that_all_has_moved_finds_it_moved() {
    bounded(4, || {
        let segment = Segment::new();
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

#[test]
fn a_slot_that_another_key_has_got_is_not_charged() {
    const OTHER: [u64; 3] = [8, 1, 2];
    bounded(4, || {
        let segment = Segment::new();
        let mut others = Others::counting(&segment, 1);
        let mover = in_thread(&segment, move |segment| {
            let [key, time, _] = segment.give_to(OTHER, &mut others);
            assert_eq!((key, time), (KEY, 1 + others.join()));
        });
        mover.join().unwrap();
        assert_eq!(sync::read(&segment.slots[0]), OTHER);
    });
}

#[test]
fn a_slot_that_another_key_has_got_is_not_read() {
    bounded(4, || {
        let segment = Segment::new();
        let mut others = Others::counting(&segment, 0);
        let mover = in_thread(&segment, move |segment| segment.give_to([8, 5, 2], &mut others));
        let reader = in_thread(&segment, |segment| {
            segment.glance(|seen, words, read| {
                if segment.version.still(seen, words, read) {
                    assert_eq!(read, [KEY, 1, 2]);
                }
                Some(())
            })
        });
        mover.join().unwrap();
        reader.join().unwrap();
    });
}

/// As with token buckets, whose number is mostly 0.
#[test]
fn nothing_is_lost_where_only_the_time_tells() {
    loom::model(|| {
        let segment = Segment::new();
        let count = |segment: &Segment| {
            let counted = segment.glance(|seen, words, read| {
                segment.version.take(seen, words, read)?.write((read[1] + 1, read[2]));
                Some(())
            });
            u64::from(counted.is_some())
        };
        let counting = [(); 2].map(|()| in_thread(&segment, count));
        let counted: u64 = counting.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(sync::read(&segment.slots[0]), [KEY, 1 + counted, 2]);
    });
}

#[test]
fn of_what_two_count_nothing_is_lost() {
    loom::model(|| {
        let segment = Segment::new();
        // Both in threads of their own: loom does not interleave the one that starts them.
        let counted = Others::counting(&segment, 2).join();
        assert!(counted >= 1, "one of them was first");
        segment.assert_counted(counted);
    });
}

#[test]
fn nothing_is_lost_while_slots_move() {
    loom::model(|| {
        let segment = Segment::new();
        let mut others = Others::counting(&segment, 1);
        let mover = in_thread(&segment, move |segment| {
            segment.change_place(&mut others);
            others.join()
        });
        segment.assert_counted(mover.join().unwrap());
    });
}

#[test]
fn nothing_is_lost_beside_one_who_has_the_lock() {
    bounded(2, || {
        let segment = Segment::new();
        let mut others = Others::counting(&segment, 2);
        let locked = in_thread(&segment, move |segment| {
            segment.count_locked(&mut others);
            others.join()
        });
        segment.assert_counted(locked.join().unwrap() + 1);
    });
}
