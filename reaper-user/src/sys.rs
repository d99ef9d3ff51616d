//! The unsafe fence: the only modules that may lift the workspace's ban on `unsafe`. One system call
//! a wrapper, owned and borrowed descriptors at the border, an argument on each block.

#[cfg(target_os = "linux")]
pub mod set_tid;
#[cfg(target_os = "linux")]
pub(crate) mod victim;
