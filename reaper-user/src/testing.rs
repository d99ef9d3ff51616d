//! What tests on real processes share.

use std::process::{Child, Command};

use reaper_registry::Pid;

/// A process that does nothing for ten minutes, unless it is ended, and not beyond its test.
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

    /// Kills it and reaps it.
    pub(crate) fn end(&mut self) {
        self.kill();
        self.0.wait().unwrap();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // Whoever cannot be killed any more has ended.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

/// Whether a test may not do without this here.
pub(crate) fn is_required(feature: &str) -> bool {
    std::env::var("REAPER_REQUIRE").is_ok_and(|list| list.split(',').any(|one| one == feature))
}

/// Says why a test says nothing here; where the feature is required, the test fails.
pub(crate) fn skip_without(feature: &str, reason: impl std::fmt::Display) {
    assert!(!is_required(feature), "{feature} is required: {reason}");
    println!("skipped: {feature}: {reason}");
}
