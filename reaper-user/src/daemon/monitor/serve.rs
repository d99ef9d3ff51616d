//! The monitor's end of the channel. It does what is asked with its own rights. The only thing that it
//! parses is the kernel's record of a process that has ended, because the worker must not see the rest.

use std::io;
use std::os::fd::OwnedFd;

use reaper_registry::Pid;
use rustix::net::{Shutdown, shutdown};

use super::message::{Listening, Received, Reply, Request, Wanted, next_request, reply};
use super::rates::Rates;
use crate::clock::monotonic_ns;
use crate::daemon::carried::{Carried, Kind};
use crate::daemon::config::readable::Readable;
use crate::daemon::handover::{give, take};
use crate::daemon::systemd::{self, Encoded, State};
use crate::sources::SourceError;
use crate::sources::opener::{Direct, Opener as _, RECEIVE_BUFFER};
#[cfg(feature = "ebpf")]
use crate::sys::allocator::give_back_freed;
use crate::sys::cn_proc::{self, WHAT_EXIT};
use crate::sys::memory;
use crate::sys::netlink::ConnectorSocket;
use crate::sys::proc_file::{ProcFile, open_here, read_record_here};

/// What the monitor keeps for the worker, and for the next one.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) carried: Carried,
    /// What a worker has left before it served. It replaces nothing until then: the worker may end first.
    offered: Vec<(Kind, OwnedFd)>,
    /// Whether this worker has reported that it serves.
    pub(super) is_ready: bool,
    /// A reload was requested, and no worker has left the settings of one since.
    pub(super) is_reload_due: bool,
    /// Another daemon has taken this one's place.
    is_released: bool,
    /// The attached probe, at most one.
    #[cfg(feature = "ebpf")]
    probe: Option<Box<dyn Send>>,
    rates: Rates,
}

/// What was in the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    One,
    Nothing,
    /// The worker has closed its end.
    Closed,
}

/// Serves the next request.
pub(super) fn answer(socket: &OwnedFd, kept: &mut Kept) -> Answered {
    let answer = match next_request(socket) {
        Received::Closed => return Answered::Closed,
        Received::Nothing => return Answered::Nothing,
        Received::Request(Some((request, fd))) => kept.serve(request, fd),
        Received::Request(None) => Reply::Errno(libc::EINVAL),
    };
    match reply(socket, &answer) {
        Ok(()) => Answered::One,
        Err(error) if is_closed(&error) => Answered::Closed,
        // The system may refuse the descriptors, of which it allows only so many in flight.
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            match reply(socket, &Reply::Errno(errno)) {
                Ok(()) => Answered::One,
                Err(_) => Answered::Closed,
            }
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, WouldBlock};
    // A worker that does not read its replies is not served any more either.
    matches!(error.kind(), BrokenPipe | ConnectionReset | WouldBlock)
}

impl Kept {
    fn notify(&mut self, request: Request) -> Reply {
        let encoded = Encoded {
            kind: request.argument,
            words: [request.pid, request.seq],
            value: request.value,
        };
        let Some(state) = State::decode(encoded) else {
            return Reply::Errno(libc::EINVAL);
        };
        if state == State::Ready {
            self.is_ready = true;
            for (kind, fd) in std::mem::take(&mut self.offered) {
                self.put(kind, fd);
            }
        }
        systemd::send(state);
        Reply::done()
    }

    pub(super) fn with(carried: Carried) -> Self {
        Self {
            carried,
            ..Self::default()
        }
    }

    /// Returns whether another daemon uses what is kept: the one that has replaced this one, or the one
    /// that this one was to replace. There must be no other worker then.
    pub(super) fn belongs_to_another(&self) -> bool {
        // The worker may have been killed between the last message to it and its request here. From the
        // shutdown on the former daemon cannot send that message any more, and goes on.
        let may_use = |link: &OwnedFd| {
            shutdown(link, Shutdown::Both).unwrap_or_default();
            !matches!(take::has_gone(link), Ok(true))
        };
        self.is_released || self.carried.lent_by.as_ref().is_some_and(may_use)
    }

