//! Fuzz target: whole connections, through the framing filter into hyper and the request policy. The oracle is in `src/oracles/http_connection.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_fuzz::oracles::http_connection(bytes));

#[cfg(not(fuzzing))]
fn main() {}
