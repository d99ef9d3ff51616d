//! Fuzz target: query strings, escaped path segments and event positions. What must hold of it stands in `reaper-user/src/fuzz_doors/query.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_user::fuzz_doors::query(bytes));

#[cfg(not(fuzzing))]
fn main() {}
