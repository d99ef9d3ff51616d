//! Several users of one daemon: none can harm another.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod client;
mod hostile;
mod measured;

/// The users of these tests. They need no accounts.
const FAT: u32 = 2001;
const MANY: u32 = 2002;
const RESTLESS: u32 = 2003;
const OTHER: u32 = 2004;
const REFUSED: u32 = 2005;
