//! A session registry as a state machine: who holds which token, and which process stands behind it.
//!
//! Every later request that presents a token is resolved to its session with [`Registry::resolve`], a
//! concurrent read. Every removal has a [`Removal`] that says why, runs the hooks of that session once
//! and appends one event to the ordered log that subscribers read.
//!
//! What this crate never does: look at a process, read a clock, do I/O, start a thread, use `unsafe`.
//! Time comes in as [`Moment`], processes as opaque [`ProcessId`]s with a pid for show, deaths as
//! [`Death`]s that somebody else has judged. `reaper-user` is that somebody.
//!
//! ```
//! use reaper_registry::*;
//! use std::time::Duration;
//!
//! let registry = Registry::builder(TokenKey::new([7; 16])).build();
//! let now = Moment { boot: BootTime::from_nanos(1), wall_ms: 1_795_324_800_000 };
//! let token = Token::from_bytes([0xab; 32]);
//! let stored = registry.register(
//!     NewSession {
//!         id: SessionId::new("s-1"),
//!         token: token.clone(),
//!         process: Process::new(ProcessId(1), Pid::new(4242)?, None),
//!         owner: 1000,
//!         details: Details { mesh: "dev".into(), display_name: "api".into(), ..Details::default() },
//!         presence: None,
//!         ttl: Ttl::Default,
//!     },
//!     Authority::Owner,
//!     now,
//! )?;
//! assert_eq!(registry.resolve(&token, now).map(|s| s.entry), Some(stored.session.entry));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod config;
mod error;
mod events;
mod hooks;
mod lifetime;
mod presence;
mod process;
mod registry;
mod removal;
mod session;
mod table;
#[cfg(test)]
mod tests;
mod time;
mod token;

pub use config::{Authority, Limits, RegistryBuilder};
pub use error::RegisterError;
pub use events::log::{Next, Subscription};
pub use events::{Event, EventKind, SourceHealth, SourceState};
pub use hooks::HookRun;
pub use lifetime::Ttl;
pub use presence::{Attestation, Presence, SecretKey};
pub use process::{Pid, PidOutOfRange, Process, ProcessId, StartTime};
pub use registry::{Registry, Stored};
pub use removal::{Death, Evidence, Exit, ExitStatus, Removal, Source};
pub use session::{Details, EntryId, NewSession, Session, SessionId};
pub use time::{BootTime, Moment};
pub use token::{Token, TokenKey, TokenMalformed, TokenPrefix};
