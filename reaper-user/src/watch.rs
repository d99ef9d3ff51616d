//! What is watched, and how a death is decided: the set of processes, their identities, the
//! verdict, and the loop that commits it. Independent of the sources.

pub mod fd_budget;
pub mod hint;
pub mod identity;
pub(crate) mod reap_loop;
pub mod set;
pub mod status;
pub mod verdict;
