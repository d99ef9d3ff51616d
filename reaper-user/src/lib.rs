//! reaperd as a library.

pub mod cli;
pub mod client;
pub mod clock;
pub mod daemon;
pub mod exit_code;
pub mod socket_path;
pub mod status;
pub mod sys;
#[doc(hidden)]
pub mod victims;