    /// Ends what was for the last worker alone.
    pub(super) fn forget_worker(&mut self) {
        self.is_ready = false;
        self.offered.clear();
        self.carried.lent_by = None;
        // The next one opens everything again, and its start is delayed if it fails.
        self.rates = Rates::default();
        #[cfg(feature = "ebpf")]
        {
            self.probe = None;
        }
    }

    fn serve(&mut self, request: Request, fd: Option<OwnedFd>) -> Reply {
        if let Err(reason) = self.rates.take(request.wanted, monotonic_ns()) {
            return Reply::Failed {
                reason,
                remedy: String::new(),
            };
        }
        match request.wanted {
            Wanted::Notify => self.notify(request),
            Wanted::Connector => connector(request.value),
            Wanted::Send => send(&request, fd),
            #[cfg(feature = "ebpf")]
            Wanted::Filter => filter(request.pid),
            #[cfg(feature = "ebpf")]
            Wanted::Probe => self.probe(&request),
            #[cfg(feature = "ebpf")]
            Wanted::Detach => {
                self.probe = None;
                Reply::done()
            }
            #[cfg(not(feature = "ebpf"))]
            Wanted::Filter | Wanted::Probe | Wanted::Detach => Reply::Errno(libc::ENOSYS),
            Wanted::Open => open(&request),
            Wanted::Memory => memory(&request.pids),
            Wanted::Record => record(request.pid),
            Wanted::Readable => readable(Readable::from_number(request.argument)),
            Wanted::Keep => self.keep(request.argument, fd),
            Wanted::Release if request.argument == 0 => {
                self.is_released = false;
                self.carried.lent_by = None;
                Reply::done()
            }
            Wanted::Release => self.release(fd),
        }
    }

    /// Sends the last message of a hand-over. Here, in one step with the note of it, and not in the worker: a
    /// worker that is killed has either not asked, and is replaced, or the successor goes on.
    fn release(&mut self, successor: Option<OwnedFd>) -> Reply {
        let Some(successor) = successor else {
            return Reply::Errno(libc::EBADF);
        };
        match give::let_go(&successor) {
            Ok(()) => {
                self.is_released = true;
                Reply::done()
            }
            Err(error) => Reply::error(&error),
        }
    }

    /// Keeps a descriptor for the next worker, and for the next monitor if there is a service manager
    /// that does so.
    fn keep(&mut self, kind: u8, fd: Option<OwnedFd>) -> Reply {
        let Some(kind) = Kind::from_byte(kind) else {
            return Reply::Errno(libc::EINVAL);
        };
        let Some(fd) = fd else {
            return Reply::Errno(libc::EBADF);
        };
        if kind == Kind::Settings {
            self.is_reload_due = false;
        }
        if self.is_ready {
            self.put(kind, fd);
        } else {
            self.offered.push((kind, fd));
        }
        Reply::done()
    }

    fn put(&mut self, kind: Kind, fd: OwnedFd) {
        if kind.outlives_monitor() {
            if self.carried.get(kind).is_some() {
                systemd::remove_stored(kind.name());
            }
            systemd::store(kind.name(), &fd);
        }
        self.carried.put(kind, fd);
    }

    #[cfg(feature = "ebpf")]
    fn probe(&mut self, request: &Request) -> Reply {
        // The former one first: the worker has no use for two.
        self.probe = None;
        let attached = Direct.probe(request.pid, request.value);
        give_back_freed();
        match attached {
            Ok(attached) => {
                self.probe = Some(attached.attachment);
                Reply::Done {
                    bytes: vec![attached.variant as u8],
                    fds: vec![
                        attached.watched,
                        attached.wakeups,
                        attached.counters,
                        attached.program,
                    ],
                }
            }
            Err(error) => failed(error),
        }
    }
}

