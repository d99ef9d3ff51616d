//! What two daemons send each other during a hand-over, and how: frames of a kind, a length and JSON,
//! with the descriptors that belong to them.
//!
//! A newer daemon may add fields, which an older one ignores. A change that an older one must not
//! ignore changes [`FORMAT`].

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::daemon::api::peer_pin::PeerPin;
use crate::daemon::api::selection::Selection;
use crate::sys::NO_SIGNAL;

/// The version of these messages.
pub(crate) const FORMAT: u32 = 1;
/// The largest JSON of one frame. Session ids and event names are far shorter.
const TEXT_MAX: usize = 64 * 1024;
/// The most descriptors of one frame: those of [`Message::Rest`].
const DESCRIPTORS: usize = 6;
/// The length of the text, before it.
const LENGTH: usize = 4;

/// One message.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The successor is ready to receive.
    Begin,
    /// One connection, with its socket.
    Connection(Connection),
    /// Everything else: the memory file, the secrets, the listening socket and the lock file; and the
    /// listening sockets of metrics and of the API over TCP, if there are.
    Rest(Rest),
    /// The successor can serve, and waits for [`Self::Go`].
    Ready,
    /// The former daemon has stopped serving for ever.
    Go,
    /// There is no hand-over, for this reason. The former daemon goes on.
    Failed(String),
}

/// A connection between two messages of its client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Connection {
    /// Which process connected.
    pub(crate) pin: Pin,
    /// Whether it has had a request.
    pub(crate) was_used: bool,
    /// The stream of events that it carries.
    pub(crate) stream: Option<StreamPosition>,
    /// Over TCP.
    #[serde(default)]
    pub(crate) is_tcp: bool,
}

/// A [`PeerPin`] in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Pin {
    PidfdInode(u64),
    StartTime(u64),
    Ended,
    /// To be taken again.
    Open,
}

impl From<PeerPin> for Pin {
    fn from(pin: PeerPin) -> Self {
        match pin {
            PeerPin::PidfdInode(inode) => Self::PidfdInode(inode),
            PeerPin::StartTime(time) => Self::StartTime(time.0),
            PeerPin::Ended => Self::Ended,
            PeerPin::NotNow | PeerPin::None => Self::Open,
        }
    }
}

/// Where a stream of events has stopped, and what it shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamPosition {
    /// Whose sessions; `None`: those of all users.
    pub(crate) owner: Option<u32>,
    /// The names of events; `None`: all.
    pub(crate) names: Option<Vec<String>>,
    /// The entry of the session with which it ends.
    pub(crate) own: Option<u64>,
    /// The id of the sessions that it shows.
    pub(crate) id: Option<String>,
    /// Which other sessions it leaves out.
    #[serde(default)]
    pub(crate) selection: Selection,
    /// The number of the next event.
    pub(crate) position: u64,
}

/// The last part of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rest {
    /// How many hand-overs came before this one.
    pub(crate) replaced: u32,
    /// Whether the last descriptor is the listening socket of the API over TCP.
    #[serde(default)]
    pub(crate) has_tcp: bool,
    /// The process of the former daemon that its pid file names.
    #[serde(default)]
    pub(crate) pid: u32,
}

/// The bytes of a frame, and how many of them are sent.
pub(super) struct Frame {
    bytes: Vec<u8>,
    sent: usize,
}

