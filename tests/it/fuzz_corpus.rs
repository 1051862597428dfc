//! The inputs that fuzzing has found so far, in `tests/fuzz/corpus`: each keeps its promise.

use std::{fs, panic, path::PathBuf};

use crate::fuzz_targets;

/// The inputs that are kept for a target, and some that are always tried.
fn inputs(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let kept = fs::read_to_string(folder.join(format!("{target}.hex"))).expect("it has a corpus");
    let byte = |digits: &[u8]| {
        let digits = std::str::from_utf8(digits).expect("hexadecimal digits");
        u8::from_str_radix(digits, 16).expect("hexadecimal digits")
    };
    let always: [&[u8]; 4] = [b"", b"\0", &[0xff; 8], &[b','; 4_096]];
    let kept = kept.lines().map(|line| line.as_bytes().chunks(2).map(byte).collect());
    kept.chain(always.map(<[u8]>::to_vec)).collect()
}

#[test]
fn each_input_of_each_target_keeps_its_promise() {
    for (name, target) in fuzz_targets::ALL {
        let inputs = inputs(name);
        assert!(inputs.len() > 50, "the corpus of `{name}` is kept");
        for data in inputs {
            let broken = panic::catch_unwind(|| target(&data)).is_err();
            assert!(!broken, "`{name}` breaks its promise for {data:02x?}");
        }
    }
}
