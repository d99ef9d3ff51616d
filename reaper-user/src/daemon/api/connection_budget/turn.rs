//! A user's turn within a response that is written in pieces. A request takes one turn when it starts; each
//! piece of a long list or snapshot takes another one, so that many of them delay other users no more than
//! many short requests do.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::ConnectionSlot;

type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Whose turn it is, for one response.
#[derive(Clone)]
pub(in crate::daemon::api) struct Turns(Arc<ConnectionSlot>);

impl Turns {
    pub(in crate::daemon::api) fn of(slot: &Arc<ConnectionSlot>) -> Self {
        Self(slot.clone())
    }

    /// Waits until the user may go on. Other tasks run meanwhile in any case.
    pub(in crate::daemon::api) async fn next(&self) {
        if self.0.takes_turns() {
            self.0.may_start().await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// The turn of a body, which is polled.
#[derive(Default)]
pub(in crate::daemon::api) struct Turn {
    /// `None`: there is no connection, as in a test.
    turns: Option<Turns>,
    waiting: Option<Waiting>,
}

impl Turn {
    pub(in crate::daemon::api) fn of(turns: Option<Turns>) -> Self {
        Self {
            turns,
            waiting: None,
        }
    }

    /// Returns whether the next piece may be built.
    pub(in crate::daemon::api) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.is_none() {
            match &self.turns {
                Some(Turns(slot)) if slot.takes_turns() => {
                    let slot = slot.clone();
                    self.waiting = Some(Box::pin(async move { slot.may_start().await }));
                }
                _ => return Poll::Ready(()),
            }
        }
        let Some(waiting) = &mut self.waiting else {
            return Poll::Ready(());
        };
        std::task::ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        Poll::Ready(())
    }
}

impl fmt::Debug for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turns")
    }
}
