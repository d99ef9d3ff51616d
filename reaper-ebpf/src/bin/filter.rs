//! The socket filter of the process connector: drops exits of unwatched processes in the kernel, before
//! they use buffer space or wake the daemon.
//!
//! It passes acknowledgements, every thread exit of a watched process (the last one may not be the
//! leader's) and of the daemon, and messages that are too short: the parser refuses those.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(unsafe_code, reason = "maps and the names that the loader looks for")
)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::{
        Global,
        bindings::BPF_F_NO_PREALLOC,
        macros::{map, socket_filter},
        maps::HashMap,
        programs::SkBuffContext,
    };
    use reaper_ebpf::filter;

    #[unsafe(no_mangle)]
    static CANARY_TGID: Global<u32> = Global::new(0);

    #[map(name = "watched")]
    static WATCHED: HashMap<u32, u32> =
        HashMap::with_max_entries(filter::DEFAULT_WATCHED, BPF_F_NO_PREALLOC);

    /// Offsets in a datagram: netlink header (16 bytes), connector header (20), `struct proc_event` [1].
    /// Its fields are in native byte order.
    ///
    /// [1]: <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/cn_proc.h#L71>
    const WHAT: usize = 36;
    const EXIT_TGID: usize = 56;

    const ACK: u32 = 0;
    const EXIT: u32 = 0x8000_0000;

    /// How many bytes of the datagram to keep: all or none.
    const PASS: i64 = u32::MAX as i64;
    const DROP: i64 = 0;

    #[socket_filter]
    fn connector_filter(ctx: SkBuffContext) -> i64 {
        let Ok(what) = ctx.load::<u32>(WHAT) else {
            return PASS;
        };
        match what {
            ACK => PASS,
            EXIT => {
                let Ok(tgid) = ctx.load::<u32>(EXIT_TGID) else {
                    return PASS;
                };
                // The value is not read, so it does not matter if its memory is reused meanwhile.
                let watched = WATCHED.get_ptr(tgid).is_some();
                if watched || tgid == CANARY_TGID.load() {
                    PASS
                } else {
                    DROP
                }
            }
            _ => DROP,
        }
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
