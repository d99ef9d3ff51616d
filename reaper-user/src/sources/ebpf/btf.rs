//! Finds the struct offsets that the exit probe needs, in the running kernel's BTF.
//!
//! Pure: the caller reads the blob from [`VMLINUX`] and passes the offsets to the loader. Any other
//! bytes result in an error, never in a panic or an endless loop.

#[cfg(any(test, feature = "cli"))]
pub(crate) mod blob;
mod walk;

use reaper_ebpf::probe::globals;
use thiserror::Error;

use walk::{Btf, Wanted};

/// Where a kernel publishes its types, since 5.4. Any user may read it.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Byte offsets of the fields that the probe reads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offsets {
    /// `task_struct.signal`
    pub task_signal: u32,
    /// `task_struct.group_leader`
    pub task_group_leader: u32,
    /// `task_struct.tgid`
    pub task_tgid: u32,
    /// `task_struct.exit_code`
    pub task_exit_code: u32,
    /// `task_struct.start_boottime`, or `real_start_time` before 5.5
    pub task_start_boottime: u32,
    /// `signal_struct.live`
    pub signal_live: u32,
    /// `signal_struct.flags`
    pub signal_flags: u32,
    /// `signal_struct.group_exit_code`
    pub signal_group_exit_code: u32,
}

impl Offsets {
    /// Returns each offset with the name of the probe's global for it.
    pub fn globals(&self) -> [(&'static str, u32); 8] {
        let Self {
            task_signal,
            task_group_leader,
            task_tgid,
            task_exit_code,
            task_start_boottime,
            signal_live,
            signal_flags,
            signal_group_exit_code,
        } = *self;
        [
            (globals::TASK_SIGNAL, task_signal),
            (globals::TASK_GROUP_LEADER, task_group_leader),
            (globals::TASK_TGID, task_tgid),
            (globals::TASK_EXIT_CODE, task_exit_code),
            (globals::TASK_START_BOOTTIME, task_start_boottime),
            (globals::SIGNAL_LIVE, signal_live),
            (globals::SIGNAL_FLAGS, signal_flags),
            (globals::SIGNAL_GROUP_EXIT_CODE, signal_group_exit_code),
        ]
    }
}

/// Why a blob has no usable offsets.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum BtfError {
    /// Not BTF, or of another byte order.
    #[error("no BTF of this machine's byte order")]
    NotBtf,
    /// A header, type, member or name extends beyond the blob.
    #[error("BTF is cut off or inconsistent at type {type_id}")]
    Truncated {
        /// The type being read; 0 is the header.
        type_id: u32,
    },
    /// A kind of type that this reader cannot skip: newer than 6.18.
    #[error("BTF type {type_id} is of the unknown kind {kind}")]
    UnknownKind {
        /// The id of the type.
        type_id: u32,
        /// Its kind.
        kind: u32,
    },
    /// The kernel has no such structure.
    #[error("BTF has no struct {structure}")]
    NoStruct {
        /// Name of the structure.
        structure: &'static str,
    },
    /// The structure has no such member.
    #[error("BTF has no {structure}.{member}")]
    NoMember {
        /// Name of the structure.
        structure: &'static str,
        /// Name of the member.
        member: &'static str,
    },
    /// The member is not the plain integer or pointer that the probe reads.
    #[error("{structure}.{member} is not a plain field of {expected} bytes")]
    Unexpected {
        /// Name of the structure.
        structure: &'static str,
        /// Name of the member.
        member: &'static str,
        /// The size that the probe reads.
        expected: u32,
    },
}

/// Finds all offsets.
pub fn offsets(btf: &[u8]) -> Result<Offsets, BtfError> {
    let [mut task, mut signal] = [Wanted::named("task_struct"), Wanted::named("signal_struct")];
    let btf = Btf::parse(btf, &mut [&mut task, &mut signal])?;
    let pointer = 8;
    Ok(Offsets {
        task_signal: btf.offset(&task, "signal", pointer)?,
        task_group_leader: btf.offset(&task, "group_leader", pointer)?,
        task_tgid: btf.offset(&task, "tgid", 4)?,
        task_exit_code: btf.offset(&task, "exit_code", 4)?,
        task_start_boottime: match btf.offset(&task, "start_boottime", 8) {
            Err(BtfError::NoMember { .. }) => btf.offset(&task, "real_start_time", 8)?,
            found => found?,
        },
        signal_live: btf.offset(&signal, "live", 4)?,
        signal_flags: btf.offset(&signal, "flags", 4)?,
        signal_group_exit_code: btf.offset(&signal, "group_exit_code", 4)?,
    })
}

#[cfg(test)]
mod tests;
