//! The demo's eyes: a subscriber of the daemon's events, on a task of its own so that the time of
//! an event is the time at which it came.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::client::{Client, ClientError, Deregistered, EventStream};
use crate::clock::monotonic_ns;

/// How long the stream may take to end after the daemon has.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A removal, and when we were told.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) at_ns: u64,
    pub(super) removal: Deregistered,
}

pub(super) struct Observer {
    events: mpsc::UnboundedReceiver<Seen>,
    seen: Vec<Seen>,
}

impl Observer {
    /// Subscribes; from here on nothing is missed.
    pub(super) async fn start(client: &Client) -> Result<Self, ClientError> {
        let stream = client.events("").await?;
        let (sender, events) = mpsc::unbounded_channel();
        tokio::spawn(read(stream, sender));
        Ok(Self {
            events,
            seen: Vec::new(),
        })
    }

    /// The removal of this session, waited for until then.
    pub(super) async fn wait_for(&mut self, session_id: &str, deadline_ns: u64) -> Option<&Seen> {
        let of_this = |seen: &Seen| seen.removal.session.session_id == session_id;
        while !self.seen.iter().any(of_this) {
            let left = Duration::from_nanos(deadline_ns.saturating_sub(monotonic_ns()));
            let Ok(Some(seen)) = tokio::time::timeout(left, self.events.recv()).await else {
                break;
            };
            self.seen.push(seen);
        }
        self.seen.iter().find(|seen| of_this(seen))
    }

    /// The sessions whose removal came more than once; to be asked when the stream has ended.
    pub(super) async fn reported_twice(mut self) -> Vec<String> {
        while let Ok(Some(seen)) = tokio::time::timeout(LAST_WORDS, self.events.recv()).await {
            self.seen.push(seen);
        }
        let mut names: Vec<_> = self
            .seen
            .into_iter()
            .map(|seen| seen.removal.session.session_id)
            .collect();
        names.sort_unstable();
        let twice = names.windows(2).filter(|pair| pair[0] == pair[1]);
        twice.map(|pair| pair[0].clone()).collect()
    }
}

async fn read(mut stream: EventStream, sender: mpsc::UnboundedSender<Seen>) {
    while let Ok(Some(frame)) = stream.next().await {
        let at_ns = monotonic_ns();
        if frame.event != "session_deregistered" {
            continue;
        }
        match serde_json::from_str(&frame.data) {
            Ok(removal) => {
                if sender.send(Seen { at_ns, removal }).is_err() {
                    return;
                }
            }
            // Then it counts as not reported, which is what it is to a client.
            Err(error) => log::error!("a removal cannot be read: {error}: {}", frame.data),
        }
    }
}
