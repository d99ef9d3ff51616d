//! What the whole-daemon tests share.

#[cfg(target_os = "linux")]
pub mod bench;
#[cfg(target_os = "linux")]
pub mod cgroup;
#[cfg(target_os = "linux")]
pub mod confined;
#[cfg(target_os = "linux")]
pub mod connector;
pub mod crowd;
pub mod daemon;
#[cfg(target_os = "linux")]
pub mod exec_loop;
pub mod expect;
#[cfg(target_os = "linux")]
pub mod fork_server;
pub mod libtest;
#[cfg(target_os = "linux")]
pub mod scale;
pub mod sys;
#[cfg(target_os = "linux")]
pub mod time_namespace;
#[cfg(target_os = "linux")]
pub mod vm_guest;
pub mod wait;
