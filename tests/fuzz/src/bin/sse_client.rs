//! Fuzz target: event streams as the client reads them. The oracle is in `src/oracles/sse.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_fuzz::oracles::sse_client(bytes));

#[cfg(not(fuzzing))]
fn main() {}
