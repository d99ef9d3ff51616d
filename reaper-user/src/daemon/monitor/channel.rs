//! The worker's end of the channel: what it cannot open, the monitor opens.
//!
//! One request at a time. A thread that asks for a record waits while another one has the probe
//! loaded: some tens of milliseconds at the start, and after a failure of the probe.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::Duration;

use reaper_registry::Pid;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{Shutdown, shutdown};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::message::{self, Listening, Reply, Request, Wanted};
use crate::clock::Deadline;
use crate::daemon::carried::Kind;
use crate::daemon::config::readable::Readable;
use crate::daemon::systemd::{Encoded, State};
use crate::sources::SourceError;
use crate::sources::opener::Opener;
#[cfg(feature = "ebpf")]
use crate::sources::opener::{Attached, Loaded, Refusal, Variant};
use crate::sys::cn_proc::{self, WHAT_EXIT};
use crate::sys::netlink::ConnectorSocket;
use crate::sys::proc_file::{Deputy, ProcFile, Record};

/// How long a reply may take: loading the probe takes seconds on an emulated machine. After that the
/// channel is closed, because a late reply would be taken for the next one.
const REPLY_WITHIN: Duration = Duration::from_secs(30);

/// How long a reply is waited for before the other tasks of this thread go on elsewhere. Far more than a monitor
/// needs that is not stopped: a task that has left its thread cannot end with the runtime.
const MOVE_AFTER: Duration = Duration::from_secs(1);
/// How often it is tried whether another request has ended.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A handle of the channel.
#[derive(Clone)]
pub(super) struct Channel(Arc<Mutex<OwnedFd>>);

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> Self {
        if let Err(errno) = set_socket_timeout(&socket, Timeout::Recv, Some(REPLY_WITHIN)) {
            log::warn!("a monitor that is stopped will stop the worker too: {errno}");
        }
        Self(Arc::new(Mutex::new(socket)))
    }

    pub(super) fn notify(&self, state: State) -> io::Result<()> {
        let Encoded { kind, words, value } = state.encode();
        let request = Request {
            argument: kind,
            pid: words[0],
            seq: words[1],
            value,
            ..Request::new(Wanted::Notify)
        };
        done(self.ask(request, None)?).map(drop)
    }

    /// Opens a file that is read again after the start. `None`: there is no such file.
    pub(super) fn open_readable(&self, file: Readable) -> io::Result<Option<File>> {
        let request = Request {
            argument: file.number(),
            ..Request::new(Wanted::Readable)
        };
        let (_, mut fds) = done(self.ask(request, None)?)?;
        Ok(fds.pop().map(File::from))
    }

    pub(super) fn release(&self, to: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let request = Request {
            argument: u8::from(to.is_some()),
            ..Request::new(Wanted::Release)
        };
        done(self.ask(request, to)?).map(drop)
    }

    pub(super) fn keep(&self, kind: Kind, fd: BorrowedFd<'_>) -> io::Result<()> {
        let request = Request {
            argument: kind as u8,
            ..Request::new(Wanted::Keep)
        };
        done(self.ask(request, Some(fd))?).map(drop)
    }

    fn ask(&self, request: Request, fd: Option<BorrowedFd<'_>>) -> io::Result<Reply> {
        let socket = self.lock();
        message::request(&socket, &request, fd)?;
        // These take seconds on an emulated machine.
        let is_slow = matches!(
            request.wanted,
            Wanted::Connector | Wanted::Filter | Wanted::Probe
        );
        let reply = if is_slow || is_readable_within(&socket, MOVE_AFTER) {
            message::next_reply(&socket)
        } else {
            beside_other_tasks(|| message::next_reply(&socket))
        };
        reply.inspect_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                log::error!("the monitor does not respond; sources cannot be reopened any more");
                shutdown(&*socket, Shutdown::Both).unwrap_or_default();
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, OwnedFd> {
        let deadline = Deadline::after(MOVE_AFTER);
        loop {
            match self.0.try_lock() {
                Ok(socket) => return socket,
                Err(TryLockError::Poisoned(poisoned)) => return poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if !deadline.has_passed() => {
                    thread::sleep(LOOK_EVERY);
                }
                Err(TryLockError::WouldBlock) => {
                    let locked = beside_other_tasks(|| self.0.lock());
                    return locked.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// As [`Self::ask`], for what fails with a reason and a remedy.
    fn ask_for_source(&self, request: Request) -> Result<(Vec<u8>, Vec<OwnedFd>), SourceError> {
        match self.ask(request, None) {
            Ok(Reply::Failed { reason, remedy }) => Err(SourceError::new(reason, remedy)),
            Ok(reply) => done(reply).map_err(|error| no_monitor(&error)),
            Err(error) => Err(no_monitor(&error)),
        }
    }
}

/// Waits for what may take long. The other tasks of this thread of the runtime continue on another one: a
/// monitor that is stopped must not stop all requests.
fn beside_other_tasks<T>(wait: impl FnOnce() -> T) -> T {
    let handle = Handle::try_current();
    if handle.is_ok_and(|it| it.runtime_flavor() == RuntimeFlavor::MultiThread) {
        return tokio::task::block_in_place(wait);
    }
    wait()
}

fn is_readable_within(socket: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec::try_from(limit).ok();
    let mut polled = [PollFd::new(socket, PollFlags::IN)];
    poll(&mut polled, limit.as_ref()).is_ok_and(|ready| ready > 0)
}

fn no_monitor(error: &io::Error) -> SourceError {
    SourceError::new(format!("the monitor does not respond: {error}"), "")
}

fn done(reply: Reply) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    match reply {
        Reply::Done { bytes, fds } => Ok((bytes, fds)),
        Reply::Errno(number) => Err(io::Error::from_raw_os_error(number)),
        Reply::Failed { reason, .. } => Err(io::Error::other(reason)),
    }
}

/// Takes exactly these descriptors out of a reply.
fn take<const N: usize>(fds: Vec<OwnedFd>) -> io::Result<[OwnedFd; N]> {
    <[OwnedFd; N]>::try_from(fds).map_err(|_others| io::ErrorKind::InvalidData.into())
}

impl Opener for Channel {
    fn connector(&self, receive_buffer: usize) -> Result<(ConnectorSocket, usize), SourceError> {
        let request = Request {
            value: u64::try_from(receive_buffer).unwrap_or(u64::MAX),
            ..Request::new(Wanted::Connector)
        };
        let (bytes, fds) = self.ask_for_source(request)?;
        let [socket] = take(fds).map_err(|error| no_monitor(&error))?;
        let granted = bytes.try_into().map_or(0, u64::from_ne_bytes);
        let granted = usize::try_from(granted).unwrap_or(usize::MAX);
        Ok((ConnectorSocket::from_fd(socket), granted))
    }

    fn send(
        &self,
        socket: &ConnectorSocket,
        request: cn_proc::Request,
        seq: u32,
    ) -> io::Result<()> {
        let listening = match request {
            cn_proc::Request::Listen => Listening::ToAll,
            cn_proc::Request::ListenTo(WHAT_EXIT) => Listening::ToExits,
            _ => return socket.send(&request.encode(seq)),
        };
        let request = Request {
            argument: listening as u8,
            seq,
            ..Request::new(Wanted::Send)
        };
        done(self.ask(request, Some(socket.as_fd()))?).map(drop)
    }

    #[cfg(feature = "ebpf")]
    fn filter(&self, own: u32) -> Result<Loaded, Refusal> {
        let request = Request {
            pid: own,
            ..Request::new(Wanted::Filter)
        };
        let (_, fds) = done(self.ask(request, None)?)?;
        let [program, map] = take(fds)?;
        Ok(Loaded { program, map })
    }

    #[cfg(feature = "ebpf")]
    fn probe(&self, own: u32, boot_offset_ns: u64) -> Result<Attached, SourceError> {
        let request = Request {
            pid: own,
            value: boot_offset_ns,
            ..Request::new(Wanted::Probe)
        };
        let (bytes, fds) = self.ask_for_source(request)?;
        let attachment = Box::new(Attachment(self.clone()));
        let [watched, wakeups, counters, program] =
            take(fds).map_err(|error| no_monitor(&error))?;
        Ok(Attached {
            watched,
            wakeups,
            counters,
            program,
            variant: if bytes == [Variant::ClassicTracepoint as u8] {
                Variant::ClassicTracepoint
            } else {
                Variant::BtfTracepoint
            },
            attachment,
        })
    }
}

/// The monitor keeps the probe attached until this is dropped.
#[cfg(feature = "ebpf")]
struct Attachment(Channel);

#[cfg(feature = "ebpf")]
impl Drop for Attachment {
    fn drop(&mut self) {
        if let Err(error) = self.0.ask(Request::new(Wanted::Detach), None) {
            log::debug!("the probe is not detached: {error}");
        }
    }
}

impl Deputy for Channel {
    fn open(&self, file: ProcFile, pid: Pid) -> io::Result<OwnedFd> {
        let request = Request {
            argument: file as u8,
            pid: pid.get(),
            ..Request::new(Wanted::Open)
        };
        let (_, fds) = done(self.ask(request, None)?)?;
        take(fds).map(|[fd]| fd)
    }

    fn have_memory(&self, pids: &[Pid]) -> io::Result<Vec<bool>> {
        let mut have = Vec::with_capacity(pids.len());
        for some in pids.chunks(message::PIDS) {
            let request = Request {
                pids: some.iter().map(|pid| pid.get()).collect(),
                ..Request::new(Wanted::Memory)
            };
            let (bytes, _) = done(self.ask(request, None)?)?;
            if bytes.len() != some.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            have.extend(bytes.iter().map(|byte| *byte != 0));
        }
        Ok(have)
    }

    fn read_record(&self, pid: Pid) -> io::Result<Record> {
        let request = Request {
            pid: pid.get(),
            ..Request::new(Wanted::Record)
        };
        let (bytes, _) = done(self.ask(request, None)?)?;
        Record::decode(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}
