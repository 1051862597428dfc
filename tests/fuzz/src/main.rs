//! libFuzzer's entry: runs the target that the variable `FUZZ_TARGET` names.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

#[path = "../targets/mod.rs"]
mod targets;

static TARGET: LazyLock<targets::Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    let found = targets::ALL.iter().find(|(known, _)| *known == name);
    found.expect("FUZZ_TARGET is one of `targets::ALL`").1
});

fuzz_target!(|data: &[u8]| TARGET(data));
