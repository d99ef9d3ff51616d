//! Fuzz target: whole connections, through the guard into hyper and the gate. What must hold of it stands in `reaper-user/src/fuzzing/http_connection.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaperd::fuzzing::http_connection(bytes));

#[cfg(not(fuzzing))]
fn main() {}
