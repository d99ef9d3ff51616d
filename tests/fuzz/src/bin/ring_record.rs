//! Fuzz target: records of the exit probe's ring and values of its map. The oracle is in `src/oracles/records.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_fuzz::oracles::ring_record(bytes));

#[cfg(not(fuzzing))]
fn main() {}
