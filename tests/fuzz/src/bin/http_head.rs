//! Fuzz target: one request head, and the chunked body behind it. The oracle is in `src/oracles/http_head.rs`.
#![cfg_attr(fuzzing, no_main)]

reaper_fuzz::target!(http_head);
