//! Notices that standard output has no reader any more, also while nothing is written to it.

use std::io;
use std::os::fd::AsFd as _;
use std::thread;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::sync::oneshot;

/// Returns once the reader of standard output has gone. Pending for ever for a file.
pub(super) async fn gone() {
    let (sender, receiver) = oneshot::channel();
    let started = thread::Builder::new()
        .name("reader".to_owned())
        .spawn(move || {
            if wait() {
                // Without a receiver, the command has ended.
                sender.send(()).unwrap_or_default();
            }
        });
    if started.is_err() || receiver.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for an error or a hang-up; errors are always reported. Returns whether there is one.
fn wait() -> bool {
    let stdout = io::stdout();
    loop {
        let mut polled = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty())];
        match poll(&mut polled, None) {
            Ok(_) => {
                let seen = polled[0].revents();
                return seen.intersects(PollFlags::ERR | PollFlags::HUP)
                    && !seen.contains(PollFlags::NVAL);
            }
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
