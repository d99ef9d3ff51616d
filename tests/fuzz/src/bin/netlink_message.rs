//! Fuzz target: datagrams of the proc connector. What must hold of it stands in `reaper-user/src/fuzz_doors/netlink.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_user::fuzz_doors::netlink_message(bytes));

#[cfg(not(fuzzing))]
fn main() {}
