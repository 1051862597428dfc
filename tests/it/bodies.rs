//! The policy counts by the value that a handler reads in a field, or the request is refused.
#![cfg(feature = "axum")]

use proptest::{collection::vec, prelude::*};

use crate::fuzz_targets;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_a_reader_finds_is_found_or_unreadable(
        how in any::<[u8; 2]>(),
        document in vec(prop_oneof![4 => 0_u8..64, 1 => any::<u8>()], 0..10),
    ) {
        fuzz_targets::bodies::bodies(&[&how[..], &document].concat());
    }

    /// Documents that are nearly whole: two members, one of which a handler reads.
    #[test]
    fn what_a_reader_finds_beside_others_is_found_or_unreadable(
        how in 0_u8..48,
        (first, second) in (0_u8..64, 0_u8..64),
        (open, name, between) in (0_u8..12, 0_u8..12, 0_u8..64),
    ) {
        let close = 1;
        for document in [
            vec![open, first, between, second, close],
            vec![open, first, 14, name, second, close],
            vec![open, first, close],
            vec![5, 9, first, close, close],
        ] {
            fuzz_targets::bodies::bodies(&[&[how, 3][..], &document].concat());
        }
    }
}
