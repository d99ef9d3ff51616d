//! The records and names that the BPF programs and the daemon share.
//!
//! Two objects, because they ask for different privileges and are loaded by different sources:
//!
//! * the **probe** ([`probe`]) marks a watched process dead in the watch map at the moment when its
//!   last thread enters the kernel's exit path, and rings a ring buffer as a wake-up. The map is the
//!   truth and the ring only says "look": a full ring loses nothing, a scan of the map recovers.
//! * the **filter** ([`filter`]) lets a proc connector socket receive only exits of watched
//!   processes. It needs `CAP_BPF` alone.
//!
//! Absent here on purpose: any decision that a process is dead, any unsafe code, any dependency.
//! Records cross the border as byte arrays, which BPF libraries pass without an unsafe promise.
#![no_std]
#![forbid(unsafe_code)]

mod counters;
mod death;
#[cfg(not(target_arch = "bpf"))]
pub mod objects;
mod watch;

pub use counters::{COUNTERS, Counter};
pub use death::GroupDeath;
pub use watch::WatchEntry;

/// Nanoseconds in a tick of `/proc/PID/stat` field 22.
///
/// `USER_HZ` is 100 in the ABI of every architecture that we build for, whatever the kernel's own
/// `HZ` is.
pub const NS_PER_TICK: u64 = 10_000_000;

/// Names in the probe's object.
pub mod probe {
    /// BPF tracing program on `sched_process_exit`: needs `CAP_BPF` and `CAP_PERFMON`, kernel BTF
    /// and 5.8; no tracefs, no read helper, so it also loads under lockdown.
    pub const PROGRAM_BTF: &str = "exit_btf";
    /// Classic tracepoint `sched/sched_process_exit`, the second choice: needs tracefs beside the
    /// capabilities, and a kernel that still lets programs read kernel memory. 5.10 warns
    /// once in its log, with a stack trace, because the watch map is not preallocated; 6.1 does not.
    pub const PROGRAM_CLASSIC: &str = "exit_classic";
    /// The hook of both programs.
    pub const TRACEPOINT: &str = "sched_process_exit";
    /// Where the classic hook is found in tracefs.
    pub const TRACEPOINT_CATEGORY: &str = "sched";

    /// Hash: tgid in the initial pid namespace (`u32`) to [`crate::WatchEntry`].
    pub const MAP_WATCHED: &str = "watched";
    /// Ring buffer of [`crate::GroupDeath`].
    pub const MAP_WAKEUPS: &str = "wakeups";
    /// Per-CPU array of `u64`, indexed by [`crate::Counter`].
    pub const MAP_COUNTERS: &str = "counters";

    /// Entries of the watch map unless the loader says otherwise. Its buckets are paid at once (16
    /// bytes each), its elements only while they are in use.
    pub const DEFAULT_WATCHED: u32 = 131_072;
    /// Bytes of the ring unless the loader says otherwise: 8192 deaths behind a stopped reader.
    pub const DEFAULT_WAKEUP_BYTES: u32 = 256 * 1024;

    /// `u32` globals: member offsets in bytes, from the running kernel's BTF. All are mandatory.
    pub mod globals {
        /// `task_struct.signal`
        pub const TASK_SIGNAL: &str = "TASK_SIGNAL";
        /// `task_struct.group_leader`
        pub const TASK_GROUP_LEADER: &str = "TASK_GROUP_LEADER";
        /// `task_struct.tgid`
        pub const TASK_TGID: &str = "TASK_TGID";
        /// `task_struct.exit_code`
        pub const TASK_EXIT_CODE: &str = "TASK_EXIT_CODE";
        /// `task_struct.start_boottime`, or `real_start_time` before 5.5
        pub const TASK_START_BOOTTIME: &str = "TASK_START_BOOTTIME";
        /// `signal_struct.live`
        pub const SIGNAL_LIVE: &str = "SIGNAL_LIVE";
        /// `signal_struct.flags`
        pub const SIGNAL_FLAGS: &str = "SIGNAL_FLAGS";
        /// `signal_struct.group_exit_code`
        pub const SIGNAL_GROUP_EXIT_CODE: &str = "SIGNAL_GROUP_EXIT_CODE";
        /// `u32`: the daemon's own tgid, whose thread exits are only counted; 0 is nobody.
        pub const CANARY_TGID: &str = "CANARY_TGID";
        /// `u64`, two's complement: the boot-time offset of the daemon's time namespace in ns, which
        /// the kernel adds before it prints field 22; 0 in the initial one.
        pub const BOOT_OFFSET_NS: &str = "BOOT_OFFSET_NS";
    }
}

/// Names in the socket filter's object.
pub mod filter {
    /// Socket filter for `SO_ATTACH_BPF` on a proc connector socket.
    pub const PROGRAM: &str = "connector_filter";
    /// Hash: tgid in the initial pid namespace (`u32`) to a `u32` that nobody reads.
    pub const MAP_WATCHED: &str = "watched";
    /// Entries of the map unless the loader says otherwise.
    pub const DEFAULT_WATCHED: u32 = 131_072;

    /// Globals of the filter.
    pub mod globals {
        /// `u32`: the daemon's own tgid, whose exits always pass; 0 is nobody.
        pub const CANARY_TGID: &str = "CANARY_TGID";
    }
}
