//! Fuzz target: query strings, escaped path segments and event positions. What must hold of it stands in `reaper-user/src/fuzzing/query.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaperd::fuzzing::query(bytes));

#[cfg(not(fuzzing))]
fn main() {}
