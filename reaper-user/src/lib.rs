//! Reports the exit of any process at once, and keeps a registry of sessions that end with their
//! processes.
//!
//! There are two types for other programs. Neither needs a daemon, root or global state:
//!
//! - [`ExitWatcher`] watches any process, not only children, and reports once how it ended.
//! - [`Reaper`] is a registry of sessions. Each session belongs to a process and is found by its token
//!   in constant time. It is removed as soon as the process has ended, with hooks and events.
//!
//! The `reaperd` binary of this package serves a [`Reaper`] over HTTP on a Unix socket.
//!
//! ```
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let watcher = reaperd::ExitWatcher::builder().start().await;
//! let mut child = std::process::Command::new("sleep").arg("0.1").spawn()?;
//! let exit = watcher.watch(reaperd::Pid::try_from(child.id())?)?.await?;
//! println!("{exit}");
//! # child.wait()?;
//! # Ok(()) }
//! # tokio::runtime::Runtime::new()?.block_on(run())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A registry of sessions
//!
//! [`Registry::builder`] has the settings of the registry: hooks, limits and lifetimes.
//! [`Reaper::builder`] takes it, and adds the settings of the watch: [`Sources`], the sweep interval
//! and the number of pidfds. [`Registration::new`] names a session id, a token and a pid;
//! [`Reaper::register`] stores it, and [`Reaper::register_if`] does so after a check of the process.
//! [`Reaper::subscribe`] and [`Reaper::events`] return the history as a stream, [`Events`].
//! [`Random`] draws tokens and keys.
//!
//! # Sources
//!
//! | source | reports | privilege | minimum kernel | can miss |
//! |---|---|---|---|---|
//! | `netlink` (proc connector) | exit, its status and its time | none since 6.6, before `CAP_NET_ADMIN`; the initial network, pid and user namespaces | any with `CONFIG_PROC_EVENTS` | exits while its buffer is full |
//! | `ebpf` (feature `ebpf`) | exit, its status and its time | `CAP_BPF` and `CAP_PERFMON`, or root; the initial pid namespace | 5.8 with BTF | processes beyond the size of its map; exits during another one on the same CPU |
//! | `pidfd` | exit; its status since 6.15 | none | 5.3 | processes without a descriptor; late while a debugger keeps dead threads |
//! | `sweep` | that the process is gone | none | any system | a later process with the same pid and start time, where no descriptor is left; late by up to its interval (5 s) |
//!
//! All that work are used together ([`Sources::Auto`]). A source reports that it is up once it has
//! shown that it delivers. What one source misses, another one or the sweep reports. A source that
//! does not work has a reason and a remedy in [`ExitWatcher::status`], and is tried again. When a loss
//! of events is noticed, every watched process is checked at once.
//!
//! # Questions
//!
//! **What happens when a pid is reused?** A process is identified by a pidfd, or by its pid and start
//! time where no descriptor is left, and never by its pid alone where anything else can be read
//! ([`IdentityStrength`]). A hint from a source only causes a check; the check decides. With a pidfd a
//! later process with the same pid is never mistaken for the one that was watched. Without one, two
//! processes that start in the same clock tick (10 ms) under the same pid cannot be distinguished by
//! the start time alone; the inode number of a pidfd distinguishes them since Linux 6.9.
//!
//! **What happens when a future or a watcher is dropped?** Dropping a [`Watch`] ends that watch.
//! Dropping an [`ExitWatcher`] ends its watches with [`WatcherStopped`]. Dropping a [`Reaper`] stops
//! its tasks; its [`Events`] end.
//!
//! **In a container?** Pids are those of the pid namespace of this process. Outside the initial
//! network, pid and user namespaces there is no `netlink`. Outside the initial pid namespace, or
//! without privileges, there is no `ebpf`. `pidfd` and `sweep` work everywhere.
//!
//! **Without privileges?** `pidfd` and `sweep` work for every user, also for processes of other users,
//! and so does `netlink` from Linux 6.6 on.
//!
//! **On other systems?** On macOS and the BSDs the sweep is the only source: exits are seen within
//! its interval. These systems are type-checked, and the sweep is tested on Linux.
//!
//! **What does a watched process cost?** One descriptor while the budget lasts (60 % of what the limit
//! of open files leaves at the start, unless set by [`ExitWatcherBuilder::max_pidfds`]), some hundred
//! bytes of memory, an entry in the maps of the kernel where `ebpf` runs, and a check per sweep of
//! about a microsecond. Nothing while nothing happens.
//!
//! # Exit status
//!
//! [`ProcessExit::status`] is what the kernel still shows when the exit is detected. `netlink` and
//! `ebpf` report it with the event, pidfds keep it since Linux 6.15, and a process that its parent has
//! not reaped yet shows it in `/proc` to those who may trace it. Otherwise it is `None`; a status is
//! never guessed.
//!
//! # Features
//!
//! | feature | adds | default |
//! |---|---|---|
//! | `ebpf` | the `ebpf` source and an in-kernel filter for `netlink` | yes |
//! | `cli` | the `reaperd` binary: the daemon and its command line; turns on `client` and `testkit` | yes |
//! | `client` | the module `client`: a client of the daemon | by `cli` |
//! | `testkit` | nothing public: test processes for `reaperd demo`, `reaperd selftest` and the tests | by `cli` |
//!
//! With `default-features = false` the library alone is built: 29 crates, 42 with `ebpf`. The minimum
//! supported Rust version is 1.95; raising it is a minor release.
//!
//! # Examples
//!
//! The folder `examples/` of the package has three programs: `watch_pid` waits for processes,
//! `session_daemon` is a daemon with sessions, hooks and events, and `replace_polling` compares a
//! watch with polling.
#![warn(missing_docs)]
#![cfg_attr(
    not(all(feature = "cli", feature = "ebpf", target_os = "linux")),
    allow(
        unreachable_pub,
        clippy::allow_attributes,
        reason = "the test kit and the oracles of the fuzz targets re-export these items"
    )
)]

#[cfg(feature = "client")]
mod bearer;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "client")]
pub mod client;
mod clock;
#[cfg(feature = "cli")]
mod daemon;
mod engine;
mod exit_watcher;
#[cfg(all(feature = "cli", feature = "ebpf", target_os = "linux"))]
#[doc(hidden)]
pub mod fuzzing;
mod hook_threads;
mod random;
mod reaper;
mod sources;
mod sys;
#[cfg(test)]
mod testing;
#[cfg(feature = "testkit")]
#[doc(hidden)]
pub mod testkit;
#[cfg(feature = "cli")]
mod text;
mod watch;

pub use engine::Sources;
pub use exit_watcher::{ExitWatcher, ExitWatcherBuilder, ProcessExit, Watch, WatcherStopped};
pub use random::Random;
pub use reaper::{
    EventItem, Events, PinnedProcess, Reaper, ReaperBuilder, Registered, Registration,
    RegistrationError,
};
pub use reaper_registry as registry;
pub use reaper_registry::{
    Details, Event, EventKind, ExitStatus, Labels, Pid, Registry, Removal, Session, SessionId,
    Source, Token, TokenKey, Ttl,
};
pub use watch::identity::{AlreadyGone, IdentityStrength, WatchError};
pub use watch::status::SourceStatus;
