//! The start of a [`Reaper`], whose registry may be restored: in steps, of which the first only reads.

use std::sync::Arc;

use reaper_registry::{Death, ProcessId, Registry, RegistryBuilder};
use tokio::sync::watch;

use super::{KeepTrue, Reaper};
use crate::clock;
use crate::engine::Prepared;
use crate::hook_threads::HookThreads;
use crate::watch::set::restore::PinnedAgain;

/// A reaper that has looked for the processes of its sessions, and has changed nothing yet.
pub(crate) struct PreparedReaper {
    pub(super) registry: RegistryBuilder,
    pub(super) prepared: Prepared,
    pub(super) pinned: PinnedAgain,
    pub(super) next_process: u64,
}

impl PreparedReaper {
    /// Builds the registry and passes it to `built`; then removes the sessions of the processes that have
    /// ended, and starts. Must be called within a tokio runtime.
    pub(crate) fn start_now(self, built: impl FnOnce(&Registry)) -> Reaper {
        let (reaper, ended) = self.start(|registry, ended| {
            built(registry);
            ended.remove_from(registry);
        });
        drop(ended);
        reaper
    }

    /// As [`Self::start_now`], but changes nothing before [`Reaper::end_pause`]: the sources start, and
    /// what they report waits. Returns the processes that have ended, whose sessions are still there.
    #[cfg(feature = "cli")]
    pub(crate) fn start_paused(self, built: impl FnOnce(&Registry)) -> (Reaper, Ended) {
        self.start(|registry, _| {
            built(registry);
            registry.pause();
        })
    }

    fn start(self, built: impl FnOnce(&Registry, &mut Ended)) -> (Reaper, Ended) {
        let Self {
            registry,
            prepared,
            mut pinned,
            next_process,
        } = self;
        let registry = if registry.has_hooks() {
            let threads = HookThreads::default();
            registry.run_hooks_by(move |hooks| threads.run(hooks))
        } else {
            registry
        };
        let watched = prepared.watched.clone();
        let changed = Arc::new(watch::Sender::new(()));
        let notifier = Arc::downgrade(&changed);
        // Every session stored holds the entry of each of its processes once, whatever ends that.
        let registry = registry
            .on_released(move |process| watched.release(process))
            .on_event(move || {
                if let Some(changed) = notifier.upgrade() {
                    changed.send_modify(|()| {});
                }
            })
            .build();
        let mut ended = Ended(std::mem::take(&mut pinned.ended));
        prepared.watched.restore(pinned, next_process);
        built(&registry, &mut ended);
        let engine = prepared.start(KeepTrue(registry.clone()));
        let reaper = Reaper {
            registry,
            engine,
            changed,
        };
        (reaper, ended)
    }
}

/// The processes of restored sessions that have ended.
#[derive(Default)]
pub(crate) struct Ended(Vec<(ProcessId, Death)>);

impl Ended {
    pub(super) fn remove_from(&mut self, registry: &Registry) {
        for (process, death) in self.0.drain(..) {
            registry.remove_process(process, death, clock::now());
        }
        registry.expire(clock::now());
    }
}
