//! Fuzz target: datagrams of the proc connector. What must hold of it stands in `reaper-user/src/fuzzing/netlink.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaperd::fuzzing::netlink_message(bytes));

#[cfg(not(fuzzing))]
fn main() {}
