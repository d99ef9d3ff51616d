//! Exactly the chosen calls fail, in the thread with the filter and in what it starts.

use std::sync::mpsc;

use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use super::*;

fn own_pidfd() -> Result<OwnedFd, Errno> {
    pidfd_open(getpid(), PidfdFlags::empty())
}

/// Whether this error means that seccomp cannot be used here.
fn refused(error: &io::Error) -> bool {
    let refused = matches!(
        error.raw_os_error(),
        Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)
    );
    assert!(refused, "{error}");
    println!("{}seccomp: {error}", crate::expect::SKIP_MARK);
    refused
}

#[test]
fn exactly_the_nth_call_fails() {
    let (to_supervisor, listeners) = mpsc::sync_channel(1);
    let caller = thread::spawn(move || {
        let listener = listen(&[libc::SYS_pidfd_open.into()]);
        let works = listener.is_ok();
        to_supervisor.send(listener).unwrap();
        drop(to_supervisor);
        let calls = if works { 5 } else { 0 };
        (0..calls)
            .map(|_| own_pidfd().map(drop))
            .collect::<Vec<_>>()
    });
    let listener = match listeners.recv().unwrap() {
        Ok(listener) => listener,
        Err(error) => return assert!(refused(&error)),
    };
    let mut seen = 0;
    while !caller.is_finished() {
        let Received::Call(call) = listener.receive(Duration::from_millis(10)).unwrap() else {
            continue;
        };
        assert_eq!(call.number, libc::SYS_pidfd_open);
        assert_eq!(
            call.arguments[0],
            u64::from(Pid::as_raw(Some(getpid())).cast_unsigned())
        );
        seen += 1;
        if seen == 3 {
            listener.fail(call, Errno::NFILE).unwrap();
        } else {
            listener.let_pass(call).unwrap();
        }
    }
    let results = caller.join().unwrap();
    let expected = [Ok(()), Ok(()), Err(Errno::NFILE), Ok(()), Ok(())];
    assert_eq!(results, expected);
    // No other thread is touched.
    own_pidfd().unwrap();
}

#[test]
fn a_denied_call_fails_in_this_thread_and_what_it_starts_and_nowhere_else() {
    on_new_thread(|| {
        if let Err(error) = deny(&[libc::SYS_uname.into()], Errno::XFULL) {
            assert!(refused(&error));
            return;
        }
        let child = Command::new("uname").arg("-r").output();
        assert!(
            child.is_err() || !child.unwrap().status.success(),
            "its child was not denied"
        );
        let here = thread::spawn(uname).join().unwrap();
        assert_eq!(here, Err(Errno::XFULL));
        assert_eq!(uname(), Err(Errno::XFULL));
    });
    uname().unwrap();
}

#[test]
fn a_call_can_be_denied_by_its_argument() {
    on_new_thread(|| {
        let own = getpid().as_raw_nonzero().get().cast_unsigned();
        let call = Call::from(libc::SYS_pidfd_open);
        if let Err(error) = deny(&[call.with(0, own), call.with(0, 1)], Errno::MFILE) {
            assert!(refused(&error));
            return;
        }
        assert_eq!(own_pidfd().map(drop), Err(Errno::MFILE));
        assert_eq!(
            pidfd_open(Pid::INIT, PidfdFlags::empty()).map(drop),
            Err(Errno::MFILE)
        );
        let parent = rustix::process::getppid().filter(|parent| !parent.is_init());
        let answer = parent.map(|parent| pidfd_open(parent, PidfdFlags::empty()).map(drop));
        assert_ne!(answer, Some(Err(Errno::MFILE)));
    });
}

#[test]
fn a_call_can_seem_to_have_been_made() {
    on_new_thread(|| {
        let nice = rustix::process::getpriority_process(None).unwrap();
        // Any but ours: tests may run at the lowest priority there is.
        let other = if nice < 19 { nice + 1 } else { nice - 1 };
        if let Err(error) = pretend(&[libc::SYS_setpriority.into()]) {
            assert!(refused(&error));
            return;
        }
        assert_eq!(rustix::process::setpriority_process(None, other), Ok(()));
        assert_eq!(rustix::process::getpriority_process(None), Ok(nice));
    });
}

fn uname() -> Result<(), Errno> {
    let mut name = std::mem::MaybeUninit::<libc::utsname>::uninit();
    // SAFETY: the kernel writes one `utsname` there, or nothing.
    match unsafe { libc::uname(name.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap()),
    }
}
