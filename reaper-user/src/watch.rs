//! What is watched, and how a death is decided: the set of processes, their identities, the
//! verdict, and the loop that commits it. Independent of the sources.

pub(crate) mod counters;
pub(crate) mod fd_budget;
pub(crate) mod hint;
pub(crate) mod identity;
pub(crate) mod reap_loop;
pub(crate) mod set;
pub(crate) mod status;
pub(crate) mod verdict;
