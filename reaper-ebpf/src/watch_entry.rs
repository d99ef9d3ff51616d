//! The value type of the watch map: the watched process and the probe's mark.
//!
//! A mark names the process that it is about. The kernel may reuse the memory of a deleted entry for the
//! next inserted one while a probe on another CPU still has a pointer to it. A plain "dead" flag written
//! late would then mark an unrelated process. A mark is valid only if it matches its entry.

use crate::GroupDeath;

/// A watched process, and the mark that the probe sets when it dies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct WatchEntry {
    /// Written by the daemon: the start time in clock ticks, field 22 of `/proc/PID/stat`. 0 means
    /// unknown: it matches only processes of the first tick after boot, so the probe does not mark the
    /// entry but writes a wake-up.
    pub start_ticks: u64,
    /// Written by the probe last, in one store: the tgid in the low half, the wait status in the high
    /// half. 0: not marked.
    pub mark: u64,
    /// Written by the probe: the start time of the process that the mark is about, in clock ticks.
    pub marked_start_ticks: u64,
    /// Written by the probe: the time of the mark, `CLOCK_MONOTONIC` in nanoseconds.
    pub marked_at_ns: u64,
}

const _: () = {
    assert!(size_of::<WatchEntry>() == WatchEntry::SIZE && align_of::<WatchEntry>() == 8);
    assert!(core::mem::offset_of!(WatchEntry, start_ticks) == 0);
    assert!(core::mem::offset_of!(WatchEntry, mark) == 8);
    assert!(core::mem::offset_of!(WatchEntry, marked_start_ticks) == 16);
    assert!(core::mem::offset_of!(WatchEntry, marked_at_ns) == 24);
};

impl WatchEntry {
    /// The size of a value in bytes.
    pub const SIZE: usize = 32;

    /// Creates an unmarked entry for a process that started at this clock tick.
    pub const fn watching(start_ticks: u64) -> Self {
        Self {
            start_ticks,
            mark: 0,
            marked_start_ticks: 0,
            marked_at_ns: 0,
        }
    }

    /// Returns the value of [`Self::mark`] for a death. Never 0, because no process has tgid 0.
    #[inline]
    pub const fn mark_of(tgid: u32, exit_code: i32) -> u64 {
        ((exit_code.cast_unsigned() as u64) << 32) | tgid as u64
    }

    /// Returns the death that the probe has marked in this entry, whose key is `tgid`. `None` if there is
    /// no mark, or if the mark is about another process.
    #[inline]
    pub fn death(&self, tgid: u32) -> Option<GroupDeath> {
        let Self {
            start_ticks,
            mark,
            marked_start_ticks,
            marked_at_ns,
        } = *self;
        let marked_tgid = low_half(mark);
        let exit_code = low_half(mark >> 32).cast_signed();
        (tgid != 0 && marked_tgid == tgid && marked_start_ticks == start_ticks).then_some(
            GroupDeath {
                tgid,
                exit_code,
                start_ticks,
                died_at_ns: marked_at_ns,
            },
        )
    }

    /// Decodes a value in native byte order. Returns `None` if the length is not [`Self::SIZE`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().ok()?;
        let (words, _) = bytes.as_chunks::<8>();
        let &[start_ticks, mark, marked_start_ticks, marked_at_ns] = words else {
            return None;
        };
        Some(Self {
            start_ticks: u64::from_ne_bytes(start_ticks),
            mark: u64::from_ne_bytes(mark),
            marked_start_ticks: u64::from_ne_bytes(marked_start_ticks),
            marked_at_ns: u64::from_ne_bytes(marked_at_ns),
        })
    }

    /// Encodes the entry as the map contains it.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let Self {
            start_ticks,
            mark,
            marked_start_ticks,
            marked_at_ns,
        } = self;
        let mut bytes = [0; Self::SIZE];
        bytes[..8].copy_from_slice(&start_ticks.to_ne_bytes());
        bytes[8..16].copy_from_slice(&mark.to_ne_bytes());
        bytes[16..24].copy_from_slice(&marked_start_ticks.to_ne_bytes());
        bytes[24..].copy_from_slice(&marked_at_ns.to_ne_bytes());
        bytes
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the function returns the low half"
)]
const fn low_half(word: u64) -> u32 {
    word as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(tgid: u32, exit_code: i32, ticks: u64) -> WatchEntry {
        WatchEntry {
            mark: WatchEntry::mark_of(tgid, exit_code),
            marked_start_ticks: ticks,
            marked_at_ns: 5,
            ..WatchEntry::watching(40)
        }
    }

    #[test]
    fn an_entry_decodes_to_what_was_encoded() {
        let entry = marked(7, 0x300, 40);
        assert_eq!(WatchEntry::from_bytes(&entry.to_bytes()), Some(entry));
        assert_eq!(WatchEntry::from_bytes(&[0; 31]), None);
        assert_eq!(WatchEntry::from_bytes(&[0; 33]), None);
    }

    #[test]
    fn a_new_entry_is_not_marked() {
        assert_eq!(WatchEntry::watching(40).death(7), None);
        assert_eq!(WatchEntry::watching(0).death(0), None);
    }

    #[test]
    fn a_mark_contains_tgid_wait_status_and_time() {
        let death = marked(u32::MAX, -1, 40).death(u32::MAX).unwrap();
        assert_eq!(
            death,
            GroupDeath {
                tgid: u32::MAX,
                exit_code: -1,
                start_ticks: 40,
                died_at_ns: 5
            }
        );
    }

    #[test]
    fn a_mark_about_another_process_is_ignored() {
        assert_eq!(
            marked(8, 9, 40).death(7),
            None,
            "late mark for the entry that had this memory before"
        );
        assert_eq!(
            marked(7, 9, 39).death(7),
            None,
            "late mark for the process that had this pid before"
        );
    }
}
