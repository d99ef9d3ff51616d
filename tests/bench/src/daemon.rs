//! A real `reaperd` (or its rival) as a process of its own, and the smallest client that will do.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reaperd::clock::monotonic_ns;

use crate::measure::Usage;

/// How long anything may take to come up.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A server on a Unix socket in a private folder. Dropped, it is killed.
pub(crate) struct Daemon {
    process: Child,
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl Daemon {
    /// `reaperd daemon` with these flags.
    pub(crate) fn start(flags: &[&str]) -> io::Result<Self> {
        let folder = private_folder()?;
        let socket = folder.path().join("s");
        let mut command = Command::new(reaperd()?);
        command
            .args(["daemon", "--socket"])
            .arg(&socket)
            .args(flags);
        Self::serve(command, socket, folder)
    }

    /// The same as user 65534 without any capability.
    pub(crate) fn start_as_uid_nobody(flags: &[&str]) -> io::Result<Self> {
        let folder = private_folder()?;
        let socket = folder.path().join("s");
        std::os::unix::fs::chown(folder.path(), Some(65_534), Some(65_534))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .args(["--bounding-set=-all", "--inh-caps=-all"])
            .arg(reaperd()?)
            .args(["daemon", "--socket"])
            .arg(&socket)
            .args(flags);
        Self::serve(command, socket, folder)
    }

    /// The Node server that answers the same requests out of a `Map`.
    pub(crate) fn start_node() -> io::Result<Self> {
        let folder = private_folder()?;
        let socket = folder.path().join("s");
        let script = folder.path().join("server.js");
        std::fs::write(&script, include_str!("node_server.js"))?;
        let mut command = Command::new("node");
        command.arg(script).arg(&socket);
        Self::serve(command, socket, folder)
    }

    fn serve(mut command: Command, socket: PathBuf, folder: tempfile::TempDir) -> io::Result<Self> {
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let daemon = Self {
            process,
            socket,
            _folder: folder,
        };
        eventually("the daemon serves", || {
            get(&daemon.socket, "/v1/version").is_ok_and(|text| text.contains(" 200 "))
        })?;
        Ok(daemon)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn usage(&self) -> io::Result<Usage> {
        Usage::of(self.pid())
    }

    pub(crate) fn get(&self, target: &str) -> io::Result<String> {
        get(&self.socket, target)
    }

    /// Waits until the daemon says that a source is up.
    pub(crate) fn wait_for(&self, source: &str) -> io::Result<()> {
        let up = format!("\"source\":\"{source}\",\"state\":\"up\"");
        eventually(source, || {
            self.get("/v1/sources").is_ok_and(|text| text.contains(&up))
        })
    }

    /// Registers a session of this process.
    pub(crate) fn register(&self, pid: u32, id: &str, token: &str) -> io::Result<()> {
        let answer = exchange(&self.socket, &registration(pid, id, token))?;
        if answer.contains(" 200 ") {
            return Ok(());
        }
        Err(io::Error::other(format!("register was answered {answer}")))
    }

    /// An open stream of deregistrations, past its head.
    pub(crate) fn events(&self) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.write_all(
            b"GET /v1/events?event=session_deregistered HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )?;
        let mut head = Vec::new();
        let mut chunk = [0; 4096];
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            match stream.read(&mut chunk)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => head.extend_from_slice(&chunk[..read]),
            }
        }
        Ok(stream)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap_or_default();
        self.process.wait().map(drop).unwrap_or_default();
    }
}

/// The binary that was built beside this one.
pub(crate) fn reaperd() -> io::Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("reaperd");
    if beside.exists() {
        return Ok(beside);
    }
    Err(io::Error::other("build reaperd first: cargo xtask bench"))
}

pub(crate) fn private_folder() -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o700))
        .tempdir()
}

/// The bytes of a registration: the record of a real session, without presence.
pub(crate) fn registration(pid: u32, id: &str, token: &str) -> String {
    let body = format!(
        "{{\"token\":\"{token}\",\"session_id\":\"{id}\",\"mesh\":\"dev-mesh\",\
         \"display_name\":\"api-agent\",\"pid\":{pid},\
         \"cwd\":\"/srv/projects/example/services/api-agent\",\"role\":\"worker\",\
         \"groups\":[\"backend\",\"reviewers\"]}}"
    );
    format!(
        "POST /v1/sessions/register HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One GET on a connection of its own.
pub(crate) fn get(socket: &Path, target: &str) -> io::Result<String> {
    exchange(
        socket,
        &format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    )
}

/// One request and the beginning of its answer.
fn exchange(socket: &Path, request: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = vec![0; 65_536];
    let read = stream.read(&mut answer)?;
    answer.truncate(read);
    String::from_utf8(answer).map_err(io::Error::other)
}

/// Looks four times a millisecond.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) -> io::Result<()> {
    let began = monotonic_ns();
    while Duration::from_nanos(monotonic_ns() - began) < TIMEOUT {
        if is_so() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(250));
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("not within {} s: {what}", TIMEOUT.as_secs()),
    ))
}
