//! The value of the watch map: what the daemon asks about, and the probe's mark beside it.
//!
//! The mark names the process that it is about. The kernel may hand the memory of a deleted entry to
//! the next inserted one while a probe on another CPU still holds a pointer to it; a bare "dead" flag
//! written late would then bury a unrelated process. A mark counts only where it matches its entry.

use crate::GroupDeath;

/// One watched process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct WatchEntry {
    /// Written by the daemon: field 22 of `/proc/PID/stat` as the daemon read it. 0 means unknown and
    /// matches no process but those of the first tick: not marked, but the wake-up rings.
    pub start_ticks: u64,
    /// Written by the probe last, in one store: tgid in the low half, wait status in the high half; 0
    /// while nothing is marked.
    pub mark: u64,
    /// Written by the probe: the start time of the process that the mark is about.
    pub marked_start_ticks: u64,
    /// Written by the probe: `CLOCK_MONOTONIC` at the mark.
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
    /// Bytes of a value in the map.
    pub const SIZE: usize = 32;

    /// An unmarked entry for the process that started at this tick.
    pub const fn watching(start_ticks: u64) -> Self {
        Self {
            start_ticks,
            mark: 0,
            marked_start_ticks: 0,
            marked_at_ns: 0,
        }
    }

    /// The value of [`Self::mark`] for a death; never 0, because no process has tgid 0.
    #[inline]
    pub const fn mark_of(tgid: u32, exit_code: i32) -> u64 {
        ((exit_code.cast_unsigned() as u64) << 32) | tgid as u64
    }

    /// The death that the probe marked here; `None` while there is none, and for a mark that is not
    /// about the process that this entry (of `tgid`) watches.
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

    /// Decodes a value of the map; `None` for any other length.
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

    /// The value as it lies in the map.
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
    reason = "the half is what is asked for"
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
    fn an_entry_survives_the_map() {
        let entry = marked(7, 0x300, 40);
        assert_eq!(WatchEntry::from_bytes(&entry.to_bytes()), Some(entry));
        assert_eq!(WatchEntry::from_bytes(&[0; 31]), None);
        assert_eq!(WatchEntry::from_bytes(&[0; 33]), None);
    }

    #[test]
    fn a_fresh_entry_is_not_dead() {
        assert_eq!(WatchEntry::watching(40).death(7), None);
        assert_eq!(WatchEntry::watching(0).death(0), None);
    }

    #[test]
    fn a_mark_tells_tgid_code_and_time() {
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
    fn a_mark_about_another_process_does_not_count() {
        assert_eq!(
            marked(8, 9, 40).death(7),
            None,
            "late mark for the memory's former owner"
        );
        assert_eq!(
            marked(7, 9, 39).death(7),
            None,
            "late mark for the pid's former owner"
        );
    }
}
