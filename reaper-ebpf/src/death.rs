//! One record for "this thread group is dead", as the wake-up carries it.

/// The last thread of a process entered the kernel's exit path.
///
/// No thread of it will run user code again, but since 6.16 its memory, sockets and locks are still
/// there for a moment and it looks alive from outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct GroupDeath {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// Wait status word as `wait(2)` gives it: advisory, because before 6.1 a leader that left first
    /// speaks for the group.
    pub exit_code: i32,
    /// The group leader's start time as field 22 of `/proc/PID/stat` shows it to the daemon. The
    /// death is this very process's only where it equals the start time on record.
    pub start_ticks: u64,
    /// `CLOCK_MONOTONIC` in the kernel's hook.
    pub died_at_ns: u64,
}

const _: () = {
    assert!(size_of::<GroupDeath>() == GroupDeath::SIZE && align_of::<GroupDeath>() == 8);
    assert!(core::mem::offset_of!(GroupDeath, tgid) == 0);
    assert!(core::mem::offset_of!(GroupDeath, exit_code) == 4);
    assert!(core::mem::offset_of!(GroupDeath, start_ticks) == 8);
    assert!(core::mem::offset_of!(GroupDeath, died_at_ns) == 16);
};

impl GroupDeath {
    /// Bytes of a record in the ring.
    pub const SIZE: usize = 24;

    /// Decodes a record from the ring; `None` for any other length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::SIZE] = bytes.try_into().ok()?;
        let (tgid, rest) = bytes.split_first_chunk()?;
        let (exit_code, rest) = rest.split_first_chunk()?;
        let (start_ticks, died_at_ns) = rest.split_first_chunk()?;
        Some(Self {
            tgid: u32::from_ne_bytes(*tgid),
            exit_code: i32::from_ne_bytes(*exit_code),
            start_ticks: u64::from_ne_bytes(*start_ticks),
            died_at_ns: u64::from_ne_bytes(died_at_ns.try_into().ok()?),
        })
    }

    /// The record as it lies in the ring.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let Self {
            tgid,
            exit_code,
            start_ticks,
            died_at_ns,
        } = self;
        let mut bytes = [0; Self::SIZE];
        bytes[..4].copy_from_slice(&tgid.to_ne_bytes());
        bytes[4..8].copy_from_slice(&exit_code.to_ne_bytes());
        bytes[8..16].copy_from_slice(&start_ticks.to_ne_bytes());
        bytes[16..].copy_from_slice(&died_at_ns.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEATH: GroupDeath = GroupDeath {
        tgid: 0x1234_5678,
        exit_code: -9,
        start_ticks: 77,
        died_at_ns: u64::MAX - 1,
    };

    #[test]
    fn a_record_survives_the_ring() {
        assert_eq!(GroupDeath::from_bytes(&DEATH.to_bytes()), Some(DEATH));
    }

    #[test]
    fn other_lengths_are_refused() {
        let bytes = DEATH.to_bytes();
        for length in 0..bytes.len() {
            assert_eq!(GroupDeath::from_bytes(&bytes[..length]), None);
        }
        assert_eq!(GroupDeath::from_bytes(&[0; GroupDeath::SIZE + 1]), None);
    }
}
