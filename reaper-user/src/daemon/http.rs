//! HTTP/1.1 as the daemon reads and writes it: where messages end, what every request has to pass, bodies,
//! queries and refusals.

pub(crate) mod body;
pub(crate) mod framing;
pub(crate) mod policy;
pub(crate) mod problem;
pub(crate) mod query;
