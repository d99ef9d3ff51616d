//! The BPF programs of `reaperd`, and the records and names that they share with the daemon.
//!
//! There are two objects, because they need different privileges and different sources load them:
//!
//! * The **probe** ([`probe`]) marks a watched process as dead in the watch map when its last thread
//!   enters the kernel's exit path, and writes a record to a ring buffer to wake the daemon. The map is
//!   authoritative. If the ring is full no death is lost: the daemon scans the map.
//! * The **filter** ([`filter`]) drops exits of unwatched processes before they reach a process connector
//!   socket. It needs `CAP_BPF` only.
//!
//! The library contains no decision that a process is dead, no unsafe code and no dependency. Records are
//! passed as byte arrays, which BPF libraries can read and write without unsafe code.
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod counters;
mod group_death;
#[cfg(not(target_arch = "bpf"))]
pub mod objects;
mod watch_entry;

pub use counters::{COUNTERS, Counter};
pub use group_death::GroupDeath;
pub use watch_entry::WatchEntry;

/// Nanoseconds per clock tick of field 22 of `/proc/PID/stat`.
///
/// `USER_HZ` is 100 in the ABI of every supported architecture, independent of the kernel's `HZ`.
pub const NS_PER_TICK: u64 = 10_000_000;

/// The names of programs, maps and globals in the probe's object, and the default sizes of its maps.
pub mod probe {
    /// The program that attaches to the tracepoint by BTF. Needs Linux 5.8, kernel BTF, `CAP_BPF` and
    /// `CAP_PERFMON`. Needs neither tracefs nor a helper that reads kernel memory, so it also loads
    /// under kernel lockdown.
    pub const PROGRAM_BTF: &str = "exit_btf";
    /// The program for the classic tracepoint `sched/sched_process_exit`, the second choice. Also needs
    /// tracefs, and a kernel that lets programs read kernel memory. Linux 5.10 logs one warning with a
    /// stack trace, because the watch map is not preallocated; 6.1 does not.
    pub const PROGRAM_CLASSIC: &str = "exit_classic";
    /// The tracepoint of both programs.
    pub const TRACEPOINT: &str = "sched_process_exit";
    /// The folder of the classic tracepoint in tracefs.
    pub const TRACEPOINT_CATEGORY: &str = "sched";

    /// Hash map: tgid in the initial pid namespace (`u32`) to [`crate::WatchEntry`].
    pub const MAP_WATCHED: &str = "watched";
    /// Ring buffer of [`crate::GroupDeath`] records, which wakes the daemon.
    pub const MAP_WAKEUPS: &str = "wakeups";
    /// Per-CPU array of `u64`, indexed by [`crate::Counter`].
    pub const MAP_COUNTERS: &str = "counters";

    /// The default maximum number of entries of the watch map. Its buckets are allocated when it is
    /// created (16 bytes each), its elements while they are in use.
    pub const DEFAULT_WATCHED: u32 = 131_072;
    /// The default size of the ring buffer in bytes: 8,192 deaths while the daemon does not read.
    pub const DEFAULT_WAKEUP_BYTES: u32 = 256 * 1024;

    /// Globals that the loader sets: `u32` member offsets in bytes, from the running kernel's BTF, unless
    /// stated otherwise. All are mandatory.
    pub mod globals {
        /// The offset of `task_struct.signal`.
        pub const TASK_SIGNAL: &str = "TASK_SIGNAL";
        /// The offset of `task_struct.group_leader`.
        pub const TASK_GROUP_LEADER: &str = "TASK_GROUP_LEADER";
        /// The offset of `task_struct.tgid`.
        pub const TASK_TGID: &str = "TASK_TGID";
        /// The offset of `task_struct.exit_code`.
        pub const TASK_EXIT_CODE: &str = "TASK_EXIT_CODE";
        /// The offset of `task_struct.start_boottime`, which is `real_start_time` before Linux 5.5.
        pub const TASK_START_BOOTTIME: &str = "TASK_START_BOOTTIME";
        /// The offset of `signal_struct.live`.
        pub const SIGNAL_LIVE: &str = "SIGNAL_LIVE";
        /// The offset of `signal_struct.flags`.
        pub const SIGNAL_FLAGS: &str = "SIGNAL_FLAGS";
        /// The offset of `signal_struct.group_exit_code`.
        pub const SIGNAL_GROUP_EXIT_CODE: &str = "SIGNAL_GROUP_EXIT_CODE";
        /// `u32`: the daemon's tgid, whose thread exits are only counted; 0: none.
        pub const CANARY_TGID: &str = "CANARY_TGID";
        /// `u64`, two's complement: the boot-time offset of the daemon's time namespace in nanoseconds,
        /// which the kernel adds before it prints field 22; 0 in the initial time namespace.
        pub const BOOT_OFFSET_NS: &str = "BOOT_OFFSET_NS";
    }
}

/// The names of program, map and globals in the socket filter's object.
pub mod filter {
    /// The socket filter, for `SO_ATTACH_BPF` on a process connector socket.
    pub const PROGRAM: &str = "connector_filter";
    /// Hash map: tgid in the initial pid namespace (`u32`) to a `u32` that is not used.
    pub const MAP_WATCHED: &str = "watched";
    /// The default maximum number of entries of the map.
    pub const DEFAULT_WATCHED: u32 = 131_072;

    /// Globals that the loader sets.
    pub mod globals {
        /// `u32`: the daemon's tgid, whose exits always pass; 0: none.
        pub const CANARY_TGID: &str = "CANARY_TGID";
    }
}
