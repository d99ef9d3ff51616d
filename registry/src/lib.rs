//! An in-memory session registry: it maps secret tokens to sessions and sessions to processes.
//!
//! A session is registered with a token and a process, or several. Later requests present the token, and
//! [`Registry::resolve`] returns the session. Every removal has a cause ([`Removal`]), runs the
//! deregister hooks of that session once, and appends one [`Event`] to an ordered history.
//!
//! The crate is a state machine. It does not inspect processes, read clocks, do I/O, start threads or
//! use `unsafe`. The caller passes in the time ([`Moment`]), an opaque [`ProcessId`] per process, and a
//! [`Death`] when a process has ended. `reaperd` is such a caller.
//!
//! ```
//! use reaper_registry::*;
//!
//! let registry = Registry::builder(TokenKey::new([7; 16])).build();
//! let now = Moment { boot: BootTime::from_nanos(1), wall_ms: 1_795_324_800_000 };
//! let token = Token::from_bytes([0xab; 32]);
//! let stored = registry.register(
//!     NewSession {
//!         id: SessionId::new("s-1"),
//!         token: token.clone(),
//!         process: Process::new(ProcessId(1), Pid::new(4242)?, None),
//!         further: Vec::new(),
//!         owner: 1000,
//!         details: Details { mesh: "dev".into(), display_name: "api".into(), ..Details::default() },
//!         presence: None,
//!         ttl: Ttl::Default,
//!     },
//!     now,
//! )?;
//! assert_eq!(registry.resolve(&token, now).map(|s| s.entry), Some(stored.session.entry));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Blocking
//!
//! No method waits for a reader of events or for a hook on another thread. Each method that changes
//! the registry runs the hooks that are due on the calling thread, unless
//! [`RegistryBuilder::run_hooks_by`] names another place.
//!
//! # Cost
//!
//! With *n* sessions, all of them live:
//!
//! * [`Registry::resolve`]: O(1), one read lock of one of 256 shards, no allocation.
//! * [`Registry::register`], [`Registry::deregister`]: O(log *n*), plus [`Registry::expire`].
//! * [`Registry::remove_entry`], [`Registry::remove_unchanged`]: O(log *n*).
//! * [`Registry::remove_process`]: O(*k* log *n*) for the *k* sessions of the process.
//! * [`Registry::expire`]: O(*k* log *n*) for the *k* sessions that have expired.
//! * [`Registry::list`]: O(*n*). [`Registry::page`]: O(*k* log *n*) for *k* sessions.
//! * [`Registry::subscribe`], [`Registry::resume`]: O(1), whatever the number of sessions.
//! * The history: O(log *e*) for an event that is appended or read, with *e* events kept.
//!
//! `reaperd`, which stores more than the registry for each session, used 753 bytes of resident memory
//! per session at 100,000 sessions (`docs/benchmarks.md` in the repository). [`Limits`] bound the number
//! of sessions and their bytes, in all and for each owner. The event log keeps at most a fixed number of
//! events, the tombstones of removed sessions number at most 4,096, and at most about 16,384 hook calls
//! wait. Events and tombstones keep removed sessions in memory, without their keys.
//!
//! # Owners
//!
//! Each session belongs to an owner, a numeric user. Session ids are per owner: two owners may have the
//! same id. If the event log or the tombstones are full, the owner that has most of them loses his oldest
//! one, so one owner cannot push out the history of another.
//!
//! # Lock order
//!
//! 1. The table.
//! 2. Any one of: a shard of the token index, the event log, the tombstones, the hook queues, the secret
//!    key of a session, a lock of [`SecretMemory`].
//!
//! A thread may take a lock of the second group while it holds the table, never the reverse, and never
//! two of the second group. A [`Journal`] is called with the locks of the table and of the event log, and
//! must take no other lock of the registry. Callbacks (hooks, `on_event`, `on_removed`) run with no lock held, so they
//! may call any method of the registry. A panic never poisons the registry: every lock is recovered.
#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations)]

mod config;
mod error;
mod events;
mod hooks;
mod journal;
mod labels;
mod lifetime;
mod members;
mod presence;
mod process;
mod registry;
mod removal;
mod secret_memory;
mod session;
mod sharing;
mod size;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod token;

pub use config::{Limits, RegistryBuilder, Rules};
pub use error::RegisterError;
pub use events::log::{Next, Subscription};
pub use events::{Event, EventKind, SourceHealth, SourceState};
pub use hooks::HookRun;
pub use journal::{Appended, Changes, Counters, Journal, SavedSession, State};
pub use labels::Labels;
pub use lifetime::Ttl;
pub use members::{Member, MemberEnd};
pub use presence::{Attestation, Presence, SecretKey};
pub use process::{Pid, PidOutOfRange, Process, ProcessId, StartTime};
pub use registry::{OwnerUsage, Registry, Removed, Stored, Totals};
pub use removal::{Death, Evidence, Exit, ExitStatus, Removal, Source};
pub use secret_memory::SecretMemory;
pub use session::{Details, EntryId, NewSession, Session, SessionId};
pub use sharing::Claim;
pub use time::{BootTime, Moment};
pub use token::{Presented, Token, TokenKey, TokenMalformed, TokenPrefix, TokenRef};
