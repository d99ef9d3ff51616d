//! Fuzz target: event streams as the client reads them. What must hold of it stands in `reaper-user/src/fuzzing/sse.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaperd::fuzzing::sse_client(bytes));

#[cfg(not(fuzzing))]
fn main() {}
