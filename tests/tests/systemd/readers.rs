//! Clients that are at work the whole time: some send requests, and one follows the events.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use reaper_registry::Token;
use reaper_tests::machine::SOCKET;
use reaper_tests::raw_http;
use reaper_tests::wait::{Deadline, TIMEOUT, eventually};
use reaperd::client::{Deregistered, Frame, SseParser};

/// How often a client that reads checks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How the requests of a client have ended.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) answered: u64,
    /// The connection ended without a response, because the process that had accepted it ended.
    pub(crate) cut: u64,
    /// Connections that were refused, and responses other than the session.
    pub(crate) failed: Vec<String>,
    pub(crate) slowest_ms: u128,
}

/// A thread that resolves a token over one new connection after another.
pub(crate) struct Requester {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Counts>,
}

impl Requester {
    pub(crate) fn start(token: &Token) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let field = format!(
            "Authorization: ClaudeMesh-Session {}\r\n",
            token.reveal().as_str()
        );
        let request = raw_http::request("GET /v1/sessions/me", &field, "");
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut counts = Counts::default();
            while !stopped.load(Ordering::Relaxed) {
                let began = Deadline::after(TIMEOUT);
                counts.note(resolve(&request));
                counts.slowest_ms = counts.slowest_ms.max(began.elapsed().as_millis());
            }
            counts
        });
        Self { stop, thread }
    }

    pub(crate) fn stop(self) -> Counts {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

impl Counts {
    fn note(&mut self, outcome: Result<String, (&'static str, io::Error)>) {
        match outcome {
            Ok(response) if response.starts_with("HTTP/1.1 200 ") => self.answered += 1,
            Ok(response) if response.is_empty() => self.cut += 1,
            Ok(response) => self.failed.push(response),
            Err(("exchange", error)) if is_cut(&error) => self.cut += 1,
            Err((step, error)) => self.failed.push(format!("{step}: {error}")),
        }
    }
}

fn is_cut(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe];
    kinds.contains(&error.kind())
}

fn resolve(request: &str) -> Result<String, (&'static str, io::Error)> {
    let mut stream = UnixStream::connect(SOCKET).map_err(|error| ("connect", error))?;
    let mut exchange = || {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.write_all(request.as_bytes())?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        Ok(response)
    };
    exchange().map_err(|error| ("exchange", error))
}

/// A thread that follows the events, and resumes behind the last one whenever its stream ends.
pub(crate) struct Subscriber {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    streams: AtomicU64,
    frames: Mutex<Vec<Frame>>,
}

impl Subscriber {
    /// Returns once it follows.
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let thread = thread::spawn(move || {
            let mut last = None;
            while !of_thread.stop.load(Ordering::Relaxed) {
                // A stream that was cut is opened again.
                follow(&of_thread, &mut last).unwrap_or_default();
            }
        });
        eventually("it follows the events", || {
            shared.streams.load(Ordering::Relaxed) > 0
        });
        Self { shared, thread }
    }

    /// The removals so far.
    pub(crate) fn removals(&self) -> Vec<Deregistered> {
        let frames = self.shared.frames.lock().unwrap();
        let removals = frames
            .iter()
            .filter(|frame| frame.event == "session_deregistered");
        removals
            .map(|frame| serde_json::from_str(&frame.data).unwrap())
            .collect()
    }

    /// Ends it. Fails at a hole and at a double. Returns how many events it has read, over how many streams.
    pub(crate) fn stop(self) -> (usize, u64) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let frames = self.shared.frames.lock().unwrap();
        assert!(frames.iter().all(|frame| frame.event != "gap"));
        let ids: Vec<_> = frames.iter().map(|frame| number(&frame.id)).collect();
        for pair in ids.windows(2) {
            assert_eq!(pair[0].0, pair[1].0, "the numbering goes on");
            assert_eq!(pair[0].1 + 1, pair[1].1, "no hole and no double");
        }
        (ids.len(), self.shared.streams.load(Ordering::Relaxed))
    }
}

fn number(id: &str) -> (&str, u64) {
    let (epoch, number) = id.split_once('.').unwrap();
    (epoch, number.parse().unwrap())
}

/// Reads one stream up to its end.
fn follow(shared: &Shared, last: &mut Option<String>) -> io::Result<()> {
    let mut stream = UnixStream::connect(SOCKET)?;
    stream.set_read_timeout(Some(LOOK_EVERY))?;
    let resume = last.as_ref();
    let resume = resume.map_or_else(String::new, |id| format!("Last-Event-ID: {id}\r\n"));
    let request = format!("GET /v1/events HTTP/1.1\r\nHost: localhost\r\n{resume}\r\n");
    stream.write_all(request.as_bytes())?;
    let (mut parser, mut piece, mut is_open) = (SseParser::default(), vec![0; 65_536], false);
    while !shared.stop.load(Ordering::Relaxed) {
        let length = match stream.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        if !is_open {
            is_open = true;
            shared.streams.fetch_add(1, Ordering::Relaxed);
        }
        // The lengths of chunks are between frames, as lines that are no fields.
        parser.push(&piece[..length]);
        while let Some(frame) = parser.pop() {
            if frame.event == "gap" || !frame.id.is_empty() {
                *last = Some(frame.id.clone()).filter(|id| !id.is_empty());
                shared.frames.lock().unwrap().push(frame);
            }
        }
    }
    Ok(())
}
