//! Fuzz target: bodies of registrations. The oracle is in `src/oracles/register.rs`.
#![cfg_attr(fuzzing, no_main)]

reaper_fuzz::target!(register_body);
