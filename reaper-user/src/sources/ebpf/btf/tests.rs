//! The BTF reader on this kernel, on a hand-made blob, and on bytes that lie.

use std::fs;

use proptest::prelude::*;

use super::{
    walk::{MAGIC, kind},
    *,
};

/// A blob under construction.
#[derive(Default)]
struct Blob {
    types: Vec<u8>,
    names: Vec<u8>,
    count: u32,
}

const PLAIN: bool = false;
const BIT_FIELDS: bool = true;

impl Blob {
    fn new() -> Self {
        Self {
            names: vec![0],
            ..Self::default()
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.names.len()).unwrap();
        self.names.extend(name.as_bytes());
        self.names.push(0);
        at
    }

    fn push(&mut self, words: &[u32]) {
        self.types
            .extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }

    fn simple(&mut self, kind: u32, size_or_type: u32, trailer: &[u32]) -> u32 {
        self.push(&[0, kind << 24, size_or_type]);
        self.push(trailer);
        self.count += 1;
        self.count
    }

    /// Members are name, type and offset as the format has it.
    fn composite(
        &mut self,
        kind: u32,
        name: &str,
        bit_fields: bool,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let count = u32::try_from(members.len()).unwrap();
        // Any size that holds the offsets will do, except for the one counter.
        let size = if count == 1 && name.is_empty() {
            4
        } else {
            4096
        };
        let name = self.name(name);
        self.push(&[name, u32::from(bit_fields) << 31 | kind << 24 | count, size]);
        for (name, type_id, offset) in members {
            let name = self.name(name);
            self.push(&[name, *type_id, *offset]);
        }
        self.count += 1;
        self.count
    }

    fn finish(&self) -> Vec<u8> {
        let [types, names] =
            [&self.types, &self.names].map(|part| u32::try_from(part.len()).unwrap());
        let mut blob = MAGIC.to_ne_bytes().to_vec();
        blob.extend([1, 0]);
        for word in [24, 0, types, types, names] {
            blob.extend(word.to_ne_bytes());
        }
        blob.extend(&self.types);
        blob.extend(&self.names);
        blob
    }
}

/// A kernel with every difficulty: nameless members in two layers, bit fields, the old field name.
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
fn a_hand_made_kernel_is_read() {
    let expected = Offsets {
        task_signal: 128,
        task_group_leader: 136,
        task_tgid: 144,
        task_exit_code: 28,
        task_start_boottime: 152,
        signal_live: 4,
        signal_flags: 12,
        signal_group_exit_code: 8,
    };
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
    let mut distinct: Vec<_> = found.globals().into_iter().collect();
    distinct.sort_unstable();
    distinct.dedup_by_key(|(name, _)| *name);
    assert_eq!(distinct.len(), 8, "every global has a name of its own");
    assert_ne!(found.task_signal, found.task_group_leader);
    assert_ne!(found.signal_live, found.signal_flags);
}

#[test]
fn missing_and_misshapen_fields_are_named() {
    let mut blob = Blob::new();
    let long = blob.simple(kind::INT, 8, &[64]);
    blob.composite(kind::STRUCT, "task_struct", PLAIN, &[("signal", long, 0)]);
    assert_eq!(
        offsets(&blob.finish()),
        Err(BtfError::NoMember {
            structure: "task_struct",
            member: "group_leader"
        })
    );

    let mut blob = Blob::new();
    let int = blob.simple(kind::INT, 4, &[32]);
    blob.composite(kind::STRUCT, "task_struct", PLAIN, &[("signal", int, 0)]);
    assert_eq!(
        offsets(&blob.finish()),
        Err(BtfError::Unexpected {
            structure: "task_struct",
            member: "signal",
            expected: 8
        })
    );

    let nothing = Blob::new().finish();
    assert_eq!(
        offsets(&nothing),
        Err(BtfError::NoStruct {
            structure: "task_struct"
        })
    );
}

#[test]
fn a_structure_that_contains_itself_ends() {
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
fn this_kernel_cut_or_flipped_never_panics() {
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
    fn noise_never_panics(mut blob in prop::collection::vec(any::<u8>(), 0..512)) {
        drop(offsets(&blob));
        let header = small_kernel();
        let kept = blob.len().min(24);
        blob[..kept].copy_from_slice(&header[..kept]);
        drop(offsets(&blob));
    }
}
