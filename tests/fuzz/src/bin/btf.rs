//! Fuzz target: the kernel's description of its own types. What must hold of it stands in `reaper-user/src/fuzzing/btf.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaperd::fuzzing::btf(bytes));

#[cfg(not(fuzzing))]
fn main() {}
