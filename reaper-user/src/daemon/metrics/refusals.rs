//! How many requests and connections were refused, by reason: the `code` of the error that was sent.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::daemon::http::problem::Code;

/// One for each code. So the label has no other values, each has a value from the start, and counting allocates
/// nothing.
#[derive(Debug)]
pub(super) struct Refusals([AtomicU64; Code::COUNT]);

impl Default for Refusals {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Refusals {
    pub(super) fn add(&self, code: Code) {
        self.0[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counted = Code::ALL.iter().zip(&self.0);
        counted.map(|(code, count)| (code.name(), count.load(Ordering::Relaxed)))
    }
}
