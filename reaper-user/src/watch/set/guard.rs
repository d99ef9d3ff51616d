//! A reference to an entry of the set, and the last step of registration.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reaper_registry::Source;

use super::{WatchSet, Watched};
use crate::watch::hint::Hint;

/// One reference to an entry. Dropping it releases the entry, unless [`WatchGuard::detach`] has
/// left that to a later [`WatchSet::release`].
#[must_use]
pub(crate) struct WatchGuard {
    pub(super) set: Arc<WatchSet>,
    pub watched: Arc<Watched>,
    pub(super) detached: bool,
}

impl WatchGuard {
    /// Leaves the reference to one later call of [`WatchSet::release`].
    pub(crate) fn detach(&mut self) {
        self.detached = true;
    }

    /// Does the last step of registration. The process may have ended after it was pinned and
    /// before the sources were armed, and then only the next sweep would find it.
    ///
    /// If the process is not exiting yet, every armed source will still observe its exit. Otherwise
    /// this sends a hint, and the loop rechecks: the probe fires before a process is seen as dead,
    /// since 6.16 long before, so one that was armed too late for the probe may look alive here. A
    /// missing record, or one of another process, is no proof of life.
    ///
    /// One such check is enough for a process, because the sources stay armed for it. Whatever is stored
    /// for it later is removed when the loop finds it gone. Only if that was before it was stored, a hint
    /// is needed: the mark is set before the loop removes anything, under the lock under which the caller
    /// has stored it.
    pub(crate) fn recheck(&self) {
        let Watched { id, pid, .. } = *self.watched;
        let is = |mark: &AtomicBool| mark.load(Ordering::Acquire);
        if is(&self.watched.is_covered) && !is(&self.watched.is_gone) && self.set.has_arms() {
            return;
        }
        let is_armed = is(&self.watched.is_armed);
        let may_be_ours = |start_time| self.watched.identity().may_have_started_at(start_time);
        let exit_is_ahead = self
            .set
            .table
            .stat(pid)
            .is_ok_and(|stat| may_be_ours(stat.start_time) && !stat.main_thread_ending);
        if exit_is_ahead {
            self.watched
                .is_covered
                .fetch_or(is_armed, Ordering::Release);
        } else {
            let hint = Hint::check(id, Source::Register);
            self.set.hints.send(hint);
        }
    }
}

impl Drop for WatchGuard {
    fn drop(&mut self) {
        if self.detached {
            return;
        }
        let id = self.watched.id;
        self.set.release(id);
        // Another registration may have reused the entry before the sources were armed here, and
        // its recheck was too early then. This registration will not make the recheck that covers
        // it.
        if self.set.get(id).is_some() {
            let hint = Hint::check(id, Source::Register);
            self.set.hints.send(hint);
        }
    }
}
