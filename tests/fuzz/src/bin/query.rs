//! Fuzz target: query strings, escaped path segments and event positions. The oracle is in `src/oracles/query.rs`.
#![cfg_attr(fuzzing, no_main)]

reaper_fuzz::target!(query);
