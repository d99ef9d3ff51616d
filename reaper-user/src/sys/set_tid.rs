//! Starts a process under a chosen pid: `clone3` with `set_tid`. For tests and the demo, which have
//! to force the reuse of a pid.
#![expect(unsafe_code, reason = "clone3 and what its child may call")]

use std::ffi::{CStr, CString, c_char, c_long};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::ptr;

use reaper_registry::Pid;

/// `struct clone_args` up to the fields of Linux 5.5 (the kernel's `include/uapi/linux/sched.h`,
/// `CLONE_ARGS_SIZE_VER1`).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
}

const _: () = assert!(size_of::<CloneArgs>() == 80);

/// Starts `program` under this pid. The caller must wait for the child.
///
/// Needs `CAP_CHECKPOINT_RESTORE` (or `CAP_SYS_ADMIN`) in the user namespace of the pid namespace,
/// and Linux 5.5. `EEXIST`: the pid is in use. `EPERM`: not permitted. The child has an empty
/// environment. If the program cannot be executed, the exit code is 127.
pub(crate) fn spawn_at_pid(
    pid: Pid,
    program: &CStr,
    arguments: &[CString],
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
) -> io::Result<rustix::process::Pid> {
    // Everything that the child needs is prepared here, because it must not allocate: another
    // thread may have held the allocator's lock at the moment of the copy.
    let argv: Vec<*const c_char> = std::iter::once(program.as_ptr())
        .chain(arguments.iter().map(|argument| argument.as_ptr()))
        .chain(std::iter::once(ptr::null()))
        .collect();
    let (stdin, stdout) = (stdin.as_raw_fd(), stdout.as_raw_fd());
    let raw_pid = pid.as_raw();
    let mut request = CloneArgs {
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        set_tid: (&raw const raw_pid).addr() as u64,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    match clone3(&mut request) {
        -1 => Err(io::Error::last_os_error()),
        0 => become_program(program, &argv, stdin, stdout),
        _parent => Ok(rustix::process::Pid::from_raw(raw_pid).expect("a Pid is never zero")),
    }
}

fn clone3(request: &mut CloneArgs) -> c_long {
    // SAFETY: the record has the size that is passed, and everything that it points to lives in the
    // caller's frame. Without CLONE_VM the child runs on a copy of the memory, as after a fork.
    unsafe {
        libc::syscall(
            libc::SYS_clone3,
            ptr::from_mut(request),
            size_of::<CloneArgs>(),
        )
    }
}

/// Runs in the child: only async-signal-safe calls, on prepared data.
fn become_program(program: &CStr, argv: &[*const c_char], stdin: RawFd, stdout: RawFd) -> ! {
    let environment: [*const c_char; 1] = [ptr::null()];
    // SAFETY: plain descriptor numbers; dup2 touches no memory.
    unsafe { libc::dup2(stdin, 0) };
    // SAFETY: as above.
    unsafe { libc::dup2(stdout, 1) };
    // SAFETY: the strings end in NUL, both arrays in a null pointer, and all of them are alive.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
    // SAFETY: runs no handler, touches no memory, does not return.
    unsafe { libc::_exit(127) }
}
