//! The probe as aya loads it: the object, its maps, and the errors of kernels that refuse it.

use std::collections::{BTreeSet, HashMap as StdHashMap};
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, ProgramError, TracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use reaper_ebpf::{Counter, GroupDeath, WatchEntry, objects, probe};
use reaper_registry::{Pid, ProcessId};
use rustix::thread::{CapabilitySet, capabilities};

use super::btf;
use super::misses::Misses;
use crate::sources::time_namespace::TimeNamespace;
use crate::sources::{SourceError, namespaces};
use crate::watch::set::{Arm, Watched};

/// Before 5.11 BPF maps count against the limit of locked memory.
const GRANT: &str = "give the daemon CAP_BPF and CAP_PERFMON (setcap, or AmbientCapabilities= \
     under systemd), and before Linux 5.11 unlimited locked memory (LimitMEMLOCK=infinity)";

/// An attached probe, in the parts that its source uses.
pub(super) struct Probe {
    pub(super) armed: Arc<Armed>,
    pub(super) wakeup: Wakeup,
    pub(super) counters: Counters,
    pub(super) misses: Misses,
    pub(super) variant: Variant,
    /// Program and link. Dropping it detaches.
    pub(super) program: Ebpf,
}

/// Which of the two hooks is attached.
#[derive(Clone, Copy)]
pub(super) enum Variant {
    BtfTracepoint,
    ClassicTracepoint,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BtfTracepoint => "BTF tracepoint",
            Self::ClassicTracepoint => "classic tracepoint",
        })
    }
}

impl Probe {
    /// Loads and attaches. Blocks for tens of milliseconds.
    pub(super) fn attach(wakeup_bytes: u32, clocks: TimeNamespace) -> Result<Self, SourceError> {
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
        let ourselves = std::process::id();
        let mut program = loader
            .override_global(probe::globals::CANARY_TGID, &ourselves, true)
            .override_global(
                probe::globals::BOOT_OFFSET_NS,
                &clocks.boot_offset_ns(),
                true,
            )
            .map_max_entries(probe::MAP_WAKEUPS, wakeup_bytes)
            .load(objects::PROBE)
            .map_err(|error| refused(&error))?;
        let (variant, misses) = match attach_btf(&mut program) {
            Ok(misses) => (Variant::BtfTracepoint, misses),
            // The first error is more informative than the second.
            Err(first) => attach_classic(&mut program)
                .map(|misses| (Variant::ClassicTracepoint, misses))
                .map_err(|_second| first)?,
        };
        let watched = take_map(&mut program, probe::MAP_WATCHED)?;
        let wakeup = take_map(&mut program, probe::MAP_WAKEUPS)?;
        let counters = take_map(&mut program, probe::MAP_COUNTERS)?;
        Ok(Self {
            armed: Arc::new(Armed(Mutex::new(ArmedState {
                map: HashMap::try_from(watched).map_err(|error| refused(&error))?,
                owners: StdHashMap::new(),
                refused: BTreeSet::new(),
            }))),
            wakeup: Wakeup(RingBuf::try_from(wakeup).map_err(|error| refused(&error))?),
            counters: Counters(PerCpuArray::try_from(counters).map_err(|error| refused(&error))?),
            misses,
            variant,
            program,
        })
    }
}

fn attach_btf(ebpf: &mut Ebpf) -> Result<Misses, SourceError> {
    let kernel = Btf::from_sys_fs().map_err(|error| refused(&error))?;
    let program: &mut BtfTracePoint = program(ebpf, probe::PROGRAM_BTF)?;
    program
        .load(probe::TRACEPOINT, &kernel)
        .map_err(|error| refused(&error))?;
    program.attach().map_err(|error| refused(&error))?;
    Misses::of(program.fd().map_err(|error| refused(&error))?).map_err(|error| refused(&error))
}