impl Frame {
    pub(super) fn of(message: &Message) -> io::Result<Self> {
        let text = serde_json::to_vec(message)?;
        if text.len() > TEXT_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        Ok(Self {
            bytes: [length.to_ne_bytes().as_slice(), &text].concat(),
            sent: 0,
        })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Sends what is left. The descriptors go with the first byte. An error leaves the rest for another
    /// call.
    pub(super) fn send(&mut self, socket: impl AsFd, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(socket, fds, NO_SIGNAL)
    }

    /// Sends what is left without waiting for room.
    #[cfg(target_os = "linux")]
    pub(super) fn try_send(&mut self, socket: impl AsFd) -> io::Result<()> {
        self.send_with(socket, &[], NO_SIGNAL | SendFlags::DONTWAIT)
    }

    fn send_with(
        &mut self,
        socket: impl AsFd,
        fds: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> io::Result<()> {
        while self.sent < self.bytes.len() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if self.sent == 0
                && !fds.is_empty()
                && !control.push(SendAncillaryMessage::ScmRights(fds))
            {
                return Err(Errno::TOOBIG.into());
            }
            let rest = [IoSlice::new(&self.bytes[self.sent..])];
            match sendmsg(&socket, &rest, &mut control, flags) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// Receives messages from a socket.
#[derive(Default)]
pub(super) struct Receiver {
    bytes: Vec<u8>,
    fds: Vec<OwnedFd>,
}

impl Receiver {
    /// Returns the next message. An error leaves what has arrived for another call; `WouldBlock` is one.
    /// It reads no further than the end of the message, because the descriptors of the next one would be
    /// taken for its own.
    pub(super) fn receive(&mut self, socket: impl AsFd) -> io::Result<(Message, Vec<OwnedFd>)> {
        loop {
            let missing = self.missing()?;
            if missing == 0 {
                let message = serde_json::from_slice(&self.bytes[LENGTH..])?;
                self.bytes.clear();
                return Ok((message, std::mem::take(&mut self.fds)));
            }
            let begin = self.bytes.len();
            self.bytes.resize(begin + missing, 0);
            let received = receive_part(&socket, &mut self.bytes[begin..], &mut self.fds);
            self.bytes.truncate(begin + received.as_ref().unwrap_or(&0));
            match received {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Returns how many bytes of the message are missing, as far as it is known.
    fn missing(&self) -> io::Result<usize> {
        let Some(length) = self.bytes.first_chunk::<LENGTH>() else {
            return Ok(LENGTH - self.bytes.len());
        };
        let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX);
        if length == 0 || length > TEXT_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(LENGTH + length - self.bytes.len())
    }
}

/// On other systems no process is started between this and the flag that is set next.
#[cfg(not(target_os = "linux"))]
const CLOSE_ON_EXEC: RecvFlags = RecvFlags::empty();
#[cfg(target_os = "linux")]
const CLOSE_ON_EXEC: RecvFlags =
    RecvFlags::from_bits_retain(libc::MSG_CMSG_CLOEXEC.cast_unsigned());

fn receive_part(
    socket: impl AsFd,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> Result<usize, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(bytes)],
        &mut control,
        CLOSE_ON_EXEC,
    )?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(these) = message {
            fds.extend(these);
        }
    }
    if received.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
        // This process has too few descriptors.
        return Err(Errno::MFILE);
    }
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn connection(id: &str) -> Message {
        Message::Connection(Connection {
            pin: Pin::PidfdInode(7),
            was_used: true,
            stream: Some(StreamPosition {
                owner: Some(1),
                names: Some(vec!["gap".into()]),
                own: None,
                id: Some(id.into()),
                selection: Selection::default(),
                position: 9,
            }),
            is_tcp: false,
        })
    }

    #[test]
    fn each_message_arrives_with_its_own_descriptors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (file, other) = UnixStream::pair().unwrap();
        let messages = [
            connection("a"),
            Message::Ready,
            connection("b"),
            Message::Go,
        ];
        let with = [
            vec![file.as_fd()],
            vec![],
            vec![file.as_fd(), other.as_fd()],
            vec![],
        ];
        for (message, fds) in messages.iter().zip(&with) {
            Frame::of(message).unwrap().send(&ours, fds).unwrap();
        }
        drop(ours);
        let mut receiver = Receiver::default();
        for (message, fds) in messages.iter().zip(&with) {
            let (next, files) = receiver.receive(&theirs).unwrap();
            assert_eq!(format!("{next:?}"), format!("{message:?}"));
            assert_eq!(files.len(), fds.len());
        }
        let end = receiver.receive(&theirs).unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_message_that_arrives_in_parts_is_received_once_it_is_complete() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        let frame = Frame::of(&connection("c")).unwrap();
        let mut receiver = Receiver::default();
        for byte in &frame.bytes {
            let early = receiver.receive(&theirs).unwrap_err();
            assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
            rustix::io::write(&ours, std::slice::from_ref(byte)).unwrap();
        }
        assert!(receiver.receive(&theirs).is_ok());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_message_that_must_not_wait_fails_if_there_is_no_room() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        // Until the system has no room for one more.
        let full =
            (0..100_000).find_map(|_| Frame::of(&Message::Go).unwrap().try_send(&ours).err());
        assert_eq!(full.map(|it| it.kind()), Some(io::ErrorKind::WouldBlock));
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        for bytes in [&[0, 0, 0, 0][..], &[255; 8], b"\x02\0\0\0{}"] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            rustix::io::write(&ours, bytes).unwrap();
            let error = Receiver::default().receive(&theirs).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes:?}");
        }
    }
}
