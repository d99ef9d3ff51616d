//! What `top` reads of the daemon: the sessions and their events, and at each interval its counts. Both go on
//! when the daemon is gone and back.

use std::time::Duration;

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::page::Page;
use crate::client::follow::{Followed, Follower, Start, passes};
use crate::client::{Client, ClientError, Frame, Session, SourcesReport};
use crate::clock;

/// Updates that wait to be shown. While there are as many, no further events are read.
const QUEUE: usize = 256;
/// Between two attempts to read the sessions.
const PAUSE: Duration = Duration::from_millis(500);

/// Something new.
#[derive(Debug)]
pub(super) enum Update {
    /// All sessions.
    Listed(Vec<Live>),
    /// The events from the list on are being read.
    Open,
    /// The next event.
    Event(Frame),
    /// Events are not read any more, for this reason.
    Lost(String),
    /// The counts.
    Counted(Box<Counts>),
    /// The counts cannot be read, for this reason.
    Uncounted(String),
    /// Nothing will be read any more.
    Failed(ClientError),
}

/// A session with its owner, because several users may have one with the same id.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Live {
    #[serde(flatten)]
    pub(super) session: Session,
    pub(super) uid: Option<u32>,
}

/// What is read at each interval.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) page: Page,
    pub(super) sources: SourcesReport,
    pub(super) health: Health,
}

/// The parts of `/v1/health` that are shown. An older daemon has some of them only.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    pub(super) pid: u32,
    pub(super) uptime_ms: Option<u64>,
    pub(super) conflicts: Vec<String>,
}

/// Starts to read.
pub(super) fn start(client: &Client, interval: Duration) -> mpsc::Receiver<Update> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(count(client.clone(), interval, sender.clone()));
    tokio::spawn(follow(client.clone(), sender));
    receiver
}

impl Counts {
    pub(super) async fn read(client: &Client) -> Result<Self, ClientError> {
        let text = client.metrics().await?;
        Ok(Self {
            page: Page::parse(&text, clock::now().boot),
            sources: client.get("/v1/sources").await?,
            health: client.get("/v1/health").await?,
        })
    }
}

/// Reads the counts again and again.
async fn count(client: Client, interval: Duration, sender: mpsc::Sender<Update>) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let update = match Counts::read(&client).await {
            Ok(counts) => Update::Counted(Box::new(counts)),
            Err(error) => Update::Uncounted(error.to_string()),
        };
        if sender.send(update).await.is_err() {
            return;
        }
    }
}

/// Reads sessions and events until an error does not pass.
async fn follow(client: Client, sender: mpsc::Sender<Update>) {
    loop {
        let update = match follow_one(&client, &sender).await {
            // Begins anew.
            Ok(()) => Update::Lost("events are missing".to_owned()),
            Err(error) if passes(&error) => Update::Lost(error.to_string()),
            Err(error) => Update::Failed(error),
        };
        let is_over = matches!(update, Update::Failed(_));
        if sender.send(update).await.is_err() || is_over {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads the sessions, and then the events from before that on: an event that the list has already changes
/// nothing. Returns once events are missing, and if there is no receiver any more.
async fn follow_one(client: &Client, sender: &mpsc::Sender<Update>) -> Result<(), ClientError> {
    let mut events = Follower::new(client, "", Start::Now).await?;
    let sessions = client.sessions("").await?;
    let mut update = Update::Listed(sessions);
    while sender.send(update).await.is_ok() {
        update = match events.next().await? {
            Followed::Open => Update::Open,
            Followed::Lost(reason) => Update::Lost(reason),
            Followed::Frame(frame) if frame.event == "gap" => break,
            Followed::Frame(frame) => Update::Event(frame),
        };
    }
    Ok(())
}
