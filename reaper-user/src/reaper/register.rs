//! The registration of a session: the order of its steps, for each process that it hangs on.

use std::collections::BTreeSet;
use std::convert::Infallible;

use reaper_registry::{
    Death, NewSession, Pid, Process, ProcessId, RegisterError, Source, Stored, Token,
};

use super::{PinnedProcess, Reaper, Registered, Registration, RegistrationError};
use crate::clock;
use crate::watch::set::{WatchGuard, Watched};
use crate::watch::verdict::Verdict;

impl Reaper {
    /// Registers a session for the process that has this pid now.
    ///
    /// The same token, session id, process and owner again renew the session in place, without an
    /// event; with another mesh or other labels they replace it. A token of a live session of another process is refused
    /// ([`TokenInUse`](crate::registry::RegisterError::TokenInUse)); that process is checked first,
    /// so one that has just ended is no obstacle.
    pub fn register(&self, registration: Registration) -> Result<Registered, RegistrationError> {
        self.register_if(registration, |_| Ok::<_, Infallible>(()))
    }

    /// The same with a check of the process, which may refuse it. The check runs after the process
    /// is pinned and before anything is stored; of several processes for each.
    pub fn register_if<Refusal>(
        &self,
        registration: Registration,
        mut check: impl FnMut(&PinnedProcess<'_>) -> Result<(), Refusal>,
    ) -> Result<Registered, RegistrationError<Refusal>> {
        let Registration {
            id,
            token,
            pid,
            further,
            owner,
            details,
            presence,
            ttl,
        } = registration;
        self.check_count(pid, &further, owner)?;
        let is_alone = further.is_empty();
        let of_member = |error: RegistrationError<Refusal>| {
            if is_alone {
                error
            } else {
                error.of_member(pid)
            }
        };
        let first = self.pin(pid, &mut check).map_err(of_member)?;
        let mut others: Vec<WatchGuard> = Vec::new();
        for pid in further {
            let guard = self.pin(pid, &mut check);
            let guard = guard.map_err(|error| error.of_member(pid))?;
            let is_known = |known: &WatchGuard| known.watched.id == guard.watched.id;
            if !is_known(&first) && !others.iter().any(is_known) {
                others.push(guard);
            }
        }
        let guards = || std::iter::once(&first).chain(&others);
        self.remove_dead_owner(&token, |process| {
            guards().any(|guard| guard.watched.id == process)
        });
        let new = NewSession {
            id,
            token,
            process: process_of(&first.watched),
            further: others.iter().map(|it| process_of(&it.watched)).collect(),
            owner,
            details,
            presence,
            ttl,
        };
        let Stored { session, renewed } = self.registry.register(new, clock::now())?;
        let weakest = guards().map(|guard| guard.watched.strength()).max();
        let identity = weakest.unwrap_or_else(|| first.watched.strength());
        for mut guard in std::iter::once(first).chain(others) {
            // The registry releases the entry. A renewal has released those of the former value.
            guard.detach();
            guard.recheck();
        }
        Ok(Registered {
            session,
            renewed,
            identity,
        })
    }

    /// Refuses more processes than the owner may have sessions, before each of them is pinned. The registry
    /// checks again what is then stored.
    fn check_count(&self, pid: Pid, further: &[Pid], owner: u32) -> Result<(), RegisterError> {
        if further.is_empty() {
            return Ok(());
        }
        let distinct: BTreeSet<_> = further.iter().chain([&pid]).collect();
        let usage = self.registry.usage(owner);
        // A share that has shrunk takes nothing back, and this session may replace all that he has.
        let limit = usage.most_sessions.max(usage.sessions);
        if distinct.len() > limit {
            return Err(RegisterError::TooManyForOwner { owner, limit });
        }
        Ok(())
    }

    fn pin<Refusal>(
        &self,
        pid: Pid,
        check: &mut impl FnMut(&PinnedProcess<'_>) -> Result<(), Refusal>,
    ) -> Result<WatchGuard, RegistrationError<Refusal>> {
        let guard = self.engine.watched.watch(pid)?;
        let process = PinnedProcess {
            watched: &guard.watched,
            table: self.engine.watched.table.as_ref(),
        };
        check(&process).map_err(RegistrationError::Refused)?;
        Ok(guard)
    }

    /// Ends the processes of the session that has this token which have ended, if it hangs on others than
    /// `is_new` names. The reap loop may not have found them yet, and a program that restarts at once must
    /// not be refused for that.
    fn remove_dead_owner(&self, token: &Token, is_new: impl Fn(ProcessId) -> bool) {
        let Some(session) = self.resolve(token) else {
            return;
        };
        if session.living().any(|process| is_new(process.id)) {
            return;
        }
        for process in session.living() {
            if let Some(owner) = self.engine.watched.get(process.id) {
                self.remove_if_dead(&owner);
            }
        }
    }

    fn remove_if_dead(&self, owner: &Watched) {
        let table = self.engine.watched.table.as_ref();
        if let Verdict::Gone {
            evidence,
            pid_reused,
        } = owner.judge(None, table)
        {
            let death = Death {
                source: Source::Register,
                evidence,
                pid_reused,
                exit: owner.exit(table),
                detection: None,
            };
            self.registry.remove_process(owner.id, death, clock::now());
        }
    }
}

fn process_of(watched: &Watched) -> Process {
    Process::new(watched.id, watched.pid, watched.start_time()).with_inode(watched.inode())
}
