//! Processes in which a worker thread executes a program, over and over, as Go programs do. To an
//! observer each exec looks much like the end of the process: the main thread exits, and the worker
//! takes its place. The program is in [`crate::sys::exec_loop`].
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are steps of tests, which fail by panicking"
)]

use std::fs::{File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::sys::exec_loop::program;
use crate::wait::{eventually, eventually_some};

/// The program as an executable file.
pub struct ExecProgram {
    folder: TempDir,
}

impl ExecProgram {
    /// `None` on architectures without it.
    pub fn new() -> Option<Self> {
        let bytes = program()?;
        let folder = tempfile::Builder::new()
            .prefix("reaperd-execs-")
            .tempdir()
            .unwrap();
        let file = folder.path().join("program");
        std::fs::write(&file, bytes).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        Some(Self { folder })
    }

    /// Starts a process and waits until it has executed the program at least once.
    pub fn start(&self) -> ExecLoop {
        let counter = tempfile::tempfile_in(self.folder.path()).unwrap();
        // A process that this one forks at the same time may have the file open for writing.
        let child = eventually_some("the program is not open for writing", || {
            let spawned = Command::new(self.folder.path().join("program"))
                .stdin(counter.try_clone().unwrap())
                .stdout(Stdio::null())
                .spawn();
            match spawned {
                Ok(started) => Some(started),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ExecutableFileBusy, "{error}");
                    None
                }
            }
        });
        let mut process = ExecLoop { child, counter };
        eventually("the process executes the program", || process.execs() > 0);
        process
    }
}

/// One such process. Dropped, it is killed and reaped.
pub struct ExecLoop {
    child: Child,
    counter: File,
}

impl ExecLoop {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How often it has executed the program. Fails if it has ended.
    pub fn execs(&mut self) -> u64 {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "it has ended: {ended:?}");
        let mut count = [0; 8];
        // The file is empty before the first time.
        match self.counter.read_at(&mut count, 0) {
            Ok(_) => u64::from_ne_bytes(count),
            Err(error) => panic!("the counter: {error}"),
        }
    }
}

impl Drop for ExecLoop {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}
