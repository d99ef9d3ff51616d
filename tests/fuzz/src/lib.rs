//! The oracles of the fuzz targets in `src/bin`. `cargo xtask fuzz` feeds them what libFuzzer makes up,
//! and `tests/corpus.rs` the checked-in corpus. Linux only, where all the parsers are.
#![cfg(target_os = "linux")]

pub mod oracles;
