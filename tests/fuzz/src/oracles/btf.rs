//! The kernel's types. For any bytes the result depends on nothing behind the blob. And where the
//! bytes choose the layout of a kernel's structures, every field is found where it was put.

use reaperd::fuzzing::{BtfError, BtfWriter, offsets};

use super::Choices;

/// `BTF_KIND_*` of include/uapi/linux/btf.h.
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const FWD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const VAR: u32 = 14;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const DECL_TAG: u32 = 17;
}

/// Whether the offsets of a structure's members carry the size of a bit field.
const PLAIN: bool = false;

/// Any bytes as a blob, and as choices in the layout of one.
pub fn btf(bytes: &[u8]) {
    let read = offsets(bytes);
    match &read {
        Ok(_) => {
            let longer = [bytes, b"\x9f\xeb behind the blob"].concat();
            assert_eq!(offsets(&longer), read);
        }
        Err(BtfError::UnknownKind { kind, .. }) => assert!(*kind == 0 || *kind > 19),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let (blob, expected) = Layout::new(bytes).kernel();
    let found = offsets(&blob).map(|found| found.map(|(_, offset)| offset));
    assert_eq!(found, Ok(expected));
    let cut = bytes.len() % blob.len();
    assert!(offsets(&blob[..cut]).is_err(), "{cut} bytes were enough");
}

/// The BTF of a kernel under construction.
struct Layout<'a> {
    choices: Choices<'a>,
    blob: BtfWriter,
    int: u32,
    long: u32,
    pointer: u32,
}

/// The members of a structure so far.
#[derive(Default)]
struct Members {
    list: Vec<(&'static str, u32, u32)>,
    /// Where the next one may start.
    byte: u32,
    /// Whether offsets have room for the size of a bit field.
    bit_fields: bool,
}

impl<'a> Layout<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut blob = BtfWriter::new();
        Self {
            choices: Choices(bytes),
            int: blob.simple(kind::INT, 4, &[32]),
            long: blob.simple(kind::INT, 8, &[64]),
            pointer: blob.simple(kind::PTR, 0, &[]),
            blob,
        }
    }

    fn kernel(mut self) -> (Vec<u8>, [u32; 8]) {
        let [int, long, pointer] = [self.int, self.long, self.pointer];
        let started = ["start_boottime", "real_start_time"][self.choices.below(2) as usize];
        let counter = [("counter", int, 0)];
        let atomic = self.blob.composite(kind::STRUCT, "", PLAIN, &counter);
        let (mut task, mut signal) = (self.members(), self.members());
        let expected = [
            self.put(&mut task, "signal", pointer),
            self.put(&mut task, "group_leader", pointer),
            self.put(&mut task, "tgid", int),
            self.put(&mut task, "exit_code", int),
            self.put(&mut task, started, long),
            self.put(&mut signal, "live", atomic),
            self.put(&mut signal, "flags", int),
            self.put(&mut signal, "group_exit_code", int),
        ];
        self.finish("task_struct", &task);
        self.something_else();
        self.finish("signal_struct", &signal);
        (self.blob.finish(), expected)
    }

    fn members(&mut self) -> Members {
        Members {
            bit_fields: self.choices.below(2) == 1,
            ..Members::default()
        }
    }

    /// Puts a field somewhere behind the others, perhaps in nameless structures and unions, perhaps
    /// behind other names for its type; returns its offset.
    fn put(&mut self, members: &mut Members, name: &'static str, type_id: u32) -> u32 {
        members.byte += 8 * self.choices.below(64);
        for _ in 0..self.choices.below(3) {
            let width = u32::from(members.bit_fields) * self.choices.below(8);
            let bit = members.byte * 8;
            members.list.push(("signal2", self.int, width << 24 | bit));
            members.byte += 8;
        }
        let mut type_id = self.renamed(type_id);
        let (mut name_here, mut inside) = (name, 0);
        for _ in 0..self.choices.below(4) {
            let step = 8 * self.choices.below(16);
            let kind = [kind::STRUCT, kind::UNION][self.choices.below(2) as usize];
            let list = [("sig", self.int, 0), (name_here, type_id, step * 8)];
            type_id = self.blob.composite(kind, "", PLAIN, &list);
            type_id = self.renamed(type_id);
            (name_here, inside) = ("", inside + step);
        }
        members.list.push((name_here, type_id, members.byte * 8));
        let found_at = members.byte + inside;
        members.byte = found_at + 8;
        found_at
    }

    /// The same type behind names and qualifiers.
    fn renamed(&mut self, mut type_id: u32) -> u32 {
        for _ in 0..self.choices.below(4) {
            let kinds = [kind::TYPEDEF, kind::CONST, kind::VOLATILE, kind::RESTRICT];
            let kind = kinds[self.choices.below(4) as usize];
            type_id = self.blob.simple(kind, type_id, &[]);
        }
        type_id
    }

    /// Types that have to be stepped over.
    fn something_else(&mut self) {
        for _ in 0..self.choices.below(8) {
            let (kind, trailer): (u32, &[u32]) = match self.choices.below(6) {
                0 => (kind::ARRAY, &[1, 1, 3]),
                1 => (kind::FWD, &[]),
                2 => (kind::VAR, &[0]),
                3 => (kind::DECL_TAG, &[0]),
                4 => (kind::FLOAT, &[]),
                _ => (kind::FUNC, &[]),
            };
            self.blob.simple(kind, self.int, trailer);
        }
    }

    fn finish(&mut self, name: &str, members: &Members) {
        self.blob
            .composite(kind::STRUCT, name, members.bit_fields, &members.list);
    }
}
