//! The fallback: the probe on the classic tracepoint.

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
fn the_probe_on_the_classic_tracepoint_marks_a_kill() {
    // A new thread, so that its mounts stay private.
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

/// Mounts tracefs privately: the host may not have mounted it.
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
