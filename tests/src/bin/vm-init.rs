//! PID 1 of a VM guest, and the helper that puts a test binary into its role. Everything it does
//! is in `reaper_tests::vm_guest`; `cargo xtask vm` builds the guest around it.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    reaper_tests::vm_guest::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
