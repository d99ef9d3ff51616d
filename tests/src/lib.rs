//! What the whole-daemon tests share: the harness, whose modules are re-exported here, and the
//! programs of a VM guest.

mod harness;
#[cfg(target_os = "linux")]
pub mod vm_guest;

pub use harness::*;
