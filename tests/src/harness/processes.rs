//! Processes that tests register or run the daemon in, and what surrounds them: control groups,
//! limits, namespaces, and the kernel's own events about them.

#[cfg(target_os = "linux")]
pub mod cgroup;
#[cfg(target_os = "linux")]
pub mod confined;
#[cfg(target_os = "linux")]
pub mod connector;
pub mod crowd;
#[cfg(target_os = "linux")]
pub mod exec_loop;
pub mod test_process;
#[cfg(target_os = "linux")]
pub mod time_namespace;
#[cfg(target_os = "linux")]
pub mod user;
