//! Fuzz target: one request head, and the chunked body behind it. The oracle is in `src/oracles/http_head.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_fuzz::oracles::http_head(bytes));

#[cfg(not(fuzzing))]
fn main() {}
