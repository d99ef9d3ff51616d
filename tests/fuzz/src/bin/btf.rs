//! Fuzz target: the kernel's description of its own types. The oracle is in `src/oracles/btf.rs`.
#![cfg_attr(fuzzing, no_main)]

reaper_fuzz::target!(btf);
