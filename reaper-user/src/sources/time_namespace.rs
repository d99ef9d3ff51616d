//! The time namespace of this process: the offsets of its clocks from the host's. The kernel's
//! events have times on the host's clocks.
//!
//! The kernel keeps two independent offsets, one for `CLOCK_MONOTONIC` and one for
//! `CLOCK_BOOTTIME`. `clock_gettime` adds the first, and field 22 of `/proc/PID/stat` the second
//! (of the reader's namespace). Exit events of the proc connector and `bpf_ktime_get_ns` add
//! neither: see `timens_add_monotonic` and `timens_add_boottime_ns` in
//! [`include/linux/time_namespace.h`]. So every event's time is converted where the event is
//! received, and all other code compares times of one clock.
//!
//! `/proc/PID/timens_offsets` shows the namespace in which *children* of the process are started
//! (`proc_timens_show_offsets` in [`kernel/time/namespace.c`], `time_namespaces(7)`). After
//! `unshare(CLONE_NEWTIME)` that is not the namespace of the process itself.
//!
//! [`include/linux/time_namespace.h`]: https://elixir.bootlin.com/linux/v6.12/source/include/linux/time_namespace.h
//! [`kernel/time/namespace.c`]: https://elixir.bootlin.com/linux/v6.12/source/kernel/time/namespace.c

use std::fs;
use std::os::linux::fs::MetadataExt as _;

use super::SourceError;

/// `PROC_TIME_INIT_INO` of the kernel's `include/linux/proc_ns.h`.
const INITIAL: u64 = 0xEFFF_FFFA;
const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// The offsets that this namespace adds to the host's clocks; both may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TimeNamespace {
    monotonic_ns: i64,
    boottime_ns: i64,
}

impl TimeNamespace {
    /// Reads both offsets. Needs no privilege; kernels before 5.6 have no time namespaces.
    ///
    /// Fails if the process is in a private time namespace and the kernel shows the offsets of
    /// another. A source that depends on the kernel's times cannot work then.
    pub(crate) fn of_this_process() -> Result<Self, SourceError> {
        let inode = |name: &str| {
            let file = fs::metadata(format!("/proc/self/ns/{name}"));
            file.ok().map(|file| file.st_ino())
        };
        let offsets = || fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        Self::of(inode("time"), inode("time_for_children"), offsets)
    }

    /// `own` and `of_children` are the inode numbers of the two namespaces. Without the first, the
    /// kernel has no time namespaces, or there is no `/proc`. In that case no start time can be
    /// read either, and without a start time no time of a death is used.
    fn of(
        own: Option<u64>,
        of_children: Option<u64>,
        offsets: impl FnOnce() -> String,
    ) -> Result<Self, SourceError> {
        if own.is_none_or(|own| own == INITIAL) {
            return Ok(Self::default());
        }
        if own != of_children {
            return Err(SourceError::new(
                "this daemon is in a time namespace of its own, and its children would be in another, \
                 whose clock offsets are the only ones that the kernel shows",
                "start the daemon in the host's time namespace, or as a new process of another one \
                 (unshare --time --fork)",
            ));
        }
        Self::parse(&offsets()).ok_or_else(|| {
            SourceError::new(
                "this daemon is in a time namespace of its own, and /proc/self/timens_offsets does \
                 not show its clock offsets",
                "start the daemon in the host's time namespace",
            )
        })
    }

    /// Parses lines of clock, seconds and nanoseconds. The nanoseconds are never negative: half a
    /// second back is -1 and 500,000,000. Linux 5.6 wrote the clock's number instead of its name.
    fn parse(text: &str) -> Option<Self> {
        let offset_of = |name: &str, id: &str| {
            text.lines().find_map(|line| {
                let mut words = line.split_whitespace();
                words.next().filter(|word| [name, id].contains(word))?;
                let mut number = || words.next()?.parse::<i64>().ok();
                let seconds = number()?;
                seconds
                    .checked_mul(NANOS_PER_SECOND)?
                    .checked_add(number()?)
            })
        };
        Some(Self {
            monotonic_ns: offset_of("monotonic", "1")?,
            boottime_ns: offset_of("boottime", "7")?,
        })
    }

