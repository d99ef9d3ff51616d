//! A daemon within the test process, and raw connections to it.

use std::fs::Permissions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use reaper_tests::daemon::{private_folder, sources_of_this_run};
use reaper_tests::raw_http;
pub(crate) use reaper_tests::test_process::TestProcess;
#[cfg(target_os = "linux")]
pub(crate) use reaper_tests::user::as_user;
pub(crate) use reaper_tests::wait::eventually;
use reaperd::testkit::clock::monotonic_ns;
use reaperd::testkit::daemon::{self, DaemonOptions, StartupError};
use reaperd::{Source, Sources};
use serde_json::{Value, json};
use tokio::sync::oneshot;

/// A daemon within this process, with its socket in a temporary folder.
pub(crate) struct Daemon {
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), StartupError>>>,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut DaemonOptions)) -> Self {
        let folder = private_folder();
        let mut options = DaemonOptions::on(folder.path().join("s"));
        options.sources = Sources::only([Source::Pidfd]);
        if sources_of_this_run().is_some() {
            options.sources = Sources::only([Source::Sweep]);
            options.sweep_interval = Duration::from_millis(100);
        }
        change(&mut options);
        if !options.allow_uids.is_empty() {
            // Other users must reach the socket, and must not replace it.
            std::fs::set_permissions(folder.path(), Permissions::from_mode(0o711)).unwrap();
        }
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(daemon::run_until(options, async {
                stopped.await.unwrap_or(());
            }))
        });
        let daemon = Self {
            folder,
            stop: Some(stop),
            thread: Some(thread),
        };
        eventually("the daemon serves", || {
            UnixStream::connect(daemon.socket()).is_ok()
        });
        daemon
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
    }

    /// Sends these bytes and reads until the daemon closes the connection.
    pub(crate) fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes.as_ref()).unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        String::from_utf8(response).unwrap()
    }

    /// Sends one request on a new connection. Returns the status and the body.
    pub(crate) fn request(
        &self,
        method: &str,
        target: &str,
        fields: &str,
        body: &str,
    ) -> (u16, Value) {
        let line = format!("{method} {target}");
        let response = self.raw(raw_http::request(&line, fields, body));
        let (status, body) = raw_http::parse(&response).unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    pub(crate) fn get(&self, target: &str) -> (u16, Value) {
        self.request("GET", target, "", "")
    }

    /// The ids of the listed sessions.
    pub(crate) fn listed(&self) -> Vec<String> {
        let list = self.get("/v1/sessions").1;
        let sessions = list["sessions"].as_array().unwrap();
        let id = |session: &Value| session["sessionId"].as_str().unwrap().to_owned();
        sessions.iter().map(id).collect()
    }

    pub(crate) fn register(&self, token: u64, id: &str, pid: u32) -> (u16, Value) {
        self.register_with(token, id, pid, json!({}))
    }

    /// Registers with further fields.
    pub(crate) fn register_with(
        &self,
        token: u64,
        id: &str,
        pid: u32,
        mut body: Value,
    ) -> (u16, Value) {
        body["token"] = format!("{token:064x}").into();
        body["session_id"] = id.into();
        if body["mesh"].is_null() {
            body["mesh"] = "dev".into();
        }
        body["display_name"] = "api".into();
        body["pid"] = pid.into();
        self.request("POST", "/v1/sessions/register", "", &body.to_string())
    }

    /// Requests `/v1/sessions/me` with this token.
    pub(crate) fn me(&self, token: u64) -> (u16, Value) {
        self.request("GET", "/v1/sessions/me", &session_header(token), "")
    }

    /// Opens a connection that is kept for several requests.
    pub(crate) fn kept(&self) -> Kept {
        Kept(self.connect())
    }

    pub(crate) fn stop(mut self) -> Duration {
        let start_ns = monotonic_ns();
        self.stop.take().unwrap().send(()).unwrap();
        self.thread.take().unwrap().join().unwrap().unwrap();
        assert!(
            !self.socket().exists(),
            "the daemon removes its socket file"
        );
        Duration::from_nanos(monotonic_ns() - start_ns)
    }
}

/// A connection for several requests.
pub(crate) struct Kept(pub(crate) UnixStream);

impl Kept {
    /// Sends a request, and returns status, head and body; an error if the daemon has closed the
    /// connection.
    pub(crate) fn ask(&mut self, line: &str) -> io::Result<(u16, String, Value)> {
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.write_all(request.as_bytes())?;
        self.response()
    }

    /// Reads a response with a length.
    pub(crate) fn response(&mut self) -> io::Result<(u16, String, Value)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let length = field("content-length: ").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        Ok((status, head, body))
    }
}

/// An event stream, read as bytes.
pub(crate) struct Events {
    stream: UnixStream,
    text: String,
}

impl Events {
    pub(crate) fn open(daemon: &Daemon, target: &str, fields: &str) -> Self {
        let mut stream = daemon.connect();
        let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut events = Self {
            stream,
            text: String::new(),
        };
        events.until("retry: 1000\n\n");
        events
    }

    /// Opens the stream of all events behind the one with this id.
    pub(crate) fn resume(daemon: &Daemon, last_id: &str) -> Self {
        let field = format!("Last-Event-ID: {last_id}\r\n");
        Self::open(daemon, "/v1/events", &field)
    }

    /// Reads until this text has arrived.
    pub(crate) fn until(&mut self, text: &str) -> &str {
        let mut part = vec![0; 64 * 1024];
        let mut unsearched = 0;
        while !self.text[unsearched..].contains(text) {
            // Searches only new text, and the end of the old one, where a match may begin.
            unsearched = self
                .text
                .floor_char_boundary(self.text.len().saturating_sub(text.len()));
            let count = self.stream.read(&mut part).unwrap();
            assert!(count > 0, "the stream ended before {text:?}");
            self.text.push_str(str::from_utf8(&part[..count]).unwrap());
        }
        &self.text
    }

    pub(crate) fn read_to_the_end(mut self) -> String {
        self.stream.read_to_string(&mut self.text).unwrap();
        self.text
    }
}

/// Names and sequence numbers in a stream's text, in order.
pub(crate) fn events_in(text: &str) -> Vec<(String, Option<u64>)> {
    text.split("\n\n")
        .filter_map(|block| {
            let line = |key: &str| block.lines().find_map(|line| line.strip_prefix(key));
            let seq = line("id: ").and_then(|id| id.split_once('.')?.1.parse().ok());
            Some((line("event: ")?.to_owned(), seq))
        })
        .collect()
}

pub(crate) fn session_header(token: u64) -> String {
    format!("Authorization: ClaudeMesh-Session {token:064x}\r\n")
}
