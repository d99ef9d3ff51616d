//! Encodes requests to the proc connector and decodes its events. Safe code over bytes, no
//! descriptor.
//!
//! A datagram is `nlmsghdr` (16 bytes), `cn_msg` (20), `proc_event` (40 on every kernel since
//! 4.18), all in native byte order. `proc_event` is not aligned within it (its time stamp is at
//! 44), so fields are copied out. A general netlink parser would misread the message type: the
//! connector sends everything as type 3, which is `NLMSG_DONE` elsewhere.
//!
//! Layout: `include/uapi/linux/connector.h` and [`cn_proc.h`].
//!
//! [`cn_proc.h`]: https://elixir.bootlin.com/linux/v6.12/source/include/uapi/linux/cn_proc.h

use netlink_packet_core::NetlinkBuffer;

/// The offset of `proc_event.what` in a datagram; the socket filters read it.
pub const WHAT_AT: u32 = 36;
/// The offset of an EXIT's thread group in a datagram; the socket filters read it.
pub const EXIT_TGID_AT: u32 = 56;
/// `proc_event.what` of an acknowledgement.
pub const WHAT_ACK: u32 = 0;
/// `proc_event.what` of an exit, and its bit in an event mask.
pub const WHAT_EXIT: u32 = 0x8000_0000;

const NETLINK_HEADER: usize = 16;
const CONNECTOR_HEADER: usize = 20;
/// `CN_IDX_PROC` and `CN_VAL_PROC`.
const PROC: [u32; 2] = [1, 1];
/// The one message type the connector uses.
const MESSAGE_TYPE: u16 = 3;

/// A request to the connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `PROC_CN_MCAST_LISTEN`, in the four-byte form that every kernel accepts.
    Listen,
    /// `PROC_CN_MCAST_LISTEN` for these events only. Kernels before 6.6 ignore it silently, and no
    /// kernel acknowledges it: the acknowledgement does not pass the mask.
    ListenTo(u32),
    /// `PROC_CN_MCAST_IGNORE`.
    Ignore,
}

impl Request {
    /// Returns the datagram. The kernel acknowledges it with `ack + 1`.
    ///
    /// # Panics
    ///
    /// Never: a request is two words at most.
    pub fn encode(self, ack: u32) -> Vec<u8> {
        let words: &[u32] = match self {
            Self::Listen => &[1],
            Self::ListenTo(mask) => &[1, mask],
            Self::Ignore => &[2],
        };
        let data = words.len() * 4;
        let mut payload = Vec::with_capacity(CONNECTOR_HEADER + data);
        for word in [PROC[0], PROC[1], 0, ack] {
            payload.extend(word.to_ne_bytes());
        }
        payload.extend(
            u16::try_from(data)
                .expect("a request is two words at most")
                .to_ne_bytes(),
        );
        payload.extend(0_u16.to_ne_bytes());
        payload.extend(words.iter().flat_map(|word| word.to_ne_bytes()));

        let length = NETLINK_HEADER + payload.len();
        let mut datagram = vec![0; length];
        let mut message = NetlinkBuffer::new(&mut datagram);
        message.set_length(u32::try_from(length).expect("a request is 44 bytes at most"));
        message.set_message_type(MESSAGE_TYPE);
        message.payload_mut().copy_from_slice(&payload);
        datagram
    }
}

/// A message of the connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The acknowledgement of a request. All listeners get it, so it must be matched by `ack`.
    Ack {
        /// One more than the request's.
        ack: u32,
        /// An error number, or 0.
        error: u32,
    },
    /// A thread has ended; the process may have ended too.
    Exit(Exit),
    /// Another event, which was not requested.
    Other,
}

/// The end of one thread. Ids are those of the initial pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The thread.
    pub pid: u32,
    /// Its process.
    pub tgid: u32,
    /// The wait status of the *thread*.
    pub wait_status: u32,
    /// On the host's `CLOCK_MONOTONIC`, as the kernel sends it.
    pub timestamp_ns: u64,
}

/// Why a message was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the netlink header and the datagram disagree about its length")]
    /// The start of the next message is unknown then.
    Length,
    #[error("netlink message type {0} is not the connector's")]
    /// The message type.
    Type(u16),
    #[error("the message ends before its fields do")]
    /// It is framed as a message of the connector.
    Truncated,
    #[error("connector channel {0}/{1} is not that of processes")]
    /// `CN_IDX` and `CN_VAL`.
    Channel(u32, u32),
}

/// Returns the messages of one datagram, in order. Ends at a header with an invalid length, because
/// the start of the next message is unknown then.
pub fn decode(datagram: &[u8]) -> Messages<'_> {
    Messages { rest: datagram }
}

/// See [`decode`].
pub struct Messages<'a> {
    rest: &'a [u8],
}

impl Iterator for Messages<'_> {
    type Item = Result<Event, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let Ok(message) = NetlinkBuffer::new_checked(self.rest) else {
            self.rest = &[];
            return Some(Err(Malformed::Length));
        };
        let event = match message.message_type() {
            MESSAGE_TYPE => event(message.payload()),
            other => Err(Malformed::Type(other)),
        };
        // At least the length of a header, or `new_checked` had failed: each turn makes progress.
        let length = usize::try_from(message.length()).unwrap_or(usize::MAX);
        let next = length.checked_next_multiple_of(4).unwrap_or(usize::MAX);
        self.rest = self.rest.get(next..).unwrap_or(&[]);
        Some(event)
    }
}

fn event(payload: &[u8]) -> Result<Event, Malformed> {
    let (channel, value) = (word(payload, 0)?, word(payload, 4)?);
    if [channel, value] != PROC {
        return Err(Malformed::Channel(channel, value));
    }
    let ack = word(payload, 12)?;
    let length = usize::from(u16::from_ne_bytes(bytes(payload, 16)?));
    let data = payload
        .get(CONNECTOR_HEADER..CONNECTOR_HEADER + length)
        .ok_or(Malformed::Truncated)?;
    match word(data, 0)? {
        WHAT_ACK => Ok(Event::Ack {
            ack,
            error: word(data, 16)?,
        }),
        WHAT_EXIT => Ok(Event::Exit(Exit {
            pid: word(data, 16)?,
            tgid: word(data, 20)?,
            wait_status: word(data, 24)?,
            timestamp_ns: u64::from_ne_bytes(bytes(data, 8)?),
        })),
        _ => Ok(Event::Other),
    }
}

fn word(data: &[u8], at: usize) -> Result<u32, Malformed> {
    bytes(data, at).map(u32::from_ne_bytes)
}

fn bytes<const N: usize>(data: &[u8], at: usize) -> Result<[u8; N], Malformed> {
    data.get(at..)
        .and_then(|tail| tail.first_chunk())
        .copied()
        .ok_or(Malformed::Truncated)
}

#[cfg(test)]
#[path = "cn_proc/tests.rs"]
mod tests;
