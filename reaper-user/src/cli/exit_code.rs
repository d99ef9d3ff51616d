//! Exit codes: part of the public interface, like flags and JSON fields.

/// It was done.
pub const DONE: u8 = 0;
/// It was tried and failed.
pub const FAILED: u8 = 1;
/// The command line cannot be used.
pub const USAGE: u8 = 2;
/// There is no daemon; never to be confused with a daemon that has no sessions.
pub const NO_DAEMON: u8 = 3;
/// There is no such session.
pub const NO_SESSION: u8 = 4;
/// The caller may not do this.
pub const NOT_ALLOWED: u8 = 5;
/// `doctor --strict` found something that does not work as intended.
pub const DEGRADED: u8 = 6;
/// What answers on the socket speaks another protocol.
pub const PROTOCOL: u8 = 7;
/// The configuration is bad; a service manager must not try again (`EX_CONFIG`).
pub const CONFIG: u8 = 78;
/// `run`: the command was found and could not be executed. As shells have it.
pub const CANNOT_EXECUTE: u8 = 126;
/// `run`: the command was not found. As shells have it.
pub const NOT_FOUND: u8 = 127;
