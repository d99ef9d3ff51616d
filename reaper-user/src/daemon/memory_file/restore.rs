//! Reads a memory file that an earlier process has left. Writes nothing.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use reaper_registry::{Appended, Event, EventKind, SecretKey, SecretMemory, Session, State};

use super::blocks::{Block, Blocks, Kind};
use super::header::{self, Identity, Unusable};
use super::records::{self, EventRecord, KindRecord, SessionRecord};
use super::{MemoryFile, session_of};
use crate::sys::shared_file::SharedFile;

/// What was found in a memory file.
pub(crate) struct Found {
    pub(crate) file: MemoryFile,
    pub(crate) state: State,
    /// What the file belongs to, with the epoch and the slot of the token key.
    pub(crate) identity: Identity,
    /// The version of the program that created it.
    pub(crate) program: String,
    /// A process id that no session of the file has ever had.
    pub(crate) next_process: u64,
    /// How many records were left out because they are damaged.
    pub(crate) damaged: usize,
}

impl MemoryFile {
    /// Reads the state of this file. `secret` returns the memory of a slot.
    pub(crate) fn read(
        fd: OwnedFd,
        here: &Identity,
        secret: impl Fn(u32) -> Option<Box<dyn SecretMemory>>,
    ) -> Result<Found, Unusable> {
        let file = SharedFile::open(fd)?;
        let header = header::read(&file, here)?;
        let (blocks, records) = Blocks::read(file);
        let mut reading = Reading {
            blocks,
            values: HashMap::new(),
            state: State {
                counters: header.counters,
                ..State::default()
            },
            events: BTreeMap::new(),
            damaged: 0,
        };
        let (sessions, events): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|it| it.kind == Kind::Session);
        for record in sessions {
            let read = record.content.as_deref().and_then(SessionRecord::decode);
            let read = read.and_then(|it| restore(it, record.has_ended, &secret));
            reading.session(record.block, record.has_ended, read);
        }
        for record in events {
            let read = record.content.as_deref().and_then(EventRecord::decode);
            let read = read.and_then(|it| reading.restore_event(it));
            reading.event(record.block, read);
        }
        reading.free_unused();
        let Reading {
            blocks,
            state,
            events,
            damaged,
            ..
        } = reading;
        Ok(Found {
            file: Self::with(blocks, events, header.next_process),
            state,
            identity: header.identity,
            program: header.program,
            next_process: header.next_process,
            damaged,
        })
    }
}

fn restore(
    record: SessionRecord<'_>,
    has_ended: bool,
    secret: impl Fn(u32) -> Option<Box<dyn SecretMemory>>,
) -> Option<Arc<Session>> {
    let slot = record.secret.filter(|_| !has_ended);
    let key = slot.and_then(secret).map(SecretKey::adopt);
    record.restore(key).map(Session::restore)
}

struct Reading {
    blocks: Blocks,
    values: HashMap<Block, Arc<Session>>,
    state: State,
    events: BTreeMap<u64, Block>,
    damaged: usize,
}

impl Reading {
    fn session(&mut self, block: Block, has_ended: bool, read: Option<Arc<Session>>) {
        let Some(session) = read else {
            return self.leave_out(block);
        };
        session
            .journal_mark()
            .store(block.number(), Ordering::Relaxed);
        if !has_ended {
            self.blocks.refer(block);
            self.state.sessions.push(session.clone());
        }
        self.values.insert(block, session);
    }

    fn restore_event(&self, record: EventRecord<'_>) -> Option<Appended> {
        let value = |block| self.values.get(&Block::numbered(block)).cloned();
        let (seq, at, previous) = (record.seq, record.at(), record.previous);
        let kind = match record.kind {
            KindRecord::Registered(block) => EventKind::Registered(value(block)?),
            KindRecord::Deregistered(block, removal) => {
                EventKind::Deregistered(value(block)?, removal.restore()?)
            }
            KindRecord::SourceState(source, health, reason) => {
                EventKind::SourceState(records::source_state(source, health, reason)?)
            }
            KindRecord::Shutdown => EventKind::Shutdown,
        };
        let event = Arc::new(Event { seq, at, kind });
        Some(Appended { event, previous })
    }

    fn event(&mut self, block: Block, read: Option<Appended>) {
        let Some(appended) = read else {
            return self.leave_out(block);
        };
        if let Some(session) = session_of(&appended.event) {
            self.blocks.refer(super::block_of(session));
        }
        self.events.insert(appended.event.seq, block);
        self.state.events.push(appended);
    }

    fn leave_out(&mut self, block: Block) {
        self.damaged += 1;
        self.blocks.discard(block);
    }

    /// Frees the records of ended sessions whose events are damaged.
    fn free_unused(&mut self) {
        for block in self.values.keys() {
            if !self.blocks.is_referred_to(*block) {
                self.blocks.discard(*block);
            }
        }
    }
}
