//! A daemon's events, each with its time of arrival.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use reaperd::client::{Client, ClientError, Deregistered, EventStream, Frame};
use reaperd::testkit::clock::monotonic_ns;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::TestDaemon;
use crate::test_process::TestProcess;
use crate::wait::{Deadline, TIMEOUT};

/// An event and its arrival on `CLOCK_MONOTONIC`.
#[derive(Clone, Debug)]
pub struct Arrived {
    pub at_ns: u64,
    pub frame: Frame,
}

/// The event of a removal and its arrival.
#[derive(Clone, Debug)]
pub struct Removal {
    pub at_ns: u64,
    pub data: Deregistered,
}

impl Removal {
    /// `None` if the event is not a removal.
    pub fn of(event: &Arrived) -> Option<Self> {
        if event.frame.event != "session_deregistered" {
            return None;
        }
        let data = serde_json::from_str(&event.frame.data)
            .unwrap_or_else(|error| panic!("{error}: {}", event.frame.data));
        Some(Self {
            at_ns: event.at_ns,
            data,
        })
    }

    pub fn session(&self) -> &str {
        &self.data.session.session_id
    }
}

/// A stream of events. A separate task reads it, so that the times of arrival are exact.
pub struct Events {
    coming: Receiver<Arrived>,
    arrived: Vec<Arrived>,
    reader: JoinHandle<()>,
}

impl Drop for Events {
    fn drop(&mut self) {
        // Or it would keep its connection until the next event.
        self.reader.abort();
    }
}

impl Events {
    pub(super) fn open(runtime: &Runtime, client: &Client) -> Self {
        let stream = runtime.block_on(client.events("")).unwrap();
        let (sender, coming) = mpsc::channel();
        Self {
            reader: runtime.spawn(read(stream, sender)),
            coming,
            arrived: Vec::new(),
        }
    }

    /// Waits until `enough` returns true for the events that have arrived.
    pub fn until(&mut self, what: &str, mut enough: impl FnMut(&[Arrived]) -> bool) {
        let deadline = Deadline::after(TIMEOUT);
        while !enough(&self.arrived) {
            match self.coming.recv_timeout(deadline.left()) {
                Ok(event) => self.arrived.push(event),
                Err(RecvTimeoutError::Timeout) => panic!("not within {TIMEOUT:?}: {what}"),
                Err(RecvTimeoutError::Disconnected) => panic!("the stream ended before {what}"),
            }
        }
    }

    /// Waits for the removal of this session.
    pub fn removal_of(&mut self, session: &str) -> Removal {
        let of_it = |event: &Arrived| Removal::of(event).filter(|it| it.session() == session);
        let mut found = None;
        let mut checked = 0;
        self.until(&format!("the removal of {session}"), |arrived| {
            found = found
                .take()
                .or_else(|| arrived[checked..].iter().find_map(of_it));
            checked = arrived.len();
            found.is_some()
        });
        found.expect("`until` returns once it is found")
    }

    /// Starts a process, registers it with this daemon as this session, kills it, and waits for the
    /// removal.
    pub fn removal_after_kill(&mut self, daemon: &TestDaemon, session: &str) -> Removal {
        let mut test_process = TestProcess::start();
        daemon.register(session, test_process.pid());
        test_process.kill();
        self.removal_of(session)
    }

    /// Waits until so many removals have arrived in all, and returns all that have arrived.
    pub fn removals(&mut self, count: usize) -> Vec<Removal> {
        let mut seen = 0;
        let mut checked = 0;
        self.until(&format!("{count} removals"), |arrived| {
            let new = &arrived[checked..];
            seen += new
                .iter()
                .filter(|event| Removal::of(event).is_some())
                .count();
            checked = arrived.len();
            seen >= count
        });
        self.arrived.iter().filter_map(Removal::of).collect()
    }

    /// All removals up to the end of the stream, which is the end of the daemon.
    pub fn to_end(mut self) -> Vec<Removal> {
        let deadline = Deadline::after(TIMEOUT);
        while let Ok(event) = self.coming.recv_timeout(deadline.left()) {
            self.arrived.push(event);
        }
        self.arrived.iter().filter_map(Removal::of).collect()
    }

    /// Whether the daemon, which has been stopped, has announced its end as the last event.
    pub fn end_with_shutdown(mut self) -> bool {
        let deadline = Deadline::after(TIMEOUT);
        while let Ok(event) = self.coming.recv_timeout(deadline.left()) {
            self.arrived.push(event);
        }
        let last = self.arrived.last();
        last.is_some_and(|event| event.frame.event == "shutdown")
    }

    /// Checks that a daemon, which has been stopped, has removed exactly these sessions, each once and
    /// for the end of its process.
    pub fn check_each_removed_once(self, dead: &BTreeSet<String>) {
        let removals = self.to_end();
        let removed: BTreeSet<String> = removals.iter().map(|it| it.session().to_owned()).collect();
        assert_eq!(removals.len(), removed.len(), "a session is removed twice");
        assert_eq!(removed, *dead);
        assert!(removals.iter().all(|it| it.data.cause == "exited"));
    }
}

async fn read(mut stream: EventStream, sender: mpsc::Sender<Arrived>) {
    loop {
        match stream.next().await {
            Ok(Some(frame)) => {
                let at_ns = monotonic_ns();
                if sender.send(Arrived { at_ns, frame }).is_err() {
                    return;
                }
            }
            // A daemon that its test has stopped sends nothing; the tests have deadlines.
            Err(ClientError::TimedOut { .. }) => {}
            Ok(None) | Err(_) => return,
        }
    }
}
