//! The place of the exit probe: the records that kernel and daemon share will live here.
#![no_std]
