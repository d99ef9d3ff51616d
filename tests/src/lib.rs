//! What the whole-daemon tests share.

pub mod expect;
#[cfg(target_os = "linux")]
pub mod guest;
pub mod libtest;
#[cfg(target_os = "linux")]
pub mod sys;
