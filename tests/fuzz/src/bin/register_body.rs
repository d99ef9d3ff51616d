//! Fuzz target: bodies of registrations. The oracle is in `src/oracles/register.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_fuzz::oracles::register_body(bytes));

#[cfg(not(fuzzing))]
fn main() {}
