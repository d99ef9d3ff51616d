//! Fuzz target: datagrams of the proc connector. The oracle is in `src/oracles/netlink.rs`.
#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| reaper_fuzz::oracles::netlink_message(bytes));

#[cfg(not(fuzzing))]
fn main() {}
