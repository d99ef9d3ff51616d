//! The exit probe: marks a watched process as dead in the watch map, then wakes the daemon through the
//! ring buffer.
//!
//! It makes no decision and has no access to sessions. The exit of a thread of an unwatched process costs
//! three loads, and one hash look-up if it is the last one; it never wakes the daemon. Nor does the exit of
//! a thread of a watched process while another thread remains.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        unsafe_code,
        reason = "kernel memory, maps and the names that the loader looks for"
    )
)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        Global,
        bindings::BPF_F_NO_PREALLOC,
        helpers::{bpf_get_current_task, bpf_ktime_get_ns, bpf_probe_read_kernel},
        macros::{btf_tracepoint, map, tracepoint},
        maps::{HashMap, PerCpuArray, RingBuf},
        programs::{BtfTracePointContext, TracePointContext},
    };
    use reaper_ebpf::{COUNTERS, Counter, GroupDeath, NS_PER_TICK, WatchEntry, probe};

    // Offsets in bytes. Read-only and frozen before the program is verified, so that they are constants
    // to the verifier, which therefore accepts a plain load at "pointer to task + offset".
    #[unsafe(no_mangle)]
    static TASK_SIGNAL: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_GROUP_LEADER: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_TGID: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_EXIT_CODE: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static TASK_START_BOOTTIME: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static SIGNAL_LIVE: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static SIGNAL_FLAGS: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static SIGNAL_GROUP_EXIT_CODE: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static CANARY_TGID: Global<u32> = Global::new(0);
    #[unsafe(no_mangle)]
    static BOOT_OFFSET_NS: Global<u64> = Global::new(0);

    // Not preallocated, so that kernel memory is used only for existing sessions. The programs change
    // values in place only, so they never allocate.
    #[map(name = "watched")]
    static WATCHED: HashMap<u32, WatchEntry> =
        HashMap::with_max_entries(probe::DEFAULT_WATCHED, BPF_F_NO_PREALLOC);
    #[map(name = "wakeups")]
    static WAKEUPS: RingBuf = RingBuf::with_byte_size(probe::DEFAULT_WAKEUP_BYTES, 0);
    #[map(name = "counters")]
    static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

    /// The bit of `signal->flags` that makes `group_exit_code` valid. The same since Linux 2.6 [1].
    ///
    /// [1]: <https://github.com/torvalds/linux/blob/v6.12/include/linux/sched/signal.h#L255>
    const SIGNAL_GROUP_EXIT: u32 = 4;

    #[btf_tracepoint(function = "sched_process_exit")]
    fn exit_btf(ctx: BtfTracePointContext) -> i32 {
        // Argument 0 only: the second one exists since Linux 6.16; before that, reading it is refused.
        on_exit::<Direct>(ctx.arg::<*const u8>(0));
        0
    }

    #[tracepoint(category = "sched", name = "sched_process_exit")]
    fn exit_classic(_: TracePointContext) -> u32 {
        // SAFETY: takes nothing and returns the current task, which is the one that exits.
        let task = unsafe { bpf_get_current_task() };
        on_exit::<ByHelper>(task as *const u8);
        0
    }

    /// How a program reads kernel memory.
    trait KernelMemory {
        /// Reads the `T` at `offset` of the kernel structure `base`. A bad address yields 0 or `None`,
        /// never a fault.
        unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> Option<T>;
    }

    /// Typed loads, checked by the verifier. They need no helper and are allowed under lockdown.
    struct Direct;

    impl KernelMemory for Direct {
        #[inline(always)]
        unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> Option<T> {
            // SAFETY: by the caller's promise; volatile, so that it stays one load at this place.
            Some(unsafe { base.add(offset as usize).cast::<T>().read_volatile() })
        }
    }

    struct ByHelper;

    impl KernelMemory for ByHelper {
        #[inline(always)]
        unsafe fn read<T: Copy>(base: *const u8, offset: u32) -> Option<T> {
            // SAFETY: the helper copes with any address.
            unsafe { bpf_probe_read_kernel(base.add(offset as usize).cast::<T>()) }.ok()
        }
    }

    /// Returns `None` if there was nothing to do.
    #[inline(always)]
    fn on_exit<M: KernelMemory>(task: *const u8) -> Option<()> {
        // SAFETY: `task` is the exiting task and the offset is tgid's.
        let tgid: u32 = unsafe { M::read(task, TASK_TGID.load()) }?;
        if tgid == CANARY_TGID.load() {
            count(Counter::Canary);
        }
        // SAFETY: `task` is the exiting task, which keeps its signal_struct until it is released.
        let signal: *const u8 = unsafe { M::read(task, TASK_SIGNAL.load()) }?;
        // SAFETY: `signal` is its signal_struct; `live` is an atomic_t, one int.
        let live: i32 = unsafe { M::read(signal, SIGNAL_LIVE.load()) }?;
        if live != 0 {
            return None;
        }
        let entry = WATCHED.get_ptr_mut(tgid)?;
        let death = describe::<M>(task, signal, tgid)?;
        if mark(entry, &death) {
            ring(&death);
        }
        Some(())
    }

    #[inline(always)]
    fn describe<M: KernelMemory>(
        task: *const u8,
        signal: *const u8,
        tgid: u32,
    ) -> Option<GroupDeath> {
        // SAFETY: `task` is the exiting task, whose leader stays until the whole group is released.
        let leader: *const u8 = unsafe { M::read(task, TASK_GROUP_LEADER.load()) }?;
        // The leader's start time, because every thread has a different one.
        // SAFETY: `leader` is a task.
        let start_ns: u64 = unsafe { M::read(leader, TASK_START_BOOTTIME.load()) }?;
        // SAFETY: `signal` is a signal_struct.
        let flags: u32 = unsafe { M::read(signal, SIGNAL_FLAGS.load()) }?;
        // Load both, then choose: from a load in each branch the compiler makes a single load from a chosen
        // pointer, which verifiers up to at least Linux 6.1 refuse.
        // SAFETY: `signal` is a signal_struct.
        let of_group: i32 = unsafe { M::read(signal, SIGNAL_GROUP_EXIT_CODE.load()) }?;
        // SAFETY: `leader` is a task.
        let of_leader: i32 = unsafe { M::read(leader, TASK_EXIT_CODE.load()) }?;
        let exit_code = if flags & SIGNAL_GROUP_EXIT != 0 {
            of_group
        } else {
            of_leader
        };
        Some(GroupDeath {
            tgid,
            exit_code,
            start_ticks: start_ns.wrapping_add(BOOT_OFFSET_NS.load()) / NS_PER_TICK,
            // SAFETY: the helper takes nothing.
            died_at_ns: unsafe { bpf_ktime_get_ns() },
        })
    }

    /// Marks the entry. Returns whether to wake the daemon: not twice for one death, which the last two
    /// threads both see if they exit together.
    #[inline(always)]
    fn mark(entry: *mut WatchEntry, death: &GroupDeath) -> bool {
        // SAFETY: a map value is valid until the program returns, even if it is deleted meanwhile.
        let seen = unsafe { entry.read_volatile() };
        if seen.start_ticks != death.start_ticks {
            count(Counter::Mismatched);
            return true;
        }
        if seen.death(death.tgid).is_some() {
            return false;
        }
        // The mark is written last, and readers copy it before the fields behind it: a copy that contains
        // the mark contains the rest.
        // SAFETY: as above; the only other writers are another last thread, with the same values, and a
        // late one for another process, which leaves a mark that does not match.
        unsafe { (&raw mut (*entry).marked_at_ns).write_volatile(death.died_at_ns) };
        // SAFETY: as above.
        unsafe { (&raw mut (*entry).marked_start_ticks).write_volatile(death.start_ticks) };
        let mark = WatchEntry::mark_of(death.tgid, death.exit_code);
        // SAFETY: as above.
        unsafe { (&raw mut (*entry).mark).write_volatile(mark) };
        count(Counter::Marked);
        true
    }

    #[inline(always)]
    fn ring(death: &GroupDeath) {
        if push(death) {
            return;
        }
        // Counted before the second try: if that fails too, the ring was full after the increase, so the
        // daemon drains the ring after the increase and reads it.
        count(Counter::RingFull);
        push(death);
    }

    #[inline(always)]
    fn push(death: &GroupDeath) -> bool {
        let Some(mut slot) = WAKEUPS.reserve::<GroupDeath>(0) else {
            return false;
        };
        slot.write(*death);
        slot.submit(0);
        true
    }

    #[inline(always)]
    fn count(counter: Counter) {
        let Some(slot) = COUNTS.get_ptr_mut(counter.index()) else {
            return;
        };
        // Not atomic: the slot belongs to this CPU, on which the program runs only once at a time.
        // SAFETY: an aligned u64 in a map that lives as long as the program.
        let seen = unsafe { slot.read_volatile() };
        // SAFETY: as above.
        unsafe { slot.write_volatile(seen.wrapping_add(1)) };
    }

    /// The kernel allows typed loads to GPL-compatible programs only, and has no name for the licence
    /// "MIT OR Apache-2.0".
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
