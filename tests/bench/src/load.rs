//! Requests: one thread, one epoll set, keep-alive connections, one outstanding request on each.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use reaperd::testkit::clock::monotonic_ns;
use rustix::event::epoll::{self, Event, EventData, EventFlags};

use crate::measure::{Readings, count, float};

/// When to stop.
pub(crate) enum Until {
    /// After this time, of which the first part is not counted.
    Passed {
        unmeasured: Duration,
        in_all: Duration,
    },
    /// After so many requests, all counted.
    Requests(usize),
}

/// The result of a run.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Including those that were not counted.
    pub(crate) requests: usize,
    pub(crate) per_second: f64,
    pub(crate) latencies: Readings,
}

struct Connection {
    stream: UnixStream,
    request: Vec<u8>,
    response: Vec<u8>,
    sent_ns: u64,
}

impl Connection {
    fn open(socket: &Path) -> io::Result<Self> {
        Ok(Self {
            stream: UnixStream::connect(socket)?,
            request: Vec::new(),
            response: Vec::with_capacity(4_096),
            sent_ns: 0,
        })
    }

    fn send(&mut self, write: &mut impl FnMut(&mut Vec<u8>)) -> io::Result<()> {
        self.request.clear();
        write(&mut self.request);
        self.response.clear();
        self.sent_ns = monotonic_ns();
        self.stream.write_all(&self.request)
    }

    /// Reads what has arrived; returns whether the response is complete. Anything but 200 is an error.
    fn receive(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 4_096];
        let read = self.stream.read(&mut chunk)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.response.extend_from_slice(&chunk[..read]);
        let Some(length) = whole_length(&self.response) else {
            return Ok(false);
        };
        if !self.response.starts_with(b"HTTP/1.1 200 ") {
            let response = String::from_utf8_lossy(&self.response).into_owned();
            return Err(io::Error::other(response));
        }
        Ok(self.response.len() >= length)
    }
}

/// The length of the complete response, once its head has arrived.
fn whole_length(response: &[u8]) -> Option<usize> {
    let head = response.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = str::from_utf8(&response[..head]).ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.parse::<usize>().ok())?
    });
    Some(head + length.unwrap_or(0))
}

/// Keeps every connection busy; `write` makes each request.
pub(crate) fn closed_loop(
    socket: &Path,
    connections: usize,
    until: &Until,
    mut write: impl FnMut(&mut Vec<u8>),
) -> io::Result<Outcome> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut open = Vec::new();
    for index in 0..connections {
        let connection = Connection::open(socket)?;
        let data = EventData::new_u64(u64::try_from(index).map_err(io::Error::other)?);
        epoll::add(&epoll, &connection.stream, data, EventFlags::IN)?;
        open.push(connection);
    }
    let began = monotonic_ns();
    let mut outcome = Outcome::default();
    let mut sent = 0;
    let mut busy = 0;
    for connection in &mut open {
        if until.sends_more(began, sent) {
            connection.send(&mut write)?;
            sent += 1;
            busy += 1;
        }
    }
    let mut events = [Event {
        flags: EventFlags::empty(),
        data: EventData::new_u64(0),
    }; 64];
    while busy > 0 {
        let ready = epoll::wait(&epoll, &mut events[..], None)?;
        for event in &events[..ready] {
            let index = usize::try_from(event.data.u64()).map_err(io::Error::other)?;
            let connection = &mut open[index];
            if !connection.receive()? {
                continue;
            }
            let now = monotonic_ns();
            outcome.requests += 1;
            busy -= 1;
            if until.counts(began, connection.sent_ns) {
                outcome.latencies.push_ns(now - connection.sent_ns);
            }
            if until.sends_more(began, sent) {
                connection.send(&mut write)?;
                sent += 1;
                busy += 1;
            }
        }
    }
    outcome.per_second = count(outcome.latencies.len()) * 1e9 / until.measured_ns(began);
    Ok(outcome)
}

impl Until {
    fn sends_more(&self, began: u64, sent: usize) -> bool {
        match self {
            Self::Passed { in_all, .. } => Duration::from_nanos(monotonic_ns() - began) < *in_all,
            Self::Requests(number) => sent < *number,
        }
    }

    fn counts(&self, began: u64, sent_ns: u64) -> bool {
        match self {
            Self::Passed { unmeasured, .. } => Duration::from_nanos(sent_ns - began) >= *unmeasured,
            Self::Requests(_) => true,
        }
    }

    fn measured_ns(&self, began: u64) -> f64 {
        let passed = float(monotonic_ns() - began);
        match self {
            Self::Passed { unmeasured, .. } => passed - unmeasured.as_secs_f64() * 1e9,
            Self::Requests(_) => passed,
        }
    }
}

/// A lookup of the own session.
pub(crate) fn me(token: &str) -> String {
    format!(
        "GET /v1/sessions/me HTTP/1.1\r\nHost: localhost\r\n\
         Authorization: ClaudeMesh-Session {token}\r\n\r\n"
    )
}

/// Lookups at a fixed rate, in the background.
pub(crate) struct Paced {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<f64>>,
}

impl Paced {
    /// Ends it; returns the rate that was reached.
    pub(crate) fn stop(self) -> io::Result<f64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_panic| io::Error::other("the load panicked"))?
    }
}

/// Sends a share of the lookups each millisecond, each on its own connection.
pub(crate) fn paced(socket: &Path, token: &str, per_second: usize) -> io::Result<Paced> {
    let mut connections = Vec::new();
    for _ in 0..per_second / 1_000 {
        connections.push(Connection::open(socket)?);
    }
    let request = me(token);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let thread = std::thread::Builder::new()
        .name("paced-load".into())
        .spawn(move || {
            let began = monotonic_ns();
            let mut served = 0;
            let mut due = began;
            while !stopped.load(Ordering::Relaxed) {
                for connection in &mut connections {
                    connection.send(&mut |out| out.extend_from_slice(request.as_bytes()))?;
                }
                for connection in &mut connections {
                    while !connection.receive()? {}
                    served += 1;
                }
                due += 1_000_000;
                let early = due.saturating_sub(monotonic_ns());
                std::thread::sleep(Duration::from_nanos(early));
            }
            Ok(count(served) * 1e9 / float(monotonic_ns() - began))
        })?;
    Ok(Paced { stop, thread })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_response_is_read_from_its_head() {
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        assert_eq!(whole_length(response), Some(response.len()));
        assert_eq!(whole_length(b"HTTP/1.1 200 OK\r\nContent-"), None);
    }
}
