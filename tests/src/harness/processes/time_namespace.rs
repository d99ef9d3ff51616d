//! Runs a program in a new time namespace. Only children of the process that creates the namespace are
//! in it, so a separate process creates it, starts the program and waits for its end. The `unshare` of
//! busybox cannot do this.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode};

use rustix::time::{ClockId, clock_gettime};

use crate::sys;

/// The subcommand whose arguments [`enter`] takes.
pub const COMMAND: &str = "time-namespace";

const NANOS_PER_SECOND: i64 = 1_000_000_000;

/// What the namespace adds to the host's clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    pub monotonic_ns: i64,
    pub boottime_ns: i64,
}

impl Offsets {
    /// Both clocks are ahead, each by its own offset.
    pub const AHEAD: Self = Self {
        monotonic_ns: 1_000 * NANOS_PER_SECOND,
        boottime_ns: 2_000 * NANOS_PER_SECOND,
    };

    /// Both clocks are behind, each by its own offset. A clock cannot be set to a negative time, so the
    /// offsets depend on the uptime.
    pub fn behind() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        let now_ns = now.tv_sec * NANOS_PER_SECOND + now.tv_nsec;
        Self {
            monotonic_ns: -now_ns / 2,
            boottime_ns: -now_ns / 4,
        }
    }

    /// Each combination of a clock ahead and a clock behind.
    pub fn all() -> [Self; 4] {
        let (ahead, behind) = (Self::AHEAD, Self::behind());
        let mixed = |monotonic: Self, boottime: Self| Self {
            monotonic_ns: monotonic.monotonic_ns,
            boottime_ns: boottime.boottime_ns,
        };
        [ahead, behind, mixed(ahead, behind), mixed(behind, ahead)]
    }

    /// A command prefix that runs a program with these; `entry` is the program that calls [`enter`].
    pub fn through(self, entry: &Path) -> [String; 4] {
        [
            entry.display().to_string(),
            COMMAND.to_owned(),
            self.monotonic_ns.to_string(),
            self.boottime_ns.to_string(),
        ]
    }

    /// Starts the program in a new namespace with these. Needs `CAP_SYS_ADMIN` and Linux 5.6. Later
    /// children of this thread are in that namespace, too.
    pub fn spawn(self, program: &mut Command) -> io::Result<Child> {
        sys::unshare_time()?;
        fs::write("/proc/self/timens_offsets", self.to_string())?;
        // Setting the user makes the standard library fork. Otherwise it shares memory with the child,
        // which kernels before commit 2b5f9dad32ed refuse (EINVAL).
        program.uid(rustix::process::geteuid().as_raw()).spawn()
    }
}

/// As the kernel parses it: nanoseconds are never negative.
impl fmt::Display for Offsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clocks = [
            ("monotonic", self.monotonic_ns),
            ("boottime", self.boottime_ns),
        ];
        for (clock, offset_ns) in clocks {
            let seconds = offset_ns.div_euclid(NANOS_PER_SECOND);
            let nanos = offset_ns.rem_euclid(NANOS_PER_SECOND);
            writeln!(f, "{clock} {seconds} {nanos}")?;
        }
        Ok(())
    }
}

/// `MONOTONIC_NS BOOTTIME_NS PROGRAM ARGS..`: runs the program to its end.
pub fn enter(mut arguments: impl Iterator<Item = String>) -> io::Result<ExitCode> {
    let usage = || io::Error::other("MONOTONIC_NS BOOTTIME_NS PROGRAM ARGS..");
    let mut number = || arguments.next()?.parse().ok();
    let offsets = Offsets {
        monotonic_ns: number().ok_or_else(usage)?,
        boottime_ns: number().ok_or_else(usage)?,
    };
    let program = arguments.next().ok_or_else(usage)?;
    let ended = offsets
        .spawn(Command::new(program).args(arguments))?
        .wait()?;
    let code = ended.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_written_as_the_kernel_reads_them() {
        let offsets = Offsets {
            monotonic_ns: -1,
            boottime_ns: 2_500_000_000,
        };
        let expected = "monotonic -1 999999999\nboottime 2 500000000\n";
        assert_eq!(offsets.to_string(), expected);
    }
}
