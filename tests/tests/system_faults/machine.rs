//! Faults of the whole machine: its clock is set, it is suspended, its memory is short, a core dump
//! takes long. These run only in a guest of `cargo xtask vm`, never on a machine in use.

mod clock;
mod cores;
mod memory;
mod suspend;

use reaper_tests::expect::{self, skip};

/// Whether this process is root in a guest that is discarded afterwards, so that a test may change
/// `what`, which belongs to the whole machine. If not, skips with the reason.
fn may_change(what: &str) -> bool {
    let role = expect::role();
    match role.as_deref() {
        Some("root") => return true,
        Some(_) => skip(format_args!("only root can change {what}")),
        None => skip(format_args!(
            "{what} may be changed only in a guest of `cargo xtask vm`"
        )),
    }
    false
}
