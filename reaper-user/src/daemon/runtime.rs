//! The async runtime of this program. It needs threads, and a system that has none left is an error
//! here: neither a panic nor a wait without end.

use std::io;
use std::panic;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Runtime};

/// Builds a runtime with all that its drivers offer.
///
/// Where tokio gets no thread or no socket pair it panics, and the panic then waits for the workers
/// that were started before, whom nobody tells to stop. So it is built on a thread that can be left
/// behind. The hook that hears of the panic is the whole process's: to be called at its start.
pub(crate) fn build(mut builder: Builder) -> io::Result<Runtime> {
    let (tell, told) = mpsc::channel();
    let tell_of_panic = tell.clone();
    let hook = panic::take_hook();
    panic::set_hook(Box::new(move |panicked| {
        let words = panicked.payload_as_str().unwrap_or("it panicked");
        let heard = tell_of_panic.send(Err(io::Error::other(words.to_owned())));
        heard.unwrap_or(());
    }));
    let built = thread::Builder::new()
        .spawn(move || tell.send(builder.enable_all().build()).unwrap_or(()))
        .and_then(|_| told.recv().map_err(io::Error::other)?);
    panic::set_hook(hook);
    built
}
