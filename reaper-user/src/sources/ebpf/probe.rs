//! The attached probe: its maps and counters.

use std::collections::{BTreeSet, HashMap as StdHashMap};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf};
use reaper_ebpf::{Counter, GroupDeath, WatchEntry};
use reaper_registry::{Pid, ProcessId};

use super::attach::{Attached, Variant, refused};
use super::misses::Misses;
use crate::sources::SourceError;
use crate::watch::set::{Arm, Watched};

/// An attached probe, in the parts that its source uses.
pub(super) struct Probe {
    pub(super) armed: Arc<Armed>,
    pub(super) wakeup: Wakeup,
    pub(super) counters: Counters,
    pub(super) misses: Misses,
    pub(super) variant: Variant,
    /// Dropping it detaches the probe.
    pub(super) attachment: Box<dyn Send>,
}

impl Probe {
    pub(super) fn new(attached: Attached) -> Result<Self, SourceError> {
        let data = |map| MapData::from_fd(map).map_err(|error| refused(&error));
        let watched = HashMap::try_from(Map::HashMap(data(attached.watched)?));
        let wakeups = RingBuf::try_from(Map::RingBuf(data(attached.wakeups)?));
        let counters = PerCpuArray::try_from(Map::PerCpuArray(data(attached.counters)?));
        Ok(Self {
            armed: Arc::new(Armed(Mutex::new(ArmedState {
                map: watched.map_err(|error| refused(&error))?,
                owners: StdHashMap::new(),
                refused: BTreeSet::new(),
            }))),
            wakeup: Wakeup(wakeups.map_err(|error| refused(&error))?),
            counters: Counters(counters.map_err(|error| refused(&error))?),
            misses: Misses::of(attached.program),
            variant: attached.variant,
            attachment: attached.attachment,
        })
    }
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
