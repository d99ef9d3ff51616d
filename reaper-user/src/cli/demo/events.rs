//! The demo's event subscriber. It runs as a task, so that the time of an event is the time of its
//! arrival.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::client::{Client, ClientError, Deregistered, EventStream};
use crate::clock::monotonic_ns;

/// How long the stream may take to end after the daemon has stopped.
const STREAM_END_TIMEOUT: Duration = Duration::from_secs(1);

/// A `session_deregistered` event and the time of its arrival.
#[derive(Debug)]
pub(super) struct Removal {
    pub(super) received_ns: u64,
    pub(super) event: Deregistered,
}

impl Removal {
    fn session_id(&self) -> &str {
        &self.event.session.session_id
    }
}

pub(super) struct Subscriber {
    receiver: mpsc::UnboundedReceiver<Removal>,
    received: Vec<Removal>,
}

impl Subscriber {
    /// Subscribes. No later event is missed.
    pub(super) async fn start(client: &Client) -> Result<Self, ClientError> {
        let stream = client.events("").await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(forward_removals(stream, sender));
        Ok(Self {
            receiver,
            received: Vec::new(),
        })
    }

    /// Waits for the removal of this session until the deadline.
    pub(super) async fn wait_for(
        &mut self,
        session_id: &str,
        deadline_ns: u64,
    ) -> Option<&Removal> {
        let is_this = |removal: &Removal| removal.session_id() == session_id;
        while !self.received.iter().any(is_this) {
            let left = Duration::from_nanos(deadline_ns.saturating_sub(monotonic_ns()));
            let Ok(Some(removal)) = tokio::time::timeout(left, self.receiver.recv()).await else {
                break;
            };
            self.received.push(removal);
        }
        self.received.iter().find(|removal| is_this(removal))
    }

    /// Reads the rest of the stream and returns the sessions that were removed more than once. To
    /// be called after the daemon has stopped.
    pub(super) async fn duplicates(mut self) -> Vec<String> {
        while let Ok(Some(removal)) =
            tokio::time::timeout(STREAM_END_TIMEOUT, self.receiver.recv()).await
        {
            self.received.push(removal);
        }
        let mut ids: Vec<_> = self.received.iter().map(Removal::session_id).collect();
        ids.sort_unstable();
        let duplicates = ids.windows(2).filter(|pair| pair[0] == pair[1]);
        duplicates.map(|pair| pair[0].to_owned()).collect()
    }
}

async fn forward_removals(mut stream: EventStream, sender: mpsc::UnboundedSender<Removal>) {
    while let Ok(Some(frame)) = stream.next().await {
        let received_ns = monotonic_ns();
        if frame.event != "session_deregistered" {
            continue;
        }
        match serde_json::from_str(&frame.data) {
            Ok(event) => {
                if sender.send(Removal { received_ns, event }).is_err() {
                    return;
                }
            }
            // The session then counts as not removed, which is how a client would see it.
            Err(error) => log::error!("cannot parse a removal: {error}: {}", frame.data),
        }
    }
}
