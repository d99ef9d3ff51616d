//! Fuzz target: one request head, and the chunked body behind it. What must hold of it stands in `reaper-user/src/fuzzing/http_head.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaperd::fuzzing::http_head(bytes));

#[cfg(not(fuzzing))]
fn main() {}
