//! The figures of this process that programs with metrics share, from `/proc/self`. Where the system has
//! no such files they are absent.

use crate::clock;
use crate::watch::fd_budget::open_file_limit;

/// What is known of this process.
pub(super) struct ProcessNow {
    pub(super) resident_bytes: Option<u64>,
    pub(super) virtual_bytes: Option<u64>,
    pub(super) cpu_seconds: f64,
    pub(super) open_fds: Option<usize>,
    pub(super) max_fds: usize,
}

impl ProcessNow {
    pub(super) fn read() -> Self {
        let (resident_bytes, virtual_bytes, open_fds) = of_proc();
        Self {
            resident_bytes,
            virtual_bytes,
            cpu_seconds: clock::cpu_time().as_secs_f64(),
            open_fds,
            max_fds: open_file_limit(),
        }
    }
}

#[cfg(target_os = "linux")]
fn of_proc() -> (Option<u64>, Option<u64>, Option<usize>) {
    let Ok(process) = procfs::process::Process::myself() else {
        return (None, None, None);
    };
    let status = process.status().ok();
    let bytes = |kib: Option<u64>| kib.map(|kib| kib * 1_024);
    (
        bytes(status.as_ref().and_then(|status| status.vmrss)),
        bytes(status.as_ref().and_then(|status| status.vmsize)),
        process.fd_count().ok(),
    )
}

#[cfg(not(target_os = "linux"))]
fn of_proc() -> (Option<u64>, Option<u64>, Option<usize>) {
    (None, None, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_figures_of_this_process_are_plausible() {
        let now = ProcessNow::read();
        assert!(now.cpu_seconds > 0.0);
        assert!(now.resident_bytes.unwrap() > 1 << 20);
        assert!(now.virtual_bytes >= now.resident_bytes);
        assert!((3..now.max_fds).contains(&now.open_fds.unwrap()));
    }
}
