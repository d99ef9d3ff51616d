//! The proc connector's datagrams: each message is read from its own bytes alone, and the decoder
//! reads a field where the socket filters read it.

use reaperd::fuzzing::cn_proc::{
    self, Event, Exit, Malformed, Request, WHAT_ACK, WHAT_EXIT, decode,
};

use super::Choices;

const WHAT_AT: usize = cn_proc::WHAT_AT as usize;
const EXIT_TGID_AT: usize = cn_proc::EXIT_TGID_AT as usize;
const NETLINK_HEADER: usize = 16;
/// Behind the headers of netlink and of the connector.
const DATA_AT: usize = 36;

/// Any bytes as one datagram, and then as the fields of an exit.
pub fn netlink_message(bytes: &[u8]) {
    let mut rest = bytes;
    for event in decode(bytes) {
        let Some(length) = plausible_length(rest) else {
            assert_eq!(event, Err(Malformed::Length));
            rest = &[];
            continue;
        };
        let message = &rest[..length];
        assert_eq!(
            decode(message).collect::<Vec<_>>(),
            [event],
            "a message depends on what lies behind it"
        );
        check(message, event);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    assert!(rest.is_empty(), "{} bytes were not read", rest.len());
    written_exits_are_read(bytes);
    requests_are_framed(bytes);
}

fn plausible_length(rest: &[u8]) -> Option<usize> {
    let length = usize::try_from(word(rest, 0)?).ok()?;
    (NETLINK_HEADER..=rest.len())
        .contains(&length)
        .then_some(length)
}

fn check(message: &[u8], event: Result<Event, Malformed>) {
    let what = word(message, WHAT_AT);
    if let Ok(event) = event {
        // What it was read from is within the data that the connector's header announces.
        let announced = message[32..].first_chunk().expect("an event was read");
        let needed = match event {
            Event::Exit(_) => 28,
            Event::Ack { .. } => 20,
            Event::Other => 4,
        };
        let announced = usize::from(u16::from_ne_bytes(*announced));
        assert!(announced >= needed && DATA_AT + announced <= message.len());
    }
    match event {
        Ok(Event::Exit(Exit { tgid, .. })) => {
            assert_eq!(what, Some(WHAT_EXIT));
            assert_eq!(word(message, EXIT_TGID_AT), Some(tgid));
        }
        Ok(Event::Ack { .. }) => assert_eq!(what, Some(WHAT_ACK)),
        Ok(Event::Other) => assert!(!matches!(what, Some(WHAT_ACK | WHAT_EXIT) | None)),
        Err(malformed) => {
            assert_ne!(malformed, Malformed::Length, "{message:02x?}");
            assert!(!malformed.to_string().is_empty());
        }
    }
}

/// Two exits with fields from these bytes, written as the kernel writes them.
fn written_exits_are_read(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let exits = [(); 2].map(|()| Exit {
        pid: choices.word(),
        tgid: choices.word(),
        wait_status: choices.word(),
        timestamp_ns: choices.long(),
    });
    let read: Vec<_> = decode(&exits.map(written).concat()).collect();
    assert_eq!(read, exits.map(|exit| Ok(Event::Exit(exit))));
}

fn written(exit: Exit) -> [u8; 76] {
    let Exit {
        pid,
        tgid,
        wait_status,
        timestamp_ns,
    } = exit;
    let mut datagram = [0; 76];
    let words = [
        (0, 76),
        (4, 3),
        (16, 1),
        (20, 1),
        (36, WHAT_EXIT),
        (52, pid),
        (56, tgid),
        (60, wait_status),
    ];
    for (at, word) in words {
        datagram[at..at + 4].copy_from_slice(&u32::to_ne_bytes(word));
    }
    datagram[32..34].copy_from_slice(&40_u16.to_ne_bytes());
    datagram[44..52].copy_from_slice(&timestamp_ns.to_ne_bytes());
    datagram
}

/// A request contains no event; only its framing is checked.
fn requests_are_framed(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let (mask, ack) = (choices.word(), choices.word());
    for request in [Request::Listen, Request::ListenTo(mask), Request::Ignore] {
        let datagram = request.encode(ack);
        assert_eq!(plausible_length(&datagram), Some(datagram.len()));
        assert_eq!(word(&datagram, 28), Some(ack));
        let mut read = decode(&datagram);
        assert!(matches!(
            read.next(),
            Some(Ok(_) | Err(Malformed::Truncated))
        ));
        assert_eq!(read.next(), None);
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*word))
}
