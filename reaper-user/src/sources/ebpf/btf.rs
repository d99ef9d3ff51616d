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

/// For each field that the probe reads: the probe's global for its byte offset, and that offset.
pub type Offsets = [(&'static str, u32); 8];

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
    let task = |member, size| btf.offset(&task, member, size);
    let signal = |member, size| btf.offset(&signal, member, size);
    let started = || match task("start_boottime", 8) {
        // Before 5.5.
        Err(BtfError::NoMember { .. }) => task("real_start_time", 8),
        found => found,
    };
    let pointer = 8;
    Ok([
        (globals::TASK_SIGNAL, task("signal", pointer)?),
        (globals::TASK_GROUP_LEADER, task("group_leader", pointer)?),
        (globals::TASK_TGID, task("tgid", 4)?),
        (globals::TASK_EXIT_CODE, task("exit_code", 4)?),
        (globals::TASK_START_BOOTTIME, started()?),
        (globals::SIGNAL_LIVE, signal("live", 4)?),
        (globals::SIGNAL_FLAGS, signal("flags", 4)?),
        (
            globals::SIGNAL_GROUP_EXIT_CODE,
            signal("group_exit_code", 4)?,
        ),
    ])
}

#[cfg(test)]
mod tests;
