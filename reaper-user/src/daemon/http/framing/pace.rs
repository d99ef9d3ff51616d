//! How fast a peer takes what is written to it, while more is waiting.
//!
//! Only time in which a write is blocked counts: a peer that takes everything at once is never slow,
//! however little there is. Measured where the bytes leave, so it holds for every response.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// How long writes may be blocked in all, before the peer must have taken [`BYTES_MIN`]: long enough for a
/// reader that was stopped for a moment, short enough that silent peers do not use up all connections.
const BLOCKED_MAX: Duration = Duration::from_mins(1);
/// 1 KiB a second.
const BYTES_MIN: usize = 60 * 1_024;

/// The pace of one peer since it last took [`BYTES_MIN`] or was not behind.
#[derive(Default)]
pub(super) struct Pace {
    /// Earlier blocked times.
    blocked: Duration,
    /// What it has taken after these.
    taken: usize,
    /// The current blocked time: its start and its limit.
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl Pace {
    /// Passes on the result of a write, and how many bytes it has written. Returns an error once the peer
    /// is too slow.
    pub(super) fn check<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
        written: impl Fn(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match &result {
            Poll::Ready(Ok(value)) => self.took(written(value)),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let left = BLOCKED_MAX.saturating_sub(self.blocked);
                let (_, limit) = self.waiting.get_or_insert_with(|| {
                    let now = Instant::now();
                    (now, Box::pin(sleep_until(now + left)))
                });
                ready!(limit.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        result
    }

    fn took(&mut self, bytes: usize) {
        if let Some((since, _)) = self.waiting.take() {
            self.blocked += since.elapsed();
        }
        if self.blocked.is_zero() {
            return;
        }
        self.taken += bytes;
        if self.taken >= BYTES_MIN {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::FramingFilter;
    use super::*;
    use crate::daemon::http::secrets::SecretQueue;

    /// Writes without end to a peer that takes so many bytes each time after such a pause. Returns how
    /// long that lasted, if it ended within ten minutes.
    async fn lasts(bytes: usize, pause: Duration) -> Option<Duration> {
        let (mut peer, server) = tokio::io::duplex(1_024);
        let mut filter = FramingFilter::new(server, SecretQueue::for_tests());
        let start = Instant::now();
        let writing = async {
            while filter.write_all(&[0; 512]).await.is_ok() {}
            start.elapsed()
        };
        let reading = async {
            let mut taken = vec![0; bytes];
            while start.elapsed() < Duration::from_mins(10) {
                tokio::time::sleep(pause).await;
                peer.read_exact(&mut taken).await.unwrap();
            }
        };
        tokio::select! {
            lasted = writing => Some(lasted),
            () = reading => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_less_than_a_kibibyte_a_second_is_given_up() {
        let lasted = lasts(1_000, Duration::from_secs(1)).await;
        let lasted = lasted.expect("it is too slow");
        assert!(
            lasted >= BLOCKED_MAX && lasted < BLOCKED_MAX * 2,
            "{lasted:?}"
        );
        let silent = lasts(1, Duration::from_hours(1)).await;
        assert_eq!(silent, Some(BLOCKED_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_more_is_served() {
        assert_eq!(lasts(1_100, Duration::from_secs(1)).await, None);
        let in_bursts = lasts(64 * 1_024, Duration::from_secs(50)).await;
        assert_eq!(in_bursts, None);
    }
}
