//! What happens to the whole machine: its clock is set, it sleeps, its memory is short, its kernel
//! keeps a core waiting. In a guest of `cargo xtask vm`, and on no machine that somebody uses.

mod clock;
mod cores;
mod memory;
mod suspend;

use reaper_tests::expect::{self, skip};

/// Whether this machine is thrown away afterwards and is root's, so that a test may change what
/// belongs to all of it. A skip says why not.
fn is_ours(what: &str) -> bool {
    let role = expect::role();
    match role.as_deref() {
        Some("root") => return true,
        Some(_) => skip(format_args!("only root changes {what}")),
        None => skip(format_args!(
            "{what} is changed in a guest of `cargo xtask vm` alone"
        )),
    }
    false
}
