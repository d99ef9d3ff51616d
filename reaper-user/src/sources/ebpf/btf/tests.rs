//! The BTF reader on this kernel, on a generated blob, and on invalid bytes.

use std::fs;

use proptest::prelude::*;

use super::blob::{BIT_FIELDS, Blob, PLAIN};
use super::{walk::kind, *};

/// A kernel with all special cases: two layers of anonymous members, bit fields, the old field
/// name.
fn small_kernel() -> Vec<u8> {
    let mut blob = Blob::new();
    let int = blob.simple(kind::INT, 4, &[32]);
    let long = blob.simple(kind::INT, 8, &[64]);
    let pointer = blob.simple(kind::PTR, 0, &[]);
    let alias = blob.simple(kind::TYPEDEF, int, &[]);
    blob.simple(kind::ARRAY, 0, &[int, int, 3]);
    let atomic = blob.composite(kind::STRUCT, "", PLAIN, &[("counter", int, 0)]);
    let inner = blob.composite(
        kind::UNION,
        "",
        PLAIN,
        &[("other", int, 0), ("exit_code", alias, 32)],
    );
    let outer = blob.composite(kind::STRUCT, "", PLAIN, &[("x", long, 0), ("", inner, 64)]);
    blob.composite(
        kind::STRUCT,
        "task_struct",
        BIT_FIELDS,
        &[
            ("signal_other", pointer, 0),
            ("flag", int, 1 << 24 | 64),
            ("", outer, 128),
            ("signal", pointer, 1024),
            ("group_leader", pointer, 1088),
            ("tgid", alias, 1152),
            ("real_start_time", long, 1216),
        ],
    );
    blob.composite(
        kind::STRUCT,
        "signal_struct",
        PLAIN,
        &[
            ("live", atomic, 32),
            ("group_exit_code", int, 64),
            ("flags", int, 96),
        ],
    );
    blob.finish()
}

#[test]
fn a_generated_blob_is_read() {
    let expected = [
        (globals::TASK_SIGNAL, 128),
        (globals::TASK_GROUP_LEADER, 136),
        (globals::TASK_TGID, 144),
        (globals::TASK_EXIT_CODE, 28),
        (globals::TASK_START_BOOTTIME, 152),
        (globals::SIGNAL_LIVE, 4),
        (globals::SIGNAL_FLAGS, 12),
        (globals::SIGNAL_GROUP_EXIT_CODE, 8),
    ];
    assert_eq!(offsets(&small_kernel()), Ok(expected));
}

#[test]
fn this_kernel_is_read() {
    let blob = match fs::read(VMLINUX) {
        Ok(blob) => blob,
        Err(error) => return println!("skipped: {VMLINUX}: {error}"),
    };
    let found = offsets(&blob).unwrap();
    println!("{found:?}");
    let names = found.map(|(name, _)| name);
    assert!((1..8).all(|at| !names[..at].contains(&names[at])));
    let [(_, signal), (_, leader), .., (_, live), (_, flags), _] = found;
    assert_ne!(signal, leader);
    assert_ne!(live, flags);
}

#[test]
fn missing_and_unexpected_fields_are_named() {
    let structure = "task_struct";
    let no_leader = BtfError::NoMember {
        structure,
        member: "group_leader",
    };
    let short_signal = BtfError::Unexpected {
        structure,
        member: "signal",
        expected: 8,
    };
    for (size, error) in [(8, no_leader), (4, short_signal)] {
        let mut blob = Blob::new();
        let int = blob.simple(kind::INT, size, &[size * 8]);
        blob.composite(kind::STRUCT, structure, PLAIN, &[("signal", int, 0)]);
        assert_eq!(offsets(&blob.finish()), Err(error));
    }
    let nothing = Blob::new().finish();
    assert_eq!(offsets(&nothing), Err(BtfError::NoStruct { structure }));
}

#[test]
fn a_structure_that_contains_itself_is_an_error() {
    let mut blob = Blob::new();
    let members = vec![("", 1, 0); 60_000];
    blob.composite(kind::STRUCT, "task_struct", PLAIN, &members);
    assert_eq!(
        offsets(&blob.finish()),
        Err(BtfError::Truncated { type_id: 1 })
    );
}

#[test]
fn an_unknown_kind_is_named() {
    let mut blob = Blob::new();
    blob.simple(31, 0, &[]);
    assert_eq!(
        offsets(&blob.finish()),
        Err(BtfError::UnknownKind {
            type_id: 1,
            kind: 31
        })
    );
}

#[test]
fn every_truncation_is_an_error() {
    let blob = small_kernel();
    for len in 0..blob.len() {
        assert!(
            offsets(&blob[..len]).is_err(),
            "{len} of {} bytes were enough",
            blob.len()
        );
    }
}

#[test]
fn truncated_or_flipped_kernel_btf_never_panics() {
    let Ok(mut blob) = fs::read(VMLINUX) else {
        return println!("skipped: no {VMLINUX}");
    };
    for twentieth in 0..20 {
        let len = blob.len() / 20 * twentieth;
        assert!(offsets(&blob[..len]).is_err());
    }
    for step in 1_usize..=40 {
        let at = step.wrapping_mul(0x9e37_79b9) % blob.len();
        blob[at] ^= 1 << (step % 8);
        drop(offsets(&blob));
    }
}

proptest! {
    #[test]
    fn flipped_bits_never_panic(flips in prop::collection::vec((0_usize..4096, 0_u8..8), 1..6)) {
        let mut blob = small_kernel();
        let len = blob.len();
        for (at, bit) in flips {
            blob[at % len] ^= 1 << bit;
        }
        drop(offsets(&blob));
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut blob in prop::collection::vec(any::<u8>(), 0..512)) {
        drop(offsets(&blob));
        let header = small_kernel();
        let kept = blob.len().min(24);
        blob[..kept].copy_from_slice(&header[..kept]);
        drop(offsets(&blob));
    }
}