fn connector(receive_buffer: u64) -> Reply {
    // The worker may not have more of the kernel's memory than it is meant to.
    let bytes = usize::try_from(receive_buffer).unwrap_or(usize::MAX);
    match Direct.connector(bytes.min(RECEIVE_BUFFER)) {
        Ok((socket, granted)) => Reply::Done {
            bytes: u64::try_from(granted)
                .unwrap_or(u64::MAX)
                .to_ne_bytes()
                .into(),
            fds: vec![socket.into_fd()],
        },
        Err(error) => failed(error),
    }
}

fn send(request: &Request, fd: Option<OwnedFd>) -> Reply {
    let to_all = Listening::ToAll as u8;
    let to_exits = Listening::ToExits as u8;
    let wanted = match request.argument {
        argument if argument == to_all => cn_proc::Request::Listen,
        argument if argument == to_exits => cn_proc::Request::ListenTo(WHAT_EXIT),
        _ => return Reply::Errno(libc::EINVAL),
    };
    let Some(fd) = fd else {
        return Reply::Errno(libc::EBADF);
    };
    match Direct.send(&ConnectorSocket::from_fd(fd), wanted, request.seq) {
        Ok(()) => Reply::done(),
        Err(error) => Reply::error(&error),
    }
}

#[cfg(feature = "ebpf")]
fn filter(own: u32) -> Reply {
    let loaded = Direct.filter(own);
    give_back_freed();
    match loaded {
        Ok(loaded) => Reply::fds([loaded.program, loaded.map]),
        Err(refusal) => failed(SourceError::new(format!("{refusal:#}"), "")),
    }
}

fn open(request: &Request) -> Reply {
    let file = ProcFile::from_byte(request.argument);
    let (Some(file), Ok(pid)) = (file, Pid::new(request.pid)) else {
        return Reply::Errno(libc::EINVAL);
    };
    match open_here(file, pid) {
        Ok(fd) => Reply::fds([fd]),
        Err(error) => Reply::error(&error),
    }
}

/// One byte for each process: 1 if it has memory, 0 if it has none or that is unknown.
fn memory(pids: &[u32]) -> Reply {
    let has_memory = |pid: &u32| {
        let pid = Pid::new(*pid).ok();
        pid.is_some_and(|pid| matches!(memory::has_memory(pid), Ok(true)))
    };
    Reply::Done {
        bytes: pids.iter().map(|pid| u8::from(has_memory(pid))).collect(),
        fds: Vec::new(),
    }
}

fn record(pid: u32) -> Reply {
    let Ok(pid) = Pid::new(pid) else {
        return Reply::Errno(libc::EINVAL);
    };
    match read_record_here(pid) {
        Ok(record) => Reply::Done {
            bytes: record.encode().into(),
            fds: Vec::new(),
        },
        Err(error) => Reply::error(&error),
    }
}

/// No descriptor: there is no such file.
fn readable(file: Readable) -> Reply {
    match file.open_here() {
        Ok(file) => Reply::fds(file.map(OwnedFd::from)),
        Err(error) if error.raw_os_error().is_some() => Reply::error(&error),
        Err(error) => failed(SourceError::new(error.to_string(), "")),
    }
}

fn failed(error: SourceError) -> Reply {
    Reply::Failed {
        reason: error.reason,
        remedy: error.remedy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_asks_without_end_is_refused() {
        let mut kept = Kept::default();
        // Without a descriptor it fails at once, with an error number.
        let mut ask = || kept.serve(Request::new(Wanted::Send), None);
        assert!(matches!(ask(), Reply::Errno(libc::EINVAL)));
        let refused = (0..10_000).find_map(|_| match ask() {
            Reply::Failed { reason, .. } => Some(reason),
            _ => None,
        });
        assert!(refused.unwrap().contains("too often"));
    }

    #[test]
    fn of_several_processes_the_reply_has_one_byte_for_each() {
        let own = std::process::id();
        // Pid 0 is none, and the largest is above every kernel's limit.
        let Reply::Done { bytes, fds } = memory(&[own, 0, u32::MAX >> 1, own]) else {
            panic!("no reply");
        };
        assert_eq!((bytes, fds.len()), (vec![1, 0, 0, 1], 0));
        assert!(matches!(memory(&[]), Reply::Done { bytes, .. } if bytes.is_empty()));
    }
}
