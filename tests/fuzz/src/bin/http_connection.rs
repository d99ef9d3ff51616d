//! Fuzz target: whole connections, through the framing filter into hyper and the request policy. The oracle is in `src/oracles/http_connection.rs`.
#![cfg_attr(fuzzing, no_main)]

reaper_fuzz::target!(http_connection);
