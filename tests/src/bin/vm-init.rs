//! PID 1 of a VM guest, and the helper that puts a test binary into its role: `reaper_tests::vm_guest`.
//! `cargo xtask vm` builds the guest.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    reaper_tests::vm_guest::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
