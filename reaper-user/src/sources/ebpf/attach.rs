//! Loads the probe with aya and attaches it, and describes the errors of kernels that refuse it. The
//! result is descriptors: another process than the one that uses them may have opened them.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::Map;
use aya::programs::{BtfTracePoint, ProgramError, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use reaper_ebpf::{objects, probe};
use rustix::thread::{CapabilitySet, capabilities};

use super::btf;
use crate::sources::{SourceError, namespaces};

/// Before 5.11 BPF maps count against the limit of locked memory.
const GRANT: &str = "give the daemon CAP_BPF and CAP_PERFMON (setcap, or AmbientCapabilities= \
     under systemd), and before Linux 5.11 unlimited locked memory (LimitMEMLOCK=infinity)";

/// An attached probe as descriptors, which another process may have opened.
pub(crate) struct Attached {
    pub(crate) watched: OwnedFd,
    pub(crate) wakeups: OwnedFd,
    pub(crate) counters: OwnedFd,
    pub(crate) program: OwnedFd,
    pub(crate) variant: Variant,
    /// Dropping it detaches the probe.
    pub(crate) attachment: Box<dyn Send>,
}

/// Which of the two hooks is attached.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(crate) enum Variant {
    BtfTracepoint = 1,
    ClassicTracepoint = 2,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BtfTracepoint => "BTF tracepoint",
            Self::ClassicTracepoint => "classic tracepoint",
        })
    }
}

impl Attached {
    /// Loads and attaches, with a ring of this size. Threads of the thread group `own` are canaries.
    /// Blocks for tens of milliseconds.
    pub(crate) fn attach(
        wakeup_bytes: u32,
        own: u32,
        boot_offset_ns: u64,
    ) -> Result<Self, SourceError> {
        namespaces::must_see_initial_pids()?;
        let blob = fs::read(btf::VMLINUX).map_err(|error| {
            SourceError::new(
                format!("{} cannot be read: {error}", btf::VMLINUX),
                "run a kernel with CONFIG_DEBUG_INFO_BTF",
            )
        })?;
        let offsets = btf::offsets(&blob).map_err(|error| {
            SourceError::new(format!("this kernel's types cannot be read: {error}"), "")
        })?;
        let mut loader = EbpfLoader::new();
        for (name, offset) in &offsets {
            loader.override_global(name, offset, true);
        }
        let mut object = loader
            .override_global(probe::globals::CANARY_TGID, &own, true)
            .override_global(probe::globals::BOOT_OFFSET_NS, &boot_offset_ns, true)
            .map_max_entries(probe::MAP_WAKEUPS, wakeup_bytes)
            .load(objects::PROBE)
            .map_err(|error| refused(&error))?;
        let (variant, program) = match attach_btf(&mut object) {
            Ok(program) => (Variant::BtfTracepoint, program),
            // The first error is more informative than the second.
            Err(first) => attach_classic(&mut object)
                .map(|program| (Variant::ClassicTracepoint, program))
                .map_err(|_second| first)?,
        };
        Ok(Self {
            watched: take_map(&mut object, probe::MAP_WATCHED)?,
            wakeups: take_map(&mut object, probe::MAP_WAKEUPS)?,
            counters: take_map(&mut object, probe::MAP_COUNTERS)?,
            program,
            variant,
            attachment: Box::new(object),
        })
    }
}

fn attach_btf(ebpf: &mut Ebpf) -> Result<OwnedFd, SourceError> {
    let kernel = Btf::from_sys_fs().map_err(|error| refused(&error))?;
    let program: &mut BtfTracePoint = program(ebpf, probe::PROGRAM_BTF)?;
    program
        .load(probe::TRACEPOINT, &kernel)
        .map_err(|error| refused(&error))?;
    program.attach().map_err(|error| refused(&error))?;
    duplicate(program.fd().map_err(|error| refused(&error))?)
}

fn attach_classic(ebpf: &mut Ebpf) -> Result<OwnedFd, SourceError> {
    let program: &mut TracePoint = program(ebpf, probe::PROGRAM_CLASSIC)?;
    program.load().map_err(|error| refused(&error))?;
    program
        .attach(probe::TRACEPOINT_CATEGORY, probe::TRACEPOINT)
        .map_err(|error| refused(&error))?;
    duplicate(program.fd().map_err(|error| refused(&error))?)
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, SourceError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    ebpf.program_mut(name)
        .ok_or_else(|| incomplete(name))?
        .try_into()
        .map_err(|error: ProgramError| refused(&error))
}

fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<OwnedFd, SourceError> {
    match ebpf.take_map(name) {
        Some(Map::HashMap(map) | Map::RingBuf(map) | Map::PerCpuArray(map)) => duplicate(map.fd()),
        _ => Err(incomplete(name)),
    }
}

fn duplicate(fd: impl AsFd) -> Result<OwnedFd, SourceError> {
    let duplicate = fd.as_fd().try_clone_to_owned();
    duplicate.map_err(|error| refused(&error))
}

fn incomplete(name: &str) -> SourceError {
    SourceError::new(
        format!("the built object lacks {name}"),
        "rebuild it: cargo xtask build-ebpf",
    )
}

/// Describes a refusal: what was tried, and the kernel's error number.
pub(super) fn refused(error: &(dyn std::error::Error + 'static)) -> SourceError {
    let mut text = error.to_string();
    let mut errno = None;
    let mut at_load = false;
    let mut cause = Some(error);
    while let Some(error) = cause {
        errno = errno.or(error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error));
        at_load |= matches!(error.downcast_ref(), Some(ProgramError::LoadError { .. }));
        // Some errors include the text of their cause, others do not.
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    // The verifier's log can be long, and its first line has the reason.
    let text = without_map_name(text.lines().next().unwrap_or_default());
    let text = text.as_str();
    match errno {
        Some(libc::EPERM | libc::EACCES) if in_confidentiality_lockdown() => SourceError::new(
            format!("kernel lockdown (confidentiality) forbids it: {text}"),
            "boot without lockdown=confidentiality",
        ),
        Some(errno) => refused_with(errno, at_load, lacks_capabilities(), text),
        None => SourceError::new(text, ""),
    }
}

/// Maps are created in a random order. Without the name of the first one, a source that is refused
/// again has the same reason, which is no event.
fn without_map_name(text: &str) -> String {
    let names = [probe::MAP_WATCHED, probe::MAP_WAKEUPS, probe::MAP_COUNTERS];
    names.iter().fold(text.to_owned(), |text, name| {
        text.replace(&format!(" `{name}`"), "")
    })
}

/// The kernel returns EPERM for a missing capability. The verifier returns EACCES for a program
/// that it rejects, and then no capability helps. Files of tracefs return EACCES too.
fn refused_with(errno: i32, at_load: bool, lacks_capabilities: bool, text: &str) -> SourceError {
    match errno {
        libc::EACCES if at_load && !lacks_capabilities => SourceError::new(
            format!("this kernel refuses the program: {text}"),
            "report it with the kernel's version; the other sources do without the probe",
        ),
        libc::EPERM | libc::EACCES => SourceError::new(format!("not permitted: {text}"), GRANT),
        _ => SourceError::new(text, ""),
    }
}

/// Returns whether we are known to lack what the probe needs. `CAP_SYS_ADMIN` includes both.
fn lacks_capabilities() -> bool {
    let needed = CapabilitySet::BPF | CapabilitySet::PERFMON;
    capabilities(None).is_ok_and(|held| {
        !held.effective.contains(needed) && !held.effective.contains(CapabilitySet::SYS_ADMIN)
    })
}

fn in_confidentiality_lockdown() -> bool {
    fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|modes| modes.contains("[confidentiality]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_does_not_name_the_map_that_was_created_first() {
        let reason = |map: &str| without_map_name(&format!("failed to create map `{map}`: EPERM"));
        assert_eq!(reason(probe::MAP_WATCHED), "failed to create map: EPERM");
        assert_eq!(reason(probe::MAP_WATCHED), reason(probe::MAP_WAKEUPS));
    }

    #[test]
    fn a_missing_capability_is_distinguished_from_a_rejected_program() {
        for (errno, at_load, lacks_capabilities, words, grants) in [
            (libc::EPERM, true, true, "not permitted", true),
            // The limit of locked memory, before 5.11.
            (libc::EPERM, false, false, "not permitted", true),
            (libc::EACCES, true, true, "not permitted", true),
            (libc::EACCES, false, false, "not permitted", true),
            (libc::EACCES, true, false, "refuses the program", false),
            (libc::EINVAL, true, true, "the call", false),
        ] {
            let error = refused_with(errno, at_load, lacks_capabilities, "the call");
            assert!(error.reason.contains(words), "{errno}: {error}");
            assert_eq!(error.remedy == GRANT, grants, "{errno}: {}", error.remedy);
        }
    }
}
