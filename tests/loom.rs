//! The store's sequence lock under every interleaving of two threads that the memory model allows.

use loom::{
    sync::{Arc, atomic},
    thread,
};

use self::atomic::{AtomicU64, Ordering::Relaxed};

#[path = "../src/store/memory/version.rs"]
mod version;

use self::version::Version;

/// Two words that belong together: the second is twice the first.
#[derive(Default)]
struct Pair {
    version: Version,
    words: [AtomicU64; 2],
}

impl Pair {
    fn read(&self) -> [u64; 2] {
        self.words.each_ref().map(|word| word.load(Relaxed))
    }

    /// Adds one to the first word, if nobody else writes meanwhile.
    fn count(&self) -> bool {
        let Some(seen) = self.version.see() else { return false };
        let [first, second] = self.read();
        let Some(_writing) = self.version.write_if_still(seen) else { return false };
        // What was read without the lock held when the lock was taken.
        assert_eq!(second, 2 * first);
        self.words[0].store(first + 1, Relaxed);
        self.words[1].store(second + 2, Relaxed);
        true
    }
}

#[test]
fn what_is_read_is_never_half_of_a_write() {
    loom::model(|| {
        let pair = Arc::new(Pair::default());
        let writer = {
            let pair = Arc::clone(&pair);
            thread::spawn(move || assert!(pair.count(), "nobody else writes"))
        };
        let reader = thread::spawn(move || {
            let Some(seen) = pair.version.see() else { return };
            let [first, second] = pair.read();
            if pair.version.still(seen) {
                assert_eq!(second, 2 * first);
            }
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn of_what_two_count_nothing_is_lost() {
    loom::model(|| {
        let pair = Arc::new(Pair::default());
        // Both in threads of their own: loom does not interleave the one that starts them.
        let counting = [(); 2].map(|()| {
            let pair = Arc::clone(&pair);
            thread::spawn(move || u64::from(pair.count()))
        });
        let counted: u64 = counting.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(counted >= 1, "one of them was first");
        assert_eq!(pair.read(), [counted, 2 * counted]);
    });
}
