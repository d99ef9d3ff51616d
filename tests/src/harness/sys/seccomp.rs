//! Seccomp as a tool of tests: system calls of a program as it is shipped fail without a word of it
//! in that program. Which calls are to fail, and what that means, is left to the caller.
//!
//! A filter belongs to the thread that asks for it and to whatever that thread starts from then on,
//! and it stays to the end of each. So install one on a thread made for that, start the program
//! there, and let the thread end. See seccomp(2) and `seccomp_unotify(2)`.
#![expect(unsafe_code, reason = "no crate here wraps seccomp")]

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use libc::{c_long, c_ulong, sock_filter};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

/// A system call, or those of its kind that have this number as an argument.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub number: c_long,
    /// Which of the six arguments, and the low half of what it is.
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
    /// Only where this argument is this number.
    pub fn with(self, argument: u8, value: u32) -> Self {
        Self {
            argument: Some((argument, value)),
            ..self
        }
    }
}

/// From here on these calls of this thread, and of what it starts, are answered with this error
/// and not made.
pub fn deny(calls: &[Call], errno: Errno) -> io::Result<()> {
    let errno = errno.raw_os_error().cast_unsigned();
    install(&filter(calls, libc::SECCOMP_RET_ERRNO | errno), 0).map(drop)
}

/// From here on these calls of this thread, and of what it starts, are answered as if they had been
/// made with success, and not made.
pub fn pretend(calls: &[Call]) -> io::Result<()> {
    install(&filter(calls, libc::SECCOMP_RET_ERRNO), 0).map(drop)
}

/// From here on these calls of this thread, and of what it starts, wait for an answer by whoever
/// holds the listener: another thread, or they wait for ever. Once it is closed they are answered
/// with `ENOSYS`. Only one listener is possible for any one program.
pub fn listen(calls: &[Call]) -> io::Result<Listener> {
    let program = filter(calls, libc::SECCOMP_RET_USER_NOTIF);
    let answer = install(&program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    let fd = i32::try_from(answer).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows it.
    Ok(Listener(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Where calls come to be answered.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A call that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    id: u64,
    /// The thread that makes it, as numbered here.
    pub thread: u32,
    pub number: c_long,
    pub arguments: [u64; 6],
}

/// What came of waiting for a call.
#[derive(Clone, Copy, Debug)]
pub enum Received {
    Call(Waiting),
    /// Nobody made one in time.
    Nothing,
    /// Nobody is left who could (told by Linux 5.9 and newer).
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
        // All zeros, which the kernel insists on.
        let mut told = libc::seccomp_notif {
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
        let answer = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut told,
            )
        };
        if answer < 0 {
            return match io::Error::last_os_error() {
                // Its thread was interrupted or killed before we looked.
                gone if gone.raw_os_error() == Some(libc::ENOENT) => Ok(Received::Nothing),
                interrupted if interrupted.kind() == io::ErrorKind::Interrupted => {
                    Ok(Received::Nothing)
                }
                error => Err(error),
            };
        }
        Ok(Received::Call(Waiting {
            id: told.id,
            thread: told.pid,
            number: c_long::from(told.data.nr),
            arguments: told.data.args,
        }))
    }

    /// Lets a call be made as if nobody had asked (Linux 5.5 and newer).
    pub fn let_pass(&self, call: Waiting) -> io::Result<()> {
        let pass =
            u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).map_err(io::Error::other)?;
        self.answer(call, 0, pass)
    }

    /// Answers it with this error; it is not made.
    pub fn fail(&self, call: Waiting, errno: Errno) -> io::Result<()> {
        self.answer(call, -errno.raw_os_error(), 0)
    }

    fn answer(&self, call: Waiting, error: i32, flags: u32) -> io::Result<()> {
        let mut answer = libc::seccomp_notif_resp {
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
                &raw mut answer,
            )
        };
        match io::Error::last_os_error() {
            _ if sent == 0 => Ok(()),
            // Nobody waits for it any more: its thread was killed, or a signal has it ask anew.
            gone if gone.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            error => Err(error),
        }
    }
}

/// The answer for these calls, and leave for all others. The architecture is not looked at: the
/// numbers are those of this one, and the programs under test are built for it.
fn filter(calls: &[Call], answer: u32) -> Vec<sock_filter> {
    const NUMBER: usize = std::mem::offset_of!(libc::seccomp_data, nr);
    const ARGUMENTS: usize = std::mem::offset_of!(libc::seccomp_data, args);
    const LOW_HALF: usize = if cfg!(target_endian = "little") { 0 } else { 4 };
    let mut program = Vec::new();
    for call in calls {
        let number = u32::try_from(call.number).expect("numbers of calls are small");
        let Some((argument, value)) = call.argument else {
            program.extend([load(NUMBER), unless(number, 1), give(answer)]);
            continue;
        };
        program.extend([
            load(NUMBER),
            unless(number, 3),
            load(ARGUMENTS + 8 * usize::from(argument) + LOW_HALF),
            unless(value, 1),
            give(answer),
        ]);
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    program
}

fn load(offset: usize) -> sock_filter {
    let offset = u32::try_from(offset).expect("seccomp_data is small");
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0)
}

/// Skips so many instructions if what was loaded is another value.
fn unless(value: u32, skip: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, skip)
}

fn give(answer: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, answer, 0)
}

fn instruction(code: u32, k: u32, jf: u8) -> sock_filter {
    let code = u16::try_from(code).expect("codes of classic BPF have 16 bits");
    sock_filter { code, jt: 0, jf, k }
}

/// Puts a filter on this thread, beside those that it has; answers with what the kernel answered.
fn install(program: &[sock_filter], flags: c_ulong) -> io::Result<c_long> {
    // Without it only root may, and a program that gains rights must not be lied to.
    rustix::thread::set_no_new_privs(true)?;
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the `len` instructions, which are borrowed for the call, and writes
    // nothing. What the filter does to later calls is an error at worst, as any call may answer.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const program,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer)
}

#[cfg(test)]
mod tests;