    /// Converts a time on the host's `CLOCK_MONOTONIC` to this process's clock.
    pub(crate) const fn own_monotonic(self, host_ns: u64) -> u64 {
        host_ns.saturating_add_signed(self.monotonic_ns)
    }

    /// Returns the offset to add to boot times, in two's complement, as the kernel does before it
    /// shows a start time.
    #[cfg_attr(
        not(any(test, feature = "ebpf")),
        expect(dead_code, reason = "only the probe has times on the boot clock")
    )]
    pub(crate) const fn boot_offset_ns(self) -> u64 {
        self.boottime_ns.cast_unsigned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u64 = 4_026_532_700;
    const OTHER: u64 = 4_026_532_701;

    fn of(
        own: impl Into<Option<u64>>,
        of_children: u64,
        text: &str,
    ) -> Result<TimeNamespace, SourceError> {
        TimeNamespace::of(own.into(), Some(of_children), || text.to_owned())
    }

    #[test]
    fn both_offsets_are_read_whatever_their_signs() {
        for (text, monotonic_ns, boottime_ns) in [
            (
                "monotonic           0         0\nboottime            0         0\n",
                0,
                0,
            ),
            (
                "monotonic        1000         0\nboottime         2000         5\n",
                1_000_000_000_000,
                2_000_000_000_005,
            ),
            (
                "monotonic         -50         0\nboottime          -20         0\n",
                -50_000_000_000,
                -20_000_000_000,
            ),
            (
                "monotonic          -1 500000000\nboottime         1000         0\n",
                -500_000_000,
                1_000_000_000_000,
            ),
            // As 5.6 wrote them.
            ("1 -3 0\n7 4 1\n", -3_000_000_000, 4_000_000_001),
        ] {
            let expected = TimeNamespace {
                monotonic_ns,
                boottime_ns,
            };
            assert_eq!(of(OWN, OWN, text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn the_initial_namespace_has_no_offsets() {
        let shown = "monotonic 1000 0\nboottime 2000 0\n";
        let none = TimeNamespace::default();
        assert_eq!(of(INITIAL, OWN, shown).unwrap(), none);
        assert_eq!(of(INITIAL, INITIAL, "").unwrap(), none);
        assert_eq!(of(None, OWN, shown).unwrap(), none);
    }

    #[test]
    fn missing_offsets_are_an_error_and_not_zero() {
        let shown = "monotonic 1000 0\nboottime 2000 0\n";
        let of_another = of(OWN, OTHER, shown).unwrap_err();
        assert!(of_another.reason.contains("its children"), "{of_another}");
        assert!(of_another.remedy.contains("--fork"));
        let halves = [
            "",
            "monotonic 1 0\n",
            "boottime 1 0\n",
            "monotonic x 0\nboottime 1 0\n",
            "monotonic 1\nboottime 1 0\n",
            "monotonic 9223372036854775807 0\nboottime 1 0\n",
        ];
        for text in halves {
            let unread = of(OWN, OWN, text).unwrap_err();
            assert!(unread.reason.contains("timens_offsets"), "{text}: {unread}");
            assert!(!unread.remedy.is_empty());
        }
    }

    #[test]
    fn a_host_time_is_converted_to_our_clock() {
        let ahead = of(OWN, OWN, "monotonic 1000 0\nboottime -20 0\n").unwrap();
        assert_eq!(ahead.own_monotonic(7), 1_000_000_000_007);
        assert_eq!(ahead.boot_offset_ns(), u64::MAX - 20_000_000_000 + 1);
        let behind = of(OWN, OWN, "monotonic -1 999999999\nboottime 0 0\n").unwrap();
        assert_eq!(behind.own_monotonic(7), 6);
        assert_eq!(behind.own_monotonic(0), 0);
    }
}
