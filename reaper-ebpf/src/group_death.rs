//! The record of the death of a process (a thread group), as the wake-up ring carries it.

/// The death of a process: its last thread has entered the kernel's exit path.
///
/// No thread of it runs user code again. Since Linux 6.16 its memory, sockets and locks still exist for a
/// moment at this point, and the process appears alive in `/proc`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct GroupDeath {
    /// The thread group id (the pid of the process) in the initial pid namespace.
    pub tgid: u32,
    /// The wait status, as wait(2) returns it. Advisory: before Linux 6.1 it is the leader's if the leader
    /// exited first.
    pub exit_code: i32,
    /// The group leader's start time in clock ticks, as the daemon reads it in field 22 of
    /// `/proc/PID/stat`. The record is about a watched process only if this equals its start time.
    pub start_ticks: u64,
    /// When the probe ran: `CLOCK_MONOTONIC`, in nanoseconds.
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
    /// The size of a record in bytes.
    pub const SIZE: usize = 24;

    /// Decodes a record in native byte order. Returns `None` if the length is not [`Self::SIZE`].
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

    /// Encodes the record as the ring contains it.
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
    fn a_record_decodes_to_what_was_encoded() {
        assert_eq!(GroupDeath::from_bytes(&DEATH.to_bytes()), Some(DEATH));
    }

    #[test]
    fn records_of_other_lengths_are_refused() {
        let bytes = DEATH.to_bytes();
        for length in 0..bytes.len() {
            assert_eq!(GroupDeath::from_bytes(&bytes[..length]), None);
        }
        assert_eq!(GroupDeath::from_bytes(&[0; GroupDeath::SIZE + 1]), None);
    }
}
