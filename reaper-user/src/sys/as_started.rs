//! The process state that the standard library changes before `main`, so that `run` can pass the
//! original state on: the library ignores SIGPIPE, and opens `/dev/null` for closed standard
//! streams (`library/std/src/sys/pal/unix/mod.rs`, `init`, Rust 1.95).
//!
//! A function that the loader calls reads the state before that. It changes nothing.
#![expect(
    unsafe_code,
    reason = "a function that runs before main, and signal actions, which rustix does not have"
)]

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;

use super::signal_action::is_ignored;

static SIGPIPE_IGNORED: AtomicBool = AtomicBool::new(false);
static CLOSED: [AtomicBool; 3] = [const { AtomicBool::new(false) }; 3];

// SAFETY: the section has pointers to functions that the loader calls once, before `main` and on
// the main thread (System V ABI, "Initialization and Termination Functions"). This one uses nothing
// of the standard library that needs to be initialised first.
#[used]
#[cfg_attr(
    target_vendor = "apple",
    unsafe(link_section = "__DATA,__mod_init_func")
)]
#[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
static READ_AT_START: extern "C" fn() = read_at_start;

extern "C" fn read_at_start() {
    SIGPIPE_IGNORED.store(is_ignored(Signal::PIPE), Ordering::Relaxed);
    for (descriptor, closed) in (0..).zip(&CLOSED) {
        // SAFETY: takes integers only.
        let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
        closed.store(flags == -1, Ordering::Relaxed);
    }
}

/// Returns whether standard output was closed when this process was started.
pub(crate) fn stdout_was_closed() -> bool {
    let [_, stdout, _] = &CLOSED;
    stdout.load(Ordering::Relaxed)
}

/// Restores SIGPIPE and the standard streams for a command that replaces this process (`exec`), so
/// that it gets them as this process did.
pub(crate) fn pass_on(command: &mut Command) {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    for (stream, closed) in streams.into_iter().zip(&CLOSED) {
        if closed.load(Ordering::Relaxed) {
            // What is open there now is the library's. If this fails, there is one more /dev/null.
            fcntl_setfd(stream, FdFlags::CLOEXEC).unwrap_or_default();
        }
    }
    // The library sets the default action right before it calls the closures of the command.
    if SIGPIPE_IGNORED.load(Ordering::Relaxed) {
        let ignore = || {
            // SAFETY: installs no handler.
            unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
            Ok(())
        };
        // SAFETY: one system call, which is async-signal-safe (signal-safety(7)).
        unsafe { command.pre_exec(ignore) };
    }
}
