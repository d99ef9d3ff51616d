//! The messages between worker and monitor: bytes of fixed meaning, and descriptors beside them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// What a worker can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Wanted {
    /// A notification to the service manager: an encoded `State`.
    Notify = 1,
    /// A socket of the proc connector; the value is the size of its receive buffer.
    Connector = 2,
    /// A request over the socket that comes with this one: the argument is one of [`Listening`].
    Send = 3,
    /// The connector's filter.
    Filter = 4,
    /// The exit probe; the value is the offset of boot times.
    Probe = 5,
    /// The end of the probe.
    Detach = 6,
    /// A file of a process; the argument is a `ProcFile`.
    Open = 7,
    /// Start time and exit status of a process that has ended: a `Record`.
    Record = 8,
    /// Which of several processes have memory; their pids follow the request.
    Memory = 9,
    /// A file that is read again after the start; the argument is the number of a `Readable`.
    Readable = 10,
    /// The descriptor that comes with this is for the next worker; the argument is a `Kind` of `carried`.
    Keep = 11,
    /// Another daemon gets what is kept, and the last message to it over the socket that comes with this (the
    /// argument is 1), or this one has it (0).
    Release = 12,
}

impl Wanted {
    const ALL: [Self; 12] = [
        Self::Notify,
        Self::Connector,
        Self::Send,
        Self::Filter,
        Self::Probe,
        Self::Detach,
        Self::Open,
        Self::Record,
        Self::Memory,
        Self::Readable,
        Self::Keep,
        Self::Release,
    ];
}

/// The two requests to the connector that need privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Listening {
    ToAll = 1,
    ToExits = 2,
}

/// The length of a request without pids.
const REQUEST: usize = 20;
/// The most pids in a request.
pub(super) const PIDS: usize = 512;

/// A request. What a field means depends on what is wanted; unused fields are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) wanted: Wanted,
    pub(super) argument: u8,
    pub(super) pid: u32,
    pub(super) seq: u32,
    pub(super) value: u64,
    /// Only for what is about several processes.
    pub(super) pids: Vec<u32>,
}

impl Request {
    pub(super) const fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            argument: 0,
            pid: 0,
            seq: 0,
            value: 0,
            pids: Vec::new(),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; REQUEST];
        bytes[0] = self.wanted as u8;
        bytes[1] = self.argument;
        bytes[4..8].copy_from_slice(&self.pid.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.seq.to_ne_bytes());
        bytes[12..].copy_from_slice(&self.value.to_ne_bytes());
        bytes.extend(self.pids.iter().flat_map(|pid| pid.to_ne_bytes()));
        bytes
    }

    /// Returns `None` for another length and for an unknown wish.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, pids) = bytes.split_first_chunk::<REQUEST>()?;
        let (pids, []) = pids.as_chunks() else {
            return None;
        };
        let wanted = Wanted::ALL.into_iter().find(|it| *it as u8 == bytes[0])?;
        let word = |at: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        let value = [0, 1, 2, 3, 4, 5, 6, 7].map(|byte| bytes[12 + byte]);
        let most_pids = if wanted == Wanted::Memory { PIDS } else { 0 };
        if pids.len() > most_pids {
            return None;
        }
        Some(Self {
            wanted,
            argument: bytes[1],
            pid: word(4),
            seq: word(8),
            value: u64::from_ne_bytes(value),
            pids: pids.iter().copied().map(u32::from_ne_bytes).collect(),
        })
    }
}

/// How a request ended.
#[derive(Debug)]
pub(super) enum Reply {
    Done {
        bytes: Vec<u8>,
        fds: Vec<OwnedFd>,
    },
    /// The system refused it with this error number.
    Errno(i32),
    /// It failed with this reason, and this may help.
    Failed {
        reason: String,
        remedy: String,
    },
}

const DONE: u8 = 0;
const ERRNO: u8 = 1;
const FAILED: u8 = 2;
/// Between reason and remedy, and in neither.
const SEPARATOR: u8 = 0;
/// The longest reply. Longer reasons are cut off.
const REPLY: usize = 2_050;
/// The longest message.
const MESSAGE: usize = REQUEST + 4 * PIDS;
const _: () = assert!(REPLY <= MESSAGE);
/// The most descriptors of one message: those of the probe.
const DESCRIPTORS: usize = 4;

impl Reply {
    pub(super) const fn done() -> Self {
        Self::Done {
            bytes: Vec::new(),
            fds: Vec::new(),
        }
    }

    pub(super) fn fds(fds: impl IntoIterator<Item = OwnedFd>) -> Self {
        Self::Done {
            bytes: Vec::new(),
            fds: fds.into_iter().collect(),
        }
    }

