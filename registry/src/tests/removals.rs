//! Exit statuses and the texts of removals.

use super::support::*;
use crate::*;

#[test]
fn a_wait_status_decodes_and_encodes() {
    for (wait_status, status, text) in [
        (0, ExitStatus::Code(0), "exit status: 0"),
        (0x300, ExitStatus::Code(3), "exit status: 3"),
        (0xff00, ExitStatus::Code(255), "exit status: 255"),
        (9, signal(9, false), "signal: 9"),
        (0x86, signal(6, true), "signal: 6 (core dumped)"),
    ] {
        assert_eq!(ExitStatus::from_wait_status(wait_status), status);
        assert_eq!(status.to_wait_status(), wait_status);
        assert_eq!(status.to_string(), text);
    }
}

const fn signal(signal: u8, core: bool) -> ExitStatus {
    ExitStatus::Signal { signal, core }
}

#[cfg(unix)]
#[test]
fn an_exit_status_converts_to_that_of_std_and_back() {
    use std::os::unix::process::ExitStatusExt as _;
    let code = std::process::ExitStatus::from(ExitStatus::Code(3));
    assert_eq!(code.code(), Some(3));
    let killed = std::process::ExitStatus::from(signal(9, true));
    assert_eq!((killed.signal(), killed.core_dumped()), (Some(9), true));
    assert_eq!(ExitStatus::from(code), ExitStatus::Code(3));
    assert_eq!(ExitStatus::from(killed), signal(9, true));
}

#[test]
fn display_writes_the_names_of_json() {
    assert_eq!(Removal::Died(DEATH).to_string(), "exited");
    assert_eq!(Evidence::StartTime.to_string(), "start_time");
    assert_eq!(SourceHealth::Degraded.to_string(), "degraded");
    assert_eq!(format!("{:>8}", Source::Ebpf), "    ebpf");
}
