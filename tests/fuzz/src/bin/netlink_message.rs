//! Fuzz target: datagrams of the proc connector. The oracle is in `src/oracles/netlink.rs`.
#![cfg_attr(fuzzing, no_main)]

reaper_fuzz::target!(netlink_message);
