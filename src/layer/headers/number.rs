//! Whole numbers as header values.

use std::{cell::RefCell, sync::OnceLock};

use http::HeaderValue;

/// The numbers below 10,000, with four digits each: most limits and remaining units are among them.
static SMALL_NUMBERS: [[u8; 4]; 10_000] = small_numbers();

#[expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "it is run by the compiler, which counts for itself"
)]
const fn small_numbers() -> [[u8; 4]; 10_000] {
    const fn digit(number: usize) -> u8 {
        b'0' + (number % 10) as u8
    }
    let mut numbers = [[b'0'; 4]; 10_000];
    let mut number = 0;
    while number < numbers.len() {
        let [thousands, hundreds, tens] = [number / 1_000, number / 100, number / 10];
        numbers[number] = [digit(thousands), digit(hundreds), digit(tens), digit(number)];
        number += 1;
    }
    numbers
}

/// The number as a header value. A small one needs no allocation, and others one:
/// `HeaderValue::from` needs two.
pub(crate) fn value(number: u64) -> HeaderValue {
    small(number).unwrap_or_else(|| large(number))
}

#[expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "an empty header would say nothing, and of four digits three may be zeros"
)]
fn small(number: u64) -> Option<HeaderValue> {
    let digits = SMALL_NUMBERS.get(usize::try_from(number).ok()?)?;
    let zeros = digits[..3].iter().take_while(|digit| **digit == b'0').count();
    Some(HeaderValue::from_static(str::from_utf8(&digits[zeros..]).expect("digits are text")))
}

fn large(number: u64) -> HeaderValue {
    let mut digits = itoa::Buffer::new();
    HeaderValue::from_str(digits.format(number)).unwrap_or_else(|_| number.into())
}

/// Large limits: in each slot the first that the process has written. The slot is the number modulo 61, a
/// prime, so that round numbers have different slots. They are never dropped, so their values have no
/// reference count.
static LIMITS: [OnceLock<(u64, HeaderValue)>; 61] = [const { OnceLock::new() }; 61];

/// A limit. Most responses have one of a few limits, which need no allocation. A limit whose slot has another
/// one needs an allocation.
#[expect(clippy::indexing_slicing, reason = "a remainder of 61 is one of the 61")]
pub(super) fn limit(number: u64) -> HeaderValue {
    if let Some(value) = small(number) {
        return value;
    }
    let first = || {
        let digits = itoa::Buffer::new().format(number).to_owned();
        (number, HeaderValue::from_static(digits.leak()))
    };
    match LIMITS[(number % 61) as usize].get_or_init(first) {
        (kept, value) if *kept == number => value.clone(),
        _ => large(number),
    }
}

/// Large resets that a thread has written before. The index is the number modulo 7. A number gets a
/// value when it comes twice in a row.
type Recent = RefCell<[(u64, Option<HeaderValue>); 7]>;

thread_local! {
    static RESETS: Recent = const { RefCell::new([const { (0, None) }; 7]) };
}

/// A reset. Many responses in a row have the same one: from the third on, it needs no allocation.
#[expect(clippy::indexing_slicing, reason = "a remainder of 7 is one of the seven")]
pub(super) fn reset(number: u64) -> HeaderValue {
    if let Some(value) = small(number) {
        return value;
    }
    let recur = |recent: &Recent| {
        let mut recent = recent.borrow_mut();
        let (last, value) = &mut recent[(number % 7) as usize];
        if *last != number {
            (*last, *value) = (number, None);
            return large(number);
        }
        value.get_or_insert_with(|| large(number)).clone()
    };
    // A thread that ends may have dropped its numbers already.
    RESETS.try_with(recur).unwrap_or_else(|_| large(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_leading_zeros() {
        for n in (0..20_000).chain([99_999, u64::MAX - 1, u64::MAX]) {
            assert_eq!(value(n), n.to_string());
        }
    }

    #[test]
    fn a_reset_that_recurs_is_written_once() {
        let n = 1_705_402_770;
        // Some with the same remainder, in turn and in a row.
        for n in [n, 7, n, n, n, n + 7, n, n + 7, n + 7, n + 7] {
            assert_eq!(reset(n), n.to_string());
        }
        assert_eq!(allocation_counter::measure(|| drop(reset(n + 7))).count_total, 0);
    }

    #[test]
    fn a_limit_that_recurs_is_written_once_and_one_whose_slot_is_taken_each_time() {
        let n = 50_000_000;
        for n in [n, n + 61, n, 7, n + 61] {
            assert_eq!(limit(n), n.to_string());
        }
        assert_eq!(allocation_counter::measure(|| drop(limit(n))).count_total, 0);
        assert_eq!(allocation_counter::measure(|| drop(limit(n + 61))).count_total, 1);
    }
}
