//! The oracles of the fuzz targets in `src/bin`. `cargo xtask fuzz` feeds them what libFuzzer makes up,
//! and `tests/corpus.rs` the checked-in corpus. Linux only, where all the parsers are.

#[cfg(target_os = "linux")]
pub mod oracles;

/// The program of a fuzz target. Elsewhere than under `cargo fuzz` it does nothing.
#[macro_export]
macro_rules! target {
    ($oracle:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::oracles::$oracle(bytes));

        #[cfg(not(fuzzing))]
        fn main() {}
    };
}
