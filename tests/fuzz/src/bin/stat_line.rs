//! Fuzz target: lines of `/proc/PID/stat`. The oracle is in `src/oracles/stat.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_fuzz::oracles::stat_line(bytes));

#[cfg(not(fuzzing))]
fn main() {}
