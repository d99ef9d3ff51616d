//! Seccomp as a tool of tests: makes chosen system calls of an unchanged program fail.
//!
//! A filter applies to the thread that installs it and to everything that thread starts later, until
//! they end. So install it on a new thread, start the program there, and let the thread end. See
//! seccomp(2) and `seccomp_unotify(2)`.
#![expect(unsafe_code, reason = "no crate here wraps seccomp")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::panic::resume_unwind;
use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use libc::{c_long, c_ulong, sock_filter};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// A system call, or its calls with one value of an argument.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub number: c_long,
    /// The index of the argument, and the low half of its value.
    pub argument: Option<(u8, u32)>,
}

impl From<c_long> for Call {
    fn from(number: c_long) -> Self {
        Self {
            number,
            argument: None,
        }
    }
}

impl Call {
    /// Only calls with this value of this argument.
    pub fn with(self, argument: u8, value: u32) -> Self {
        Self {
            argument: Some((argument, value)),
            ..self
        }
    }
}

/// From now on these calls of this thread, and of what it starts, fail with this error and are not
/// executed.
pub fn deny(calls: &[Call], errno: Errno) -> io::Result<()> {
    let errno = errno.raw_os_error().cast_unsigned();
    install(&filter(calls, libc::SECCOMP_RET_ERRNO | errno), 0).map(drop)
}

/// From now on these calls of this thread, and of what it starts, return success and are not executed.
pub fn pretend(calls: &[Call]) -> io::Result<()> {
    install(&filter(calls, libc::SECCOMP_RET_ERRNO), 0).map(drop)
}

/// A call that is never executed, and the error that it returns; `None`: it returns success.
pub type Denied = (Call, Option<Errno>);

/// From now on these calls of this thread, and of what it starts, are denied.
pub fn deny_all(denied: &[Denied]) -> io::Result<()> {
    denied.iter().try_for_each(|(call, errno)| match errno {
        Some(errno) => deny(&[*call], *errno),
        None => pretend(&[*call]),
    })
}

/// Starts a program for which these calls are denied, from its first instruction on.
pub fn spawn_denied(command: &mut Command, denied: &[Denied]) -> io::Result<Child> {
    on_new_thread(|| {
        deny_all(denied)?;
        command.spawn()
    })
}

