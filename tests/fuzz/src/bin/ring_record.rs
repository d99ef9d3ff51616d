//! Fuzz target: records of the exit probe's ring and values of its map. What must hold of it stands in `reaper-user/src/fuzzing/records.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaperd::fuzzing::ring_record(bytes));

#[cfg(not(fuzzing))]
fn main() {}
