//! Fuzz target: query strings, escaped path segments and event positions. The oracle is in `src/oracles/query.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_fuzz::oracles::query(bytes));

#[cfg(not(fuzzing))]
fn main() {}
