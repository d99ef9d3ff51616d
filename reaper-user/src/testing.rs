//! Helpers for unit tests with real processes.

use std::process::{Child, Command};

use reaper_registry::Pid;

/// A process that sleeps for ten minutes. Dropping it kills and reaps it.
pub(crate) struct Sleeper(Child);

impl Sleeper {
    pub(crate) fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::new(self.0.id()).unwrap()
    }

    pub(crate) fn kill(&mut self) {
        self.0.kill().unwrap();
    }

    /// Kills and reaps the process.
    pub(crate) fn end(&mut self) {
        self.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // An error means that the process has already ended.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

/// Runs `work` with the id of a thread of this process, which lives meanwhile.
#[cfg(target_os = "linux")]
pub(crate) fn with_thread<T>(work: impl FnOnce(Pid) -> T) -> T {
    let (sender, thread_id) = std::sync::mpsc::channel();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            sender.send(rustix::thread::gettid()).unwrap();
            stopped.recv().unwrap_or_default();
        });
        let thread_id = thread_id.recv().unwrap().as_raw_nonzero().get();
        let result = work(Pid::try_from(thread_id).unwrap());
        drop(stop);
        result
    })
}

/// How much a long test does: `full` with `REAPER_TEST_SCALE=full`, else `bounded`.
pub(crate) fn scaled<T>(full: T, bounded: T) -> T {
    let is_full = std::env::var("REAPER_TEST_SCALE").is_ok_and(|scale| scale == "full");
    if is_full { full } else { bounded }
}

/// Returns whether `REAPER_REQUIRE` lists the feature.
pub(crate) fn is_required(feature: &str) -> bool {
    std::env::var("REAPER_REQUIRE").is_ok_and(|list| list.split(',').any(|one| one == feature))
}

/// Prints why a test is skipped. Fails the test if the feature is required.
pub(crate) fn skip_without(feature: &str, reason: impl std::fmt::Display) {
    assert!(!is_required(feature), "{feature} is required: {reason}");
    println!("skipped: {feature}: {reason}");
}