    pub(super) fn error(error: &io::Error) -> Self {
        Self::Errno(error.raw_os_error().unwrap_or(libc::EIO))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = match self {
            Self::Done { bytes, .. } => [&[DONE], bytes.as_slice()].concat(),
            Self::Errno(number) => [&[ERRNO], number.to_ne_bytes().as_slice()].concat(),
            Self::Failed { reason, remedy } => [
                &[FAILED],
                reason.as_bytes(),
                &[SEPARATOR],
                remedy.as_bytes(),
            ]
            .concat(),
        };
        bytes.truncate(REPLY);
        bytes
    }

    fn decode(bytes: &[u8], fds: Vec<OwnedFd>) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        match *kind {
            DONE => Some(Self::Done {
                bytes: rest.to_owned(),
                fds,
            }),
            ERRNO => Some(Self::Errno(i32::from_ne_bytes(rest.try_into().ok()?))),
            FAILED => {
                let mut texts = rest
                    .splitn(2, |byte| *byte == SEPARATOR)
                    .map(|text| String::from_utf8_lossy(text).into_owned());
                Some(Self::Failed {
                    reason: texts.next()?,
                    remedy: texts.next().unwrap_or_default(),
                })
            }
            _ => None,
        }
    }
}

/// Sends a request to the monitor.
pub(super) fn request(
    socket: &OwnedFd,
    request: &Request,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = request.encode();
    send(socket, &bytes, fd.as_slice(), SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for the reply to a request.
pub(super) fn next_reply(socket: &OwnedFd) -> io::Result<Reply> {
    let (bytes, fds) = receive(socket, RecvFlags::empty())?;
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Reply::decode(&bytes, fds).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// What the monitor received.
pub(super) enum Received {
    /// A request, and a descriptor if one came with it; `None` if it is none that there is.
    Request(Option<(Request, Option<OwnedFd>)>),
    Nothing,
    /// The worker has closed its end.
    Closed,
}

/// Receives a request, without waiting.
pub(super) fn next_request(socket: &OwnedFd) -> Received {
    match receive(socket, RecvFlags::DONTWAIT) {
        Ok((bytes, _)) if bytes.is_empty() => Received::Closed,
        Ok((bytes, mut fds)) => {
            Received::Request(Request::decode(&bytes).map(|request| (request, fds.pop())))
        }
        Err(Errno::AGAIN | Errno::INTR) => Received::Nothing,
        Err(_) => Received::Closed,
    }
}

/// Sends a reply. A worker that has ended needs none.
pub(super) fn reply(socket: &OwnedFd, reply: &Reply) -> io::Result<()> {
    let fds: Vec<_> = match reply {
        Reply::Done { fds, .. } => fds.iter().map(AsFd::as_fd).collect(),
        _ => Vec::new(),
    };
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(send(socket, &reply.encode(), &fds, flags)?)
}

fn send(
    socket: &OwnedFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
    flags: SendFlags,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::TOOBIG);
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags).map(drop)
}

fn receive(socket: &OwnedFd, flags: RecvFlags) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
    let mut bytes = vec![0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        match recvmsg(
            socket,
            &mut parts,
            &mut control,
            flags | RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(Errno::INTR) => {}
            received => break received?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(these) = message {
            fds.extend(these);
        }
    }
    bytes.truncate(received.bytes);
    Ok((bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_as_it_was_sent_and_nothing_else_is_one() {
        for wanted in Wanted::ALL {
            let request = Request {
                argument: 3,
                pid: 4_242,
                seq: 7,
                value: u64::MAX - 1,
                ..Request::new(wanted)
            };
            let bytes = request.encode();
            assert_eq!(Request::decode(&bytes), Some(request));
            assert_eq!(Request::decode(&bytes[1..]), None, "too short");
            assert_eq!(Request::decode(&[&bytes[..], &[0]].concat()), None);
        }
        let memory_of = |pids: usize| Request {
            pids: vec![4_242; pids],
            ..Request::new(Wanted::Memory)
        };
        let most = memory_of(PIDS);
        assert_eq!(Request::decode(&most.encode()), Some(most));
        assert_eq!(Request::decode(&memory_of(PIDS + 1).encode()), None);
        let others = Request {
            pids: vec![4_242],
            ..Request::new(Wanted::Record)
        };
        assert_eq!(Request::decode(&others.encode()), None);
        assert_eq!(Request::decode(&[0; REQUEST]), None);
        assert_eq!(Request::decode(&[99; REQUEST]), None);
    }

    #[test]
    fn a_reply_is_read_as_it_was_sent() {
        let read = |reply: Reply| format!("{:?}", Reply::decode(&reply.encode(), Vec::new()));
        assert!(read(Reply::Errno(libc::EPERM)).contains("Errno(1)"));
        let failed = Reply::Failed {
            reason: "no".into(),
            remedy: "do".into(),
        };
        let text = read(failed);
        assert!(text.contains("\"no\"") && text.contains("\"do\""), "{text}");
        assert!(read(Reply::done()).contains("Done"));
        assert!(Reply::decode(&[], Vec::new()).is_none());
        assert!(Reply::decode(&[77], Vec::new()).is_none());
    }
}
