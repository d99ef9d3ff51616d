//! The async runtime of this program. If the system has no threads left, building it is an error
//! here, neither a panic nor an endless wait.

use std::io;
use std::panic;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Runtime};

/// Builds a runtime with all drivers.
///
/// If tokio gets no thread or no socket pair it panics, and unwinding then waits for workers that
/// never receive a request to stop. So the runtime is built on a thread that can be abandoned. The
/// panic hook that reports the failure belongs to the whole process: call this at its start.
pub(crate) fn build(mut builder: Builder) -> io::Result<Runtime> {
    let (sender, receiver) = mpsc::channel();
    let panic_sender = sender.clone();
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        let message = panicked.payload_as_str().unwrap_or("it panicked");
        let sent = panic_sender.send(Err(io::Error::other(message.to_owned())));
        sent.unwrap_or(());
    }));
    let built = thread::Builder::new()
        .spawn(move || sender.send(builder.enable_all().build()).unwrap_or(()))
        .and_then(|_| receiver.recv().map_err(io::Error::other)?);
    panic::set_hook(hook);
    built
}
