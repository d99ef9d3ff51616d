//! The filter as an eBPF program with a map of thread groups: exact at any size, and an addition
//! costs one system call instead of a new program. Needs `CAP_BPF` only.

use std::collections::HashMap as StdHashMap;
use std::convert::Infallible;
use std::error::Error;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use aya::EbpfLoader;
use aya::maps::{HashMap, Map, MapData};
use aya::programs::SocketFilter;
use reaper_ebpf::{filter, objects};
use reaper_registry::ProcessId;

use super::filter::ExitFilter;
use crate::sys::netlink::ConnectorSocket;

/// The loaded program and its map, as descriptors, which another process may have opened.
pub(crate) struct Loaded {
    pub(crate) program: OwnedFd,
    pub(crate) map: OwnedFd,
}

/// Why there is no such filter.
pub(crate) type Refusal = Box<dyn Error + Send + Sync>;

/// The filter of one run of the source.
pub(super) struct MapFilter {
    program: OwnedFd,
    state: Mutex<State>,
}

struct State {
    map: HashMap<MapData, u32, u32>,
    /// The watched processes under each pid, mostly one.
    processes: StdHashMap<u32, Vec<ProcessId>>,
    /// Weak, so that the filter does not keep the socket open.
    socket: Weak<ConnectorSocket>,
    /// Whether the map has taken every addition. After a failure the socket has no filter.
    complete: bool,
}

impl Loaded {
    /// Loads the program. `own` is a thread group that always passes. Blocks for tens of
    /// milliseconds, in which the loader reads the kernel's types.
    pub(crate) fn load(own: u32) -> Result<Self, Refusal> {
        let mut object = EbpfLoader::new()
            .override_global(filter::globals::CANARY_TGID, &own, true)
            .load(objects::FILTER)?;
        let program: &mut SocketFilter = object
            .program_mut(filter::PROGRAM)
            .ok_or("the built object lacks its program")?
            .try_into()?;
        program.load()?;
        // The program keeps its maps.
        let program = program.fd()?.as_fd().try_clone_to_owned()?;
        match object.map(filter::MAP_WATCHED) {
            Some(Map::HashMap(map)) => Ok(Self {
                program,
                map: map.fd().as_fd().try_clone_to_owned()?,
            }),
            _ => Err("the built object lacks its map".into()),
        }
    }
}

impl MapFilter {
    pub(super) fn new(loaded: Loaded) -> Result<Self, Refusal> {
        let map = Map::HashMap(MapData::from_fd(loaded.map)?);
        let state = State {
            map: HashMap::try_from(map)?,
            processes: StdHashMap::new(),
            socket: Weak::new(),
            complete: true,
        };
        Ok(Self {
            program: loaded.program,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ExitFilter for MapFilter {
    fn install(&self, socket: &Arc<ConnectorSocket>) {
        let mut state = self.state();
        state.socket = Arc::downgrade(socket);
        if !state.complete {
            return;
        }
        if let Err(error) = socket.attach_bpf(self.program.as_fd()) {
            // Each exit of an unwatched process costs a wake-up then, and is dropped here.
            log::warn!("the proc connector's filter is refused: {error}");
            state.complete = false;
        }
    }

    fn add(&self, tgid: u32, process: ProcessId) {
        let mut state = self.state();
        let processes = state.processes.entry(tgid).or_default();
        if processes.contains(&process) {
            return;
        }
        processes.push(process);
        if processes.len() == 1
            && let Err(error) = state.map.insert(tgid, 0, 0)
        {
            log::warn!("pid {tgid} does not fit the filter's map, so all exits pass: {error}");
            state.give_up();
        }
    }

    fn remove(&self, tgid: u32, process: ProcessId) {
        let mut state = self.state();
        let Some(processes) = state.processes.get_mut(&tgid) else {
            return;
        };
        processes.retain(|other| *other != process);
        if processes.is_empty() {
            state.processes.remove(&tgid);
            if let Err(error) = state.map.remove(&tgid) {
                log::debug!("pid {tgid} was not in the filter's map: {error}");
            }
        }
    }

    /// Does nothing: the filter is always exact.
    async fn keep_tidy(&self) -> Infallible {
        std::future::pending().await
    }

    fn describe(&self) -> String {
        let state = self.state();
        let watched = state.processes.len();
        if state.complete {
            format!("eBPF map ({watched} tgids)")
        } else {
            format!("none ({watched} tgids)")
        }
    }
}

impl State {
    /// Detaches the filter: everything passes, so the guarantee of `add` holds for every thread
    /// group.
    fn give_up(&mut self) {
        self.complete = false;
        if let Some(socket) = self.socket.upgrade()
            && let Err(error) = socket.detach_filter()
        {
            log::error!("cannot remove the filter of the proc connector: {error}");
        }
    }
}