/// Runs `work` on a new thread, which then ends: a thread cannot remove its filter.
pub fn on_new_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let result = thread::scope(|scope| scope.spawn(work).join());
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// From now on these calls of this thread, and of what it starts, wait for the listener's decision. It
/// must be used in another thread, or they wait for ever. Once it is closed they fail with `ENOSYS`. A
/// program can have one listener only.
pub fn listen(calls: &[Call]) -> io::Result<Listener> {
    let program = filter(calls, libc::SECCOMP_RET_USER_NOTIF);
    let fd = install(&program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
    Ok(Listener(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Receives the calls and decides what happens to them.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A call that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    id: u64,
    /// The calling thread, by its id in this pid namespace.
    pub thread: u32,
    pub number: c_long,
    pub arguments: [u64; 6],
}

/// The result of waiting for a call.
#[derive(Clone, Copy, Debug)]
pub enum Received {
    Call(Waiting),
    /// There was none in time.
    Nothing,
    /// All threads with the filter have ended (reported by Linux 5.9 and newer).
    Over,
}

impl Listener {
    /// Waits for the next call, at most so long.
    pub fn receive(&self, wait: Duration) -> io::Result<Received> {
        let mut polled = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        let limit = wait.try_into().map_err(io::Error::other)?;
        match poll(&mut polled, Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => return Ok(Received::Nothing),
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !polled[0].revents().contains(PollFlags::IN) {
            return Ok(Received::Over);
        }
        // The kernel requires zeros.
        let mut received = libc::seccomp_notif {
            id: 0,
            pid: 0,
            flags: 0,
            data: libc::seccomp_data {
                nr: 0,
                arch: 0,
                instruction_pointer: 0,
                args: [0; 6],
            },
        };
        // SAFETY: the descriptor is open for the length of the call, and the kernel writes one
        // `seccomp_notif`, whose size is in the request number.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut received,
            )
        };
        if result < 0 {
            return match io::Error::last_os_error() {
                // Its thread was interrupted or killed in the meantime.
                gone if gone.raw_os_error() == Some(libc::ENOENT) => Ok(Received::Nothing),
                interrupted if interrupted.kind() == io::ErrorKind::Interrupted => {
                    Ok(Received::Nothing)
                }
                error => Err(error),
            };
        }
        Ok(Received::Call(Waiting {
            id: received.id,
            thread: received.pid,
            number: c_long::from(received.data.nr),
            arguments: received.data.args,
        }))
    }

    /// Lets the kernel execute the call (Linux 5.5 and newer).
    pub fn let_pass(&self, call: Waiting) -> io::Result<()> {
        let pass =
            u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).map_err(io::Error::other)?;
        self.respond(call, 0, pass)
    }

    /// Makes the call fail with this error; it is not executed.
    pub fn fail(&self, call: Waiting, errno: Errno) -> io::Result<()> {
        self.respond(call, -errno.raw_os_error(), 0)
    }

    fn respond(&self, call: Waiting, error: i32, flags: u32) -> io::Result<()> {
        let mut response = libc::seccomp_notif_resp {
            id: call.id,
            val: 0,
            error,
            flags,
        };
        // SAFETY: the descriptor is open for the length of the call, and the kernel reads one
        // `seccomp_notif_resp`, whose size is in the request number.
        let sent = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw mut response,
            )
        };
        match io::Error::last_os_error() {
            _ if sent == 0 => Ok(()),
            // Nothing waits for it any more: its thread was killed, or a signal restarts the call.
            gone if gone.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            error => Err(error),
        }
    }
}

/// A filter with this action for these calls; all others are allowed. The architecture is not checked:
/// the programs under test are built for the same one as this.
fn filter(calls: &[Call], action: u32) -> Vec<sock_filter> {
    const NUMBER: usize = std::mem::offset_of!(libc::seccomp_data, nr);
    const ARGUMENTS: usize = std::mem::offset_of!(libc::seccomp_data, args);
    const LOW_HALF: usize = if cfg!(target_endian = "little") { 0 } else { 4 };
    let mut program = Vec::new();
    for call in calls {
        let number = u32::try_from(call.number).expect("system call numbers are small");
        let Some((argument, value)) = call.argument else {
            program.extend([load(NUMBER), unless(number, 1), ret(action)]);
            continue;
        };
        program.extend([
            load(NUMBER),
            unless(number, 3),
            load(ARGUMENTS + 8 * usize::from(argument) + LOW_HALF),
            unless(value, 1),
            ret(action),
        ]);
    }
    program.push(ret(libc::SECCOMP_RET_ALLOW));
    program
}

fn load(offset: usize) -> sock_filter {
    let offset = u32::try_from(offset).expect("seccomp_data is small");
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0)
}

/// Skips so many instructions if the loaded value is another one.
fn unless(value: u32, skip: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, skip)
}

fn ret(action: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, action, 0)
}

fn instruction(code: u32, k: u32, jf: u8) -> sock_filter {
    let code = u16::try_from(code).expect("codes of classic BPF have 16 bits");
    sock_filter { code, jt: 0, jf, k }
}

/// Adds a filter to this thread; returns the result of the call.
fn install(program: &[sock_filter], flags: c_ulong) -> io::Result<c_long> {
    // Without it only root can install filters, and a setuid program must not run with one.
    rustix::thread::set_no_new_privs(true)?;
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the `len` instructions, which are borrowed for the call, and writes
    // nothing. A filtered call fails at worst, as any call may.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

#[cfg(test)]
mod tests;
