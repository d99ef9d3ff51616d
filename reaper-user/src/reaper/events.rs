//! The ordered history of a registry as a stream.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;
use reaper_registry::{Event, Next, Session, Subscription};
use tokio::sync::watch;

use super::Reaper;

/// How many sessions are copied under one lock of the registry's table.
const PAGE: usize = 256;

impl Reaper {
    /// Returns all live sessions and a stream of everything that happens from then on: nothing is
    /// missing between the two, and nothing is in both. A session that ends during this call may be
    /// missing in the list; its event follows in the stream.
    pub fn subscribe(&self) -> (Vec<Arc<Session>>, Events) {
        let (position, last) = self.registry.subscribe(None);
        let mut sessions: Vec<Arc<Session>> = Vec::new();
        loop {
            let after = sessions.last().map(|session| session.entry);
            let page = self.registry.page(after, None, PAGE);
            let known = sessions.len();
            sessions.extend(page.into_iter().take_while(|it| it.entry <= last));
            if sessions.len() - known < PAGE {
                return (sessions, self.events_from(position));
            }
        }
    }

    /// Returns a stream of everything that happens from now on.
    pub fn events(&self) -> Events {
        let (position, _) = self.registry.subscribe(None);
        self.events_from(position)
    }

    /// Returns a stream that starts after the event with this number; `None` if there is no such
    /// event yet. Events that are not kept any more are reported as a gap.
    pub fn events_after(&self, seq: u64) -> Option<Events> {
        let position = self.registry.resume(seq, None)?;
        Some(self.events_from(position))
    }

    /// Returns a stream that begins at this position of this registry.
    pub(crate) fn events_from(&self, position: Subscription) -> Events {
        Events::new(position, self.changed.subscribe())
    }
}

/// One item of [`Events`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum EventItem {
    /// The next event.
    Event(Arc<Event>),
    /// The reader was too slow: these events were overwritten before it read them.
    Gap {
        /// The first one that is missing.
        missed_from: u64,
        /// The last one that is missing.
        missed_to: u64,
    },
}

/// A stream of everything that happens in a registry: sessions registered and removed, sources that
/// change their state.
///
/// Events come in the order in which they happened, each once. A reader that falls behind the
/// history (4,096 events by default) gets a [`EventItem::Gap`]; it never slows the registry down.
/// The stream ends when the [`Reaper`](crate::Reaper) is dropped. It can be read with the methods of
/// `futures::StreamExt` or with [`Self::next`].
pub struct Events {
    position: Subscription,
    /// `None` once the reaper is gone.
    changed: Option<ChangedFuture>,
}

type Changed = watch::Receiver<()>;
type ChangedFuture =
    Pin<Box<dyn Future<Output = (Changed, Result<(), watch::error::RecvError>)> + Send + Sync>>;

impl Events {
    fn new(position: Subscription, changed: Changed) -> Self {
        Self {
            position,
            changed: Some(wait(changed)),
        }
    }

    /// Waits for the next item; `None` once the reaper is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<EventItem> {
        std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// Returns the next item if there is one now.
    pub fn try_next(&mut self) -> Option<EventItem> {
        match self.position.poll_next() {
            Next::Event(event) => Some(EventItem::Event(event)),
            Next::Gap {
                missed_from,
                missed_to,
            } => Some(EventItem::Gap {
                missed_from,
                missed_to,
            }),
            Next::Empty => None,
        }
    }

    /// The number of the event that comes next.
    pub fn position(&self) -> u64 {
        self.position.position()
    }
}

impl Stream for Events {
    type Item = EventItem;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<EventItem>> {
        loop {
            if let Some(item) = self.try_next() {
                return Poll::Ready(Some(item));
            }
            let Some(waiting) = &mut self.changed else {
                return Poll::Ready(None);
            };
            let (changed, result) = ready!(waiting.as_mut().poll(context));
            // Read once more in either case: what was appended before the end is still there.
            self.changed = result.is_ok().then(|| wait(changed));
        }
    }
}

fn wait(mut changed: Changed) -> ChangedFuture {
    Box::pin(async move {
        let result = changed.changed().await;
        (changed, result)
    })
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}
