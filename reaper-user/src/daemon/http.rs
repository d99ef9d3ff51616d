//! The HTTP/1.1 layer of the daemon: framing, the request policy, bodies, queries, errors, and what hyper must not see.

pub(crate) mod accept;
pub(crate) mod body;
pub(crate) mod framing;
pub(crate) mod policy;
pub(crate) mod problem;
pub(crate) mod query;
pub(crate) mod secrets;