fn attach_classic(ebpf: &mut Ebpf) -> Result<Misses, SourceError> {
    let program: &mut TracePoint = program(ebpf, probe::PROGRAM_CLASSIC)?;
    program.load().map_err(|error| refused(&error))?;
    program
        .attach(probe::TRACEPOINT_CATEGORY, probe::TRACEPOINT)
        .map_err(|error| refused(&error))?;
    Misses::of(program.fd().map_err(|error| refused(&error))?).map_err(|error| refused(&error))
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

fn take_map(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map, SourceError> {
    ebpf.take_map(name).ok_or_else(|| incomplete(name))
}

fn incomplete(name: &str) -> SourceError {
    SourceError::new(
        format!("the built object lacks {name}"),
        "rebuild it: cargo xtask build-ebpf",
    )
}

/// Describes a refusal: what was tried, and the kernel's error number.
fn refused(error: &(dyn std::error::Error + 'static)) -> SourceError {
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

/// The watch map, and the processes for which each pid is armed. A pid can be armed for a successor
/// while its predecessor is still being removed.
pub(super) struct Armed(Mutex<ArmedState>);

struct ArmedState {
    map: HashMap<MapData, u32, [u8; WatchEntry::SIZE]>,
    /// Per pid, in the order of arming. The map has the entry of the last.
    owners: StdHashMap<u32, Vec<Owner>>,
    /// Pids whose entry the map did not take.
    refused: BTreeSet<u32>,
}

struct Owner {
    process: ProcessId,
    start_ticks: u64,
}

impl Owner {
    fn of(watched: &Watched) -> Self {
        Self {
            process: watched.id,
            // Without a start time nothing can be marked dead, but the wake-up is sent all the
            // same.
            start_ticks: watched.start_time().map_or(0, |start_time| start_time.0),
        }
    }
}

impl Armed {
    /// Returns the death that the probe has marked under this pid.
    pub(super) fn death_of(&self, pid: Pid) -> Option<GroupDeath> {
        let value = self.state().map.get(&pid.get(), 0).ok()?;
        WatchEntry::from_bytes(&value)?.death(pid.get())
    }

    /// Returns how many processes the map did not take.
    pub(super) fn refused(&self) -> usize {
        self.state().refused.len()
    }

    /// Retries the processes that the map did not take. Returns the pids that are in it now. Their
    /// processes must be checked, because the probe has not watched them until now.
    pub(super) fn retry(&self) -> Vec<u32> {
        let mut state = self.state();
        let refused = std::mem::take(&mut state.refused);
        refused
            .into_iter()
            .filter(|tgid| state.put_last(*tgid))
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, ArmedState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ArmedState {
    /// Puts the last owner's entry into the map. Returns whether the map took it; [`Armed::retry`]
    /// retries.
    fn put_last(&mut self, tgid: u32) -> bool {
        let Some(last) = self.owners.get(&tgid).and_then(|owners| owners.last()) else {
            return false;
        };
        let entry = WatchEntry::watching(last.start_ticks).to_bytes();
        match self.map.insert(tgid, entry, 0) {
            Ok(()) => {
                self.refused.remove(&tgid);
                true
            }
            Err(error) => {
                log::debug!("pid {tgid} is not seen by the probe: {error}");
                self.refused.insert(tgid);
                false
            }
        }
    }
}

impl Arm for Armed {
    fn arm(&self, watched: &Watched) {
        let owner = Owner::of(watched);
        let mut state = self.state();
        let tgid = watched.pid.get();
        let owners = state.owners.entry(tgid).or_default();
        match owners
            .iter_mut()
            .find(|other| other.process == owner.process)
        {
            // Armed already: writing the same entry again would erase a mark.
            Some(known) if known.start_ticks == owner.start_ticks => return,
            Some(known) => *known = owner,
            None => owners.push(owner),
        }
        state.put_last(tgid);
    }

    fn disarm(&self, watched: &Watched) {
        let mut state = self.state();
        let tgid = watched.pid.get();
        let Some(owners) = state.owners.get_mut(&tgid) else {
            return;
        };
        let was_last = owners
            .last()
            .is_some_and(|owner| owner.process == watched.id);
        owners.retain(|owner| owner.process != watched.id);
        if owners.is_empty() {
            state.owners.remove(&tgid);
            state.refused.remove(&tgid);
            if let Err(error) = state.map.remove(&tgid) {
                log::debug!("pid {tgid} was not in the watch map: {error}");
            }
        } else if was_last {
            state.put_last(tgid);
        }
    }
}

/// The ring buffer.
pub(super) struct Wakeup(RingBuf<MapData>);

impl Wakeup {
    /// Returns the next record, without waiting.
    pub(super) fn next(&mut self) -> Option<GroupDeath> {
        loop {
            let record = GroupDeath::from_bytes(&self.0.next()?);
            // The probe writes no records of another length.
            if record.is_some() {
                return record;
            }
        }
    }

    /// Returns a descriptor that becomes readable when the probe wakes us.
    pub(super) fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }
}

/// The probe's counters.
pub(super) struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    /// Returns the sum over all CPUs; it only rises.
    pub(super) fn read(&self, counter: Counter) -> io::Result<u64> {
        let per_cpu = self.0.get(&counter.index(), 0).map_err(io::Error::other)?;
        Ok(per_cpu.iter().sum())
    }
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
