//! The signals that end a command which first has something to stop or to undo.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{self, SignalKind};

use crate::sys::signal_action::restore_default;

/// Some signals, which have no other effect than to be received here.
pub(super) struct EndSignals(Vec<(Signal, unix::Signal)>);

impl EndSignals {
    /// Begins to receive these signals.
    pub(super) fn receive(signals: impl IntoIterator<Item = Signal>) -> io::Result<Self> {
        let receive = |signal: Signal| {
            let arrivals = unix::signal(SignalKind::from_raw(signal.as_raw()))?;
            Ok((signal, arrivals))
        };
        let received = signals.into_iter().map(receive);
        Ok(Self(received.collect::<io::Result<_>>()?))
    }

    /// Waits for the next one. Cancel-safe.
    pub(super) async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            let arrived = self.0.iter_mut().find_map(|(signal, arrivals)| {
                let has_arrived = arrivals.poll_recv(context).is_ready();
                has_arrived.then_some(*signal)
            });
            arrived.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Ends this process by the signal, so that its parent sees what ended it.
pub(super) fn end_by(signal: Signal) -> io::Result<()> {
    restore_default(signal)?;
    kill_process(getpid(), signal)?;
    Ok(())
}
