//! Fuzz target: lines of `/proc/PID/stat`. What must hold of it stands in `reaper-user/src/fuzzing/stat.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaperd::fuzzing::stat_line(bytes));

#[cfg(not(fuzzing))]
fn main() {}
