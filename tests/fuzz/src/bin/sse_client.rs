//! Fuzz target: event streams as the client reads them. The oracle is in `src/oracles/sse.rs`.
#![cfg_attr(fuzzing, no_main)]

reaper_fuzz::target!(sse_client);
