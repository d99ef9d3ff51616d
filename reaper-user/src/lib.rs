//! A session registry that never shows a ghost, and the exit watcher it stands on.
//!
//! Two doors for other programs, and neither needs a daemon, root or global state:
//! [`ExitWatcher`] watches any process and tells once how it ended; [`Reaper`] is a registry of
//! sessions that is kept true while their processes live and die.
//!
//! The modules, in the order in which an exit passes through them:
//! sources say *look* ([`watch::hint`]), [`watch::verdict`] decides, the loop commits, the registry tells.

pub mod cli;
pub mod client;
pub mod clock;
pub mod daemon;
mod engine;
mod exit_watcher;
// On Linux, where all the parsers are.
#[cfg(all(feature = "fuzzing", target_os = "linux"))]
#[doc(hidden)]
pub mod fuzzing;
mod hook_threads;
mod reaper;
pub mod sources;
pub mod sys;
#[cfg(test)]
mod testing;
#[doc(hidden)]
pub mod testkit;
mod text;
pub mod watch;

pub use daemon::StartupError;
pub use daemon::api::listener::ListenError;
pub use engine::{Settings, Sources};
pub use exit_watcher::{ExitWatcher, ExitWatcherBuilder, ProcessExit, Watch, WatcherStopped};
pub use reaper::{Reaper, Registered, Registration, RegistrationError};
pub use reaper_registry as registry;
pub use reaper_registry::{Pid, Source};
pub use watch::identity::{AlreadyGone, NotPinned};
pub use watch::status::SourceStatus;
