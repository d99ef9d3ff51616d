//! The second choice, on the classic tracepoint.

use std::{io, path::Path, thread};

use reaper_ebpf::probe;
use reaper_tests::expect::skip_without;
use reaper_tests::sys::unshare_namespaces;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use super::{
    check_kill_is_marked,
    loaded::{Probe, Variant},
};

#[test]
fn the_classic_tracepoint_marks_as_well() {
    // In a thread of its own, whose mounts nobody else sees.
    thread::spawn(|| {
        if !Path::new("/sys/kernel/tracing/events").exists()
            && let Err(error) = mount_tracefs()
        {
            return skip_without("ebpf", format_args!("no tracefs: {error}"));
        }
        let attached = Probe::attached(Variant::Classic, probe::DEFAULT_WAKEUP_BYTES);
        let Some(mut probe) = attached else { return };
        check_kill_is_marked(&mut probe);
    })
    .join()
    .unwrap();
}

/// A private mount of tracefs, which the host may not have.
fn mount_tracefs() -> io::Result<()> {
    unshare_namespaces(false, false, true)?;
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    mount(
        "tracefs",
        "/sys/kernel/tracing",
        "tracefs",
        MountFlags::empty(),
        None,
    )?;
    Ok(())
}
