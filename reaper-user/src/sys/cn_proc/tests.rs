//! The codec on datagrams captured from a kernel, and on arbitrary bytes.
#![cfg(target_endian = "little")]

use proptest::prelude::*;

use super::*;

/// Captured on Linux 6.18, x86-64, with a plain listener.
mod captured {
    pub(super) const ACK: &str = "4c000000030000000000000000000000010000000100000000000000453322112800\
        000000000000000000008119ecc59d010000000000000000000000000000000000000000000000000000";
    pub(super) const ACK_UNKNOWN_REQUEST: &str = "4c0000000300000008000000000000000100000001000000080\
        00000060000002800000000000000000000009d281cc69d010000160000000000000000000000000000000000000000000000";
    pub(super) const FORK: &str = "4c0000000300000001000000000000000100000001000000010000000000000028\
        00000001000000000000008311efc59d01000003650000036500002d6500002d6500000000000000000000";
    pub(super) const EXIT_3: &str = "4c000000030000000300000000000000010000000100000003000000000000002\
        80000000000008000000000d47804c69d0100002d6500002d65000000030000110000000365000003650000";
    pub(super) const EXIT_OF_A_THREAD: &str = "4c00000003000000000000000000000001000000010000000000000\
        0000000002800000000000080010000\
        0005ca0cc69d0100002e6500000365000000000000ffffffff0000000000000000";
    pub(super) const KILLED: &str = "4c000000030000000700000000000000010000000100000007000000000000002\
        80000000000008000000000f1701bc69d0100002f6500002f65000009000000110000000365000003650000";
}

fn from_hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn only(hex: &str) -> Event {
    let datagram = from_hex(hex);
    assert_eq!(datagram.len(), 76);
    let mut messages = decode(&datagram);
    let event = messages.next().unwrap().unwrap();
    assert_eq!(messages.next(), None);
    event
}

#[test]
fn requests_have_the_kernels_format() {
    let listen = from_hex(
        "28000000030000000000000000000000010000000100000000000000443322110400000001000000",
    );
    assert_eq!(Request::Listen.encode(0x1122_3344), listen);
    let masked = from_hex(
        "2c0000000300000000000000000000000100000001000000000000004433221108000000\
         0100000000000080",
    );
    assert_eq!(Request::ListenTo(WHAT_EXIT).encode(0x1122_3344), masked);
    let ignore = from_hex(
        "28000000030000000000000000000000010000000100000000000000000000000400000002000000",
    );
    assert_eq!(Request::Ignore.encode(0), ignore);
}

#[test]
fn captured_events_are_decoded() {
    assert_eq!(
        only(captured::ACK),
        Event::Ack {
            ack: 0x1122_3345,
            error: 0
        }
    );
    assert_eq!(
        only(captured::ACK_UNKNOWN_REQUEST),
        Event::Ack { ack: 6, error: 22 }
    );
    assert_eq!(only(captured::FORK), Event::Other);
    let exit = |pid, tgid, wait_status, timestamp_ns| {
        Event::Exit(Exit {
            pid,
            tgid,
            wait_status,
            timestamp_ns,
        })
    };
    assert_eq!(
        only(captured::EXIT_3),
        exit(25_901, 25_901, 0x300, 0x019d_c604_78d4)
    );
    assert_eq!(
        only(captured::EXIT_OF_A_THREAD),
        exit(25_902, 25_859, 0, 0x019d_c60c_ca05)
    );
    assert_eq!(
        only(captured::KILLED),
        exit(25_903, 25_903, 9, 0x019d_c61b_70f1)
    );
}

#[test]
fn all_messages_of_a_datagram_are_decoded() {
    let both = [from_hex(captured::EXIT_3), from_hex(captured::KILLED)].concat();
    let pids: Vec<_> = decode(&both)
        .map(|event| match event {
            Ok(Event::Exit(exit)) => exit.pid,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(pids, [25_901, 25_903]);
}

#[test]
fn a_message_of_another_type_or_channel_is_skipped() {
    for (at, value, expected) in [
        (4, 1, Malformed::Type(1)),
        (4, 2, Malformed::Type(2)),
        (16, 7, Malformed::Channel(7, 1)),
        (20, 7, Malformed::Channel(1, 7)),
        (32, 0xff, Malformed::Truncated),
        (32, 4, Malformed::Truncated),
    ] {
        let mut both = [from_hex(captured::EXIT_3), from_hex(captured::KILLED)].concat();
        both[at] = value;
        let mut messages = decode(&both);
        assert_eq!(messages.next(), Some(Err(expected)), "byte {at} = {value}");
        assert!(matches!(
            messages.next(),
            Some(Ok(Event::Exit(Exit { pid: 25_903, .. })))
        ));
        assert_eq!(messages.next(), None);
    }
}

#[test]
fn an_invalid_length_ends_the_datagram() {
    for length in [0_u32, 4, 15, 77, u32::MAX] {
        let mut datagram = from_hex(captured::EXIT_3);
        datagram[..4].copy_from_slice(&length.to_ne_bytes());
        let all: Vec<_> = decode(&datagram).collect();
        assert_eq!(all, [Err(Malformed::Length)], "length {length}");
    }
}

#[test]
fn every_truncated_datagram_is_an_error() {
    let whole = from_hex(captured::EXIT_3);
    for cut in 1..whole.len() {
        assert!(
            decode(&whole[..cut]).all(|event| event.is_err()),
            "cut at {cut}"
        );
    }
}

proptest! {
    #[test]
    fn decoding_arbitrary_bytes_terminates(datagram in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(decode(&datagram).count() <= datagram.len() / 16 + 1);
    }

    #[test]
    fn decoding_a_modified_datagram_terminates(
        changes in prop::collection::vec((0_usize..152, any::<u8>()), 0..12),
    ) {
        let mut datagram = [from_hex(captured::EXIT_3), from_hex(captured::ACK)].concat();
        for (at, value) in changes {
            datagram[at] = value;
        }
        prop_assert!(decode(&datagram).count() <= datagram.len() / 16 + 1);
    }
}
