//! Files of other processes in `/proc` that only some may open or read. A process without the right
//! to them may have another one that opens them for it.

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;

use reaper_registry::Pid;
use rustix::io::Errno;
use rustix::process::test_kill_process;

pub(crate) use super::linux_table::RECORD_MAX;
use super::linux_table::may_read_status;
use super::own_proc;

/// A file of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum ProcFile {
    /// Hidden by the option `hidepid` of the mount.
    Stat = 1,
    /// Hidden by the same.
    Status = 2,
    /// Needs the right to trace the process.
    PidNamespace = 3,
}

impl ProcFile {
    pub(crate) const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Stat),
            2 => Some(Self::Status),
            3 => Some(Self::PidNamespace),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Stat => "stat",
            Self::Status => "status",
            Self::PidNamespace => "ns/pid",
        }
    }
}

/// A record that was read with the rights of its reader.
#[derive(Debug)]
pub(crate) struct Record {
    /// Whether the reader may see the exit status in it. Otherwise that is zero.
    pub(crate) has_status: bool,
    pub(crate) bytes: Vec<u8>,
}

/// Opens and reads files for this process.
pub(crate) trait Deputy: Send + Sync {
    fn open(&self, file: ProcFile, pid: Pid) -> io::Result<OwnedFd>;
    fn read_record(&self, pid: Pid) -> io::Result<Record>;
    /// Returns for each process whether it is known to have memory.
    fn have_memory(&self, pids: &[Pid]) -> io::Result<Vec<bool>>;
}

static DEPUTY: OnceLock<Box<dyn Deputy>> = OnceLock::new();

/// From now on files that this process may not open are opened by the deputy.
pub(crate) fn use_deputy(deputy: impl Deputy + 'static) {
    DEPUTY.get_or_init(|| Box::new(deputy));
}

/// Opens a file, with the deputy's rights if there is one and our own do not suffice.
pub(crate) fn open(file: ProcFile, pid: Pid) -> io::Result<OwnedFd> {
    open_here(file, pid).or_else(|error| open_by_deputy(file, pid, error))
}

/// Opens a file with the deputy's rights. `error` is returned without a deputy, or if the process
/// has gone: then nothing is hidden.
pub(crate) fn open_by_deputy(file: ProcFile, pid: Pid, error: io::Error) -> io::Result<OwnedFd> {
    match DEPUTY.get() {
        Some(deputy) if is_in_use(pid) => deputy.open(file, pid).map_err(|_its_own| error),
        _ => Err(error),
    }
}

/// Returns the record as the deputy reads it; `None` without a deputy, and if it cannot either.
pub(crate) fn record_by_deputy(pid: Pid) -> Option<Record> {
    DEPUTY.get()?.read_record(pid).ok()
}

/// Returns for each process whether it has memory as far as the deputy sees; `None` as above.
pub(crate) fn have_memory_by_deputy(pids: &[Pid]) -> Option<Vec<bool>> {
    DEPUTY.get()?.have_memory(pids).ok()
}

/// Opens a file with our own rights.
pub(crate) fn open_here(file: ProcFile, pid: Pid) -> io::Result<OwnedFd> {
    own_proc::check()?;
    let opened = fs::File::open(format!("/proc/{pid}/{}", file.name()))?;
    Ok(opened.into())
}

/// Reads the record with our own rights.
pub(crate) fn read_record_here(pid: Pid) -> io::Result<Record> {
    let stat = open_here(ProcFile::Stat, pid)?;
    let mut bytes = vec![0; RECORD_MAX];
    let length = fs::File::from(stat).read(&mut bytes)?;
    bytes.truncate(length);
    Ok(Record {
        has_status: may_read_status(Path::new(&format!("/proc/{pid}"))),
        bytes,
    })
}

fn is_in_use(pid: Pid) -> bool {
    let pid = rustix::process::Pid::from_raw(pid.as_raw());
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}
