//! Other users: threads and processes with another user id, which need no account.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are steps of tests, which fail by panicking"
)]

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Runs `act` as this user, in a thread, and returns its result. In Linux the ids belong to the thread,
/// and a socket that it connects has them as its peer's. Needs root.
pub fn as_user<T: Send>(uid: u32, act: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            become_user(uid);
            act()
        });
        thread.join().unwrap()
    })
}

/// As [`as_user`], without waiting for the result.
pub fn spawn_as_user<T: Send + 'static>(
    uid: u32,
    act: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    thread::spawn(move || {
        become_user(uid);
        act()
    })
}

fn become_user(uid: u32) {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(uid));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
}

/// A process of another user that does nothing. Dropped, it is killed and reaped.
#[derive(Debug)]
pub struct UserProcess(Child);

impl UserProcess {
    /// Starts one. Needs root.
    pub fn start(uid: u32) -> Self {
        let child = Command::new("sleep")
            .arg("1000")
            .uid(uid)
            .gid(uid)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Kills it without reaping it.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
    }
}

impl Drop for UserProcess {
    fn drop(&mut self) {
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}
