//! Fuzz target: lines of `/proc/PID/stat`. The oracle is in `src/oracles/stat.rs`.
#![cfg_attr(fuzzing, no_main)]

reaper_fuzz::target!(stat_line);
