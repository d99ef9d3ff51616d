//! Fuzz target: bodies of registrations. What must hold of it stands in `reaper-user/src/fuzz_doors/register.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_user::fuzz_doors::register_body(bytes));

#[cfg(not(fuzzing))]
fn main() {}
