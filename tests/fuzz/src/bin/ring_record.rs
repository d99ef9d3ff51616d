//! Fuzz target: records of the exit probe's ring and values of its map. The oracle is in `src/oracles/records.rs`.
#![cfg_attr(fuzzing, no_main)]

reaper_fuzz::target!(ring_record);
