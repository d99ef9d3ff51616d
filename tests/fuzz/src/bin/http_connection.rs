//! Fuzz target: whole connections, through the guard into hyper and the gate. What must hold of it stands in `reaper-user/src/fuzz_doors/http_connection.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_user::fuzz_doors::http_connection(bytes));

#[cfg(not(fuzzing))]
fn main() {}
