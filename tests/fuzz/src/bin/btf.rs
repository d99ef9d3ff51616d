//! Fuzz target: the kernel's description of its own types. The oracle is in `src/oracles/btf.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_fuzz::oracles::btf(bytes));

#[cfg(not(fuzzing))]
fn main() {}
