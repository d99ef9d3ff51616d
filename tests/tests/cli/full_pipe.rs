//! Standard error is a pipe that is full and that no process reads.

use std::fs;
use std::io::{self, PipeWriter, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use reaper_tests::daemon::{private_folder, reaperd};
use reaper_tests::raw_http;
use reaper_tests::wait::{eventually, eventually_some};
use rustix::process::{Pid, Signal, kill_process};

/// Writes until not one more byte fits.
fn fill(writer: &PipeWriter) {
    rustix::io::ioctl_fionbio(writer, true).unwrap();
    for size in [4_096, 1] {
        while (&*writer).write(&vec![b'.'; size]).is_ok() {}
    }
    rustix::io::ioctl_fionbio(writer, false).unwrap();
}

fn answer(socket: &std::path::Path) -> Option<u16> {
    let mut stream = UnixStream::connect(socket).ok()?;
    let request = raw_http::request("GET /v1/sessions/nowhere", "", "");
    stream.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    stream.read_to_string(&mut response).ok()?;
    raw_http::parse(&response).ok().map(|(status, _)| status)
}

/// Both processes have something to say: the worker at its start and about each request, the monitor about
/// a service manager that it does not reach.
#[test]
fn the_daemon_serves_and_stops_although_its_log_is_not_read() {
    let folder = private_folder();
    let socket = folder.path().join("s.sock");
    let (mut reader, writer) = io::pipe().unwrap();
    fill(&writer);
    let mut daemon = Command::new(reaperd())
        .args(["daemon", "--log", "debug", "--sources", "pidfd", "--socket"])
        .arg(&socket)
        .env("NOTIFY_SOCKET", folder.path().join("nowhere"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .unwrap();
    for _ in 0..200 {
        assert_eq!(eventually_some("it answers", || answer(&socket)), 404);
    }
    let pid = Pid::from_child(&daemon);
    kill_process(pid, Signal::TERM).unwrap();
    let status = eventually_some("it ends", || daemon.try_wait().unwrap());
    assert!(status.success(), "{status}");
    eventually("its socket is gone", || fs::metadata(&socket).is_err());
    let mut taken = String::new();
    reader.read_to_string(&mut taken).unwrap();
    assert!(taken.bytes().all(|byte| byte == b'.'), "{taken}");
}
