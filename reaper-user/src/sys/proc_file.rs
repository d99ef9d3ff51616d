//! Files of other processes in `/proc` that only some may open or read. A process without the right
//! to them may have another one that opens them for it.

use std::fs;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::OnceLock;

use reaper_registry::{Pid, StartTime};
use rustix::io::Errno;
use rustix::process::test_kill_process;

use super::linux_table::{RECORD_MAX, may_read_status};
use super::{own_proc, proc_stat};

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

/// What the record of a process that has ended shows, read with the rights of its reader. Nothing of a
/// live process: the other fields of its record are addresses in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) start_time: StartTime,
    pub(crate) wait_status: u32,
}

impl Record {
    pub(crate) const LENGTH: usize = 12;

    pub(crate) fn encode(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&self.start_time.0.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.wait_status.to_ne_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (start_time, wait_status) = bytes.split_first_chunk()?;
        Some(Self {
            start_time: StartTime(u64::from_ne_bytes(*start_time)),
            wait_status: u32::from_ne_bytes(wait_status.try_into().ok()?),
        })
    }
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

/// Reads the record with our own rights. Fails with `ENODATA` for a live process, and without the right to
/// see its exit status.
pub(crate) fn read_record_here(pid: Pid) -> io::Result<Record> {
    let stat = open_here(ProcFile::Stat, pid)?;
    let mut line = [0; RECORD_MAX];
    let length = fs::File::from(stat).read(&mut line)?;
    let line = &line[..length];
    let seen = proc_stat::stat(line).map_err(io::Error::other)?;
    let is_shown = proc_stat::is_of(line, pid)
        && seen.main_thread_ended
        && may_read_status(Path::new(&format!("/proc/{pid}")));
    if !is_shown {
        return Err(Errno::NODATA.into());
    }
    Ok(Record {
        start_time: seen.start_time,
        wait_status: proc_stat::wait_status(line).map_err(io::Error::other)?,
    })
}

fn is_in_use(pid: Pid) -> bool {
    let pid = rustix::process::Pid::from_raw(pid.as_raw());
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_record_shows_the_exit_status_of_a_zombie_and_nothing_of_a_live_process() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let pid = Pid::new(child.id()).unwrap();
        let live = read_record_here(pid).unwrap_err();
        assert_eq!(live.raw_os_error(), Some(libc::ENODATA));
        child.kill().unwrap();
        let deadline = crate::clock::Deadline::after(std::time::Duration::from_secs(30));
        let record = loop {
            match read_record_here(pid) {
                Ok(record) => break record,
                Err(error) => assert!(!deadline.has_passed(), "{error}"),
            }
        };
        assert_eq!(record.wait_status, 9);
        assert_eq!(Record::decode(&record.encode()), Some(record));
        assert_eq!(Record::decode(&record.encode()[1..]), None);
        child.wait().unwrap();
    }
}
