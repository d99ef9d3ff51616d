//! Fuzz target: bodies of registrations. What must hold of it stands in `reaper-user/src/fuzzing/register.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaperd::fuzzing::register_body(bytes));

#[cfg(not(fuzzing))]
fn main() {}
