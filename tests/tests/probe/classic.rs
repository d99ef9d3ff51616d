//! The second choice, on the classic tracepoint.
#![expect(
    unsafe_code,
    reason = "a private mount of tracefs, which the host may not have"
)]

use std::{io::Error, path::Path, ptr, thread};

use reaper_ebpf::probe;

use super::{
    check_kill_is_marked,
    loaded::{Probe, Variant, skip},
};

#[test]
fn the_classic_tracepoint_marks_as_well() {
    // In a thread of its own, whose mounts nobody else sees.
    thread::spawn(|| {
        if !Path::new("/sys/kernel/tracing/events").exists()
            && let Err(error) = mount_tracefs()
        {
            return skip("ebpf", &format!("no tracefs: {error}"));
        }
        let attached = Probe::attached(Variant::Classic, probe::DEFAULT_DOORBELL_BYTES);
        let Some(mut probe) = attached else { return };
        check_kill_is_marked(&mut probe);
    })
    .join()
    .unwrap();
}

fn mount_tracefs() -> Result<(), Error> {
    // SAFETY: takes no pointer; concerns this thread only.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(Error::last_os_error());
    }
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: nul-terminated strings; the others are not looked at for a change of propagation.
    let made_private = unsafe {
        libc::mount(
            ptr::null(),
            c"/".as_ptr(),
            ptr::null(),
            private,
            ptr::null(),
        )
    };
    if made_private != 0 {
        return Err(Error::last_os_error());
    }
    let [source, target] = [c"tracefs", c"/sys/kernel/tracing"];
    // SAFETY: nul-terminated strings, and no data.
    let mounted = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            source.as_ptr(),
            0,
            ptr::null(),
        )
    };
    if mounted == 0 {
        Ok(())
    } else {
        Err(Error::last_os_error())
    }
}
