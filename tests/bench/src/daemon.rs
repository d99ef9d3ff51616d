//! A real `reaperd`, or the Node server it is compared with, as a child process, and the smallest client
//! that will do.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reaper_tests::daemon::{Launch, TestDaemon};
use reaper_tests::raw_http;
use reaperd::testkit::clock::monotonic_ns;

use crate::measure::Usage;

/// How long a server may take to start.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A server on a Unix socket in a private folder. Dropped, it is killed.
pub(crate) struct Daemon {
    server: Server,
    socket: PathBuf,
}

enum Server {
    Reaperd(TestDaemon),
    Node {
        process: Child,
        _folder: tempfile::TempDir,
    },
}

impl Daemon {
    /// `reaperd daemon` with these flags.
    pub(crate) fn start(flags: &[&str]) -> io::Result<Self> {
        Self::launch(&Launch::with(flags))
    }

    /// The same as user 65534 without any capability.
    pub(crate) fn start_as_uid_nobody(flags: &[&str]) -> io::Result<Self> {
        let setpriv = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--bounding-set=-all",
            "--inh-caps=-all",
        ];
        Self::launch(&Launch::with(flags).through(&setpriv).for_user(65_534))
    }

    fn launch(launch: &Launch) -> io::Result<Self> {
        let daemon = launch.spawn();
        let socket = daemon.socket();
        Self::serving(Server::Reaperd(daemon), socket)
    }

    /// The Node server that serves the same requests from a `Map`.
    pub(crate) fn start_node() -> io::Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("s");
        let script = folder.path().join("server.js");
        std::fs::write(&script, include_str!("node_server.js"))?;
        let process = Command::new("node")
            .arg(script)
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Server::Node {
            process,
            _folder: folder,
        };
        Self::serving(server, socket)
    }

    fn serving(server: Server, socket: PathBuf) -> io::Result<Self> {
        let daemon = Self { server, socket };
        eventually("the daemon serves", || {
            get(&daemon.socket, "/v1/version").is_ok_and(|text| text.contains(" 200 "))
        })?;
        Ok(daemon)
    }

    pub(crate) fn pid(&self) -> u32 {
        match &self.server {
            Server::Reaperd(daemon) => daemon.pid(),
            Server::Node { process, .. } => process.id(),
        }
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Of all its processes.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let of_pid = Usage::of(self.pid())?;
        match &self.server {
            Server::Reaperd(daemon) if daemon.started() != daemon.pid() => {
                Ok(of_pid.and(Usage::of(daemon.started())?))
            }
            _ => Ok(of_pid),
        }
    }

    pub(crate) fn get(&self, target: &str) -> io::Result<String> {
        get(&self.socket, target)
    }

    /// Waits until the daemon reports a source to be up.
    pub(crate) fn wait_for(&self, source: &str) -> io::Result<()> {
        let up = format!("\"source\":\"{source}\",\"state\":\"up\"");
        eventually(source, || {
            self.get("/v1/sources").is_ok_and(|text| text.contains(&up))
        })
    }

    /// Registers a session of this process.
    pub(crate) fn register(&self, pid: u32, id: &str, token: &str) -> io::Result<()> {
        let response = exchange(&self.socket, &registration(pid, id, token))?;
        if response.contains(" 200 ") {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the response to register: {response}"
        )))
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

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Node { process, .. } = self {
            process.kill().unwrap_or_default();
            process.wait().map(drop).unwrap_or_default();
        }
    }
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

/// One GET on a new connection.
pub(crate) fn get(socket: &Path, target: &str) -> io::Result<String> {
    let request = raw_http::request(&format!("GET {target}"), "", "");
    exchange(socket, &request)
}

/// One request; returns the beginning of its response.
fn exchange(socket: &Path, request: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(request.as_bytes())?;
    let mut response = vec![0; 65_536];
    let read = stream.read(&mut response)?;
    response.truncate(read);
    String::from_utf8(response).map_err(io::Error::other)
}

/// Polls four times a millisecond.
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
