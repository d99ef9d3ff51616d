//! The events of a daemon, read with `Last-Event-ID`, and what they must be.
#![expect(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are steps of tests, which fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use reaperd::client::{Frame, SseParser};
use serde_json::Value;

use crate::daemon::Requests;
use crate::wait::{Deadline, TIMEOUT};

/// A reader that continues behind the last event that it has read, as clients do.
#[derive(Debug, Default)]
pub struct History {
    /// The id of the last event that was read.
    pub last: String,
    /// The sessions that the events show as live, with their pids.
    live: BTreeMap<String, u64>,
    /// How often each cause and source of a removal was read.
    pub removals: BTreeMap<(String, String), usize>,
    /// How many events were read.
    pub events: usize,
    /// Id and name of each event that was read.
    pub all: Vec<(String, String)>,
    markers: usize,
}

impl History {
    /// Begins with the event of a first session.
    pub fn begin(daemon: &Requests) -> Self {
        let health: Value = daemon.get("/v1/health").unwrap();
        assert_eq!(health["restarts"], 0);
        let mut events = daemon.events();
        daemon.register("first", std::process::id());
        let mut last = String::new();
        events.until("the first event", |arrived| {
            let is_ours = |frame: &Frame| frame.data.contains("\"first\"");
            let found = arrived.iter().find(|it| is_ours(&it.frame));
            last = found.map(|it| it.frame.id.clone()).unwrap_or_default();
            found.is_some()
        });
        Self {
            last,
            live: BTreeMap::from([("first".to_owned(), std::process::id().into())]),
            ..Self::default()
        }
    }

    /// Reads up to now. Fails at a hole, at a number that was read before, at a second removal, and at a
    /// removal of what is not live.
    pub fn read_on(&mut self, daemon: &Requests) {
        self.markers += 1;
        let marker = format!("marker-{}", self.markers);
        daemon.register(&marker, std::process::id());
        let mut stream = UnixStream::connect(daemon.socket()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let last = &self.last;
        let request =
            format!("GET /v1/events HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: {last}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut parser = SseParser::default();
        let mut piece = vec![0; 65_536];
        let deadline = Deadline::after(TIMEOUT);
        while !self.live.contains_key(&marker) {
            assert!(!deadline.has_passed(), "{marker} is not read");
            let length = stream.read(&mut piece).unwrap();
            assert!(length > 0, "the stream ended\n{}", daemon.log());
            // The lengths of chunks are between frames, as lines that are no fields.
            parser.push(&piece[..length]);
            while let Some(frame) = parser.pop() {
                self.take(&frame);
            }
        }
        self.live.remove(&marker);
    }

    fn take(&mut self, frame: &Frame) {
        if frame.id.is_empty() {
            assert_ne!(frame.event, "gap", "{}", frame.data);
            return;
        }
        assert_ne!(frame.event, "gap", "{}", frame.data);
        let number = |id: &str| -> (String, u64) {
            let (epoch, seq) = id.split_once('.').unwrap();
            (epoch.to_owned(), seq.parse().unwrap())
        };
        let ((epoch, last), (next_epoch, next)) = (number(&self.last), number(&frame.id));
        assert_eq!(next_epoch, epoch, "the same numbering");
        assert_eq!(next, last + 1, "no hole and no double: {frame:?}");
        self.last.clone_from(&frame.id);
        self.events += 1;
        self.all.push((frame.id.clone(), frame.event.clone()));
        let data: Value = serde_json::from_str(&frame.data).unwrap();
        let id = data["session"]["sessionId"].as_str().unwrap_or_default();
        let pid = data["session"]["pid"].as_u64().unwrap_or_default();
        match frame.event.as_str() {
            "session_registered" => {
                let former = self.live.insert(id.to_owned(), pid);
                assert_eq!(former, None, "{id} is registered twice: {frame:?}");
            }
            "session_deregistered" if id.starts_with("marker-") => {}
            "session_deregistered" => {
                assert_eq!(self.live.remove(id), Some(pid), "{id} was live: {frame:?}");
                let text = |name: &str| data[name].as_str().unwrap_or("none").to_owned();
                let key = (text("cause"), text("source"));
                *self.removals.entry(key).or_default() += 1;
            }
            _ => {}
        }
    }

    /// The sessions that the events show as live.
    pub fn live(&self) -> BTreeSet<String> {
        self.live.keys().cloned().collect()
    }
}
