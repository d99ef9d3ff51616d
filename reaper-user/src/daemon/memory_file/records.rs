//! What is written of a session and of an event. The registry's types have no format of their own, so
//! that they can change without it.

use std::time::Duration;

use reaper_registry::{
    Appended, Attestation, BootTime, Death, Details, EntryId, EventKind, Evidence, Exit,
    ExitStatus, Labels, Member, MemberEnd, Moment, Pid, Process, ProcessId, Removal, SavedSession,
    SecretKey, Session, SessionId, Source, SourceHealth, SourceState, StartTime,
};
use serde::{Deserialize, Serialize};

use super::blocks::Block;

/// The numbers of these values are their positions, and never change.
const SOURCES: [Source; 6] = [
    Source::Netlink,
    Source::Ebpf,
    Source::Pidfd,
    Source::Sweep,
    Source::Register,
    Source::Restart,
];
const EVIDENCE: [Evidence; 4] = [
    Evidence::Pidfd,
    Evidence::Stat,
    Evidence::StartTime,
    Evidence::GroupDead,
];
const HEALTH: [SourceHealth; 3] = [SourceHealth::Up, SourceHealth::Degraded, SourceHealth::Down];

/// Nanoseconds since boot, and milliseconds since 1970.
type SavedMoment = (u64, u64);

#[derive(Serialize, Deserialize)]
pub(super) struct SessionRecord<'a> {
    digest: [u8; 16],
    token_prefix: [u8; 4],
    expires_at: Option<SavedMoment>,
    registered_at: SavedMoment,
    entry: u64,
    #[serde(borrow)]
    id: &'a str,
    process: u64,
    pid: u32,
    inode: Option<u64>,
    start_time: Option<u64>,
    owner: u32,
    mesh: &'a str,
    display_name: &'a str,
    cwd: Option<&'a str>,
    role: Option<&'a str>,
    groups: Vec<&'a str>,
    token_file: Option<&'a str>,
    presence: Option<PresenceRecord<'a>>,
    bytes: u64,
    /// The slot of its secret key.
    pub(super) secret: Option<u32>,
    /// Written behind the record, one after the other.
    #[serde(skip)]
    further: Vec<FurtherRecord<'a>>,
}

/// What some sessions have. A record of format 1 ends before it. New kinds are added at the end, with the
/// next number of the format.
#[derive(Serialize, Deserialize)]
enum FurtherRecord<'a> {
    /// Since format 2.
    Labels(#[serde(borrow)] Vec<(&'a str, &'a str)>),
    /// Since format 2. Of a session of several processes.
    Members(Vec<MemberRecord>),
    /// Since format 2. When it was first stored, if it has been renewed.
    StartedAt(SavedMoment),
}

#[derive(Serialize, Deserialize)]
struct MemberRecord {
    process: u64,
    pid: u32,
    inode: Option<u64>,
    start_time: Option<u64>,
    end: Option<(SavedMoment, RemovalRecord)>,
}

#[derive(Serialize, Deserialize)]
struct PresenceRecord<'a> {
    #[serde(borrow)]
    public_key: &'a str,
    attested: &'a str,
    parent: &'a str,
    expires_at: f64,
    signature: &'a str,
}

#[derive(Serialize, Deserialize)]
pub(super) struct EventRecord<'a> {
    pub(super) seq: u64,
    at: SavedMoment,
    pub(super) previous: u64,
    #[serde(borrow)]
    pub(super) kind: KindRecord<'a>,
}

/// Sessions are named by the blocks of their records.
#[derive(Serialize, Deserialize)]
pub(super) enum KindRecord<'a> {
    Registered(u64),
    Deregistered(u64, RemovalRecord),
    SourceState(u8, u8, &'a str),
    Shutdown,
}

#[derive(Serialize, Deserialize)]
pub(super) enum RemovalRecord {
    Died {
        source: u8,
        evidence: u8,
        pid_reused: bool,
        exit: Option<(u32, u8)>,
        detection_ns: Option<u64>,
    },
    Expired,
    Replaced,
    Requested,
}

pub(super) fn of_session(session: &Session) -> Vec<u8> {
    let Details {
        mesh,
        display_name,
        cwd,
        role,
        groups,
        labels,
        token_file,
    } = &session.details;
    let mut written = encode(&SessionRecord {
        digest: session.digest_bytes(),
        token_prefix: session.token_prefix.to_bytes(),
        expires_at: session.expires_at.map(save_moment),
        registered_at: save_moment(session.registered_at),
        entry: session.entry.0,
        id: session.id.as_str(),
        process: session.process.id.0,
        pid: session.process.pid.get(),
        inode: session.process.inode,
        start_time: session.process.start_time().map(|time| time.0),
        owner: session.owner,
        mesh,
        display_name,
        cwd: cwd.as_deref(),
        role: role.as_deref(),
        groups: groups.iter().map(AsRef::as_ref).collect(),
        token_file: token_file.as_deref(),
        presence: session.presence.as_ref().map(|(public_key, attestation)| {
            let Attestation {
                session_pubkey,
                parent_member_pubkey,
                expires_at,
                signature,
            } = attestation;
            PresenceRecord {
                public_key,
                attested: session_pubkey,
                parent: parent_member_pubkey,
                expires_at: *expires_at,
                signature,
            }
        }),
        bytes: session.bytes as u64,
        secret: session.secret_slot(),
        further: Vec::new(),
    });
    if !labels.is_empty() {
        written.extend(encode(&FurtherRecord::Labels(labels.iter().collect())));
    }
    if !session.members().is_empty() {
        let members = session.members().iter().map(MemberRecord::from);
        written.extend(encode(&FurtherRecord::Members(members.collect())));
    }
    if session.started_at != session.registered_at {
        let started_at = save_moment(session.started_at);
        written.extend(encode(&FurtherRecord::StartedAt(started_at)));
    }
    written
}

impl From<&Member> for MemberRecord {
    fn from(member: &Member) -> Self {
        let Member { process, end } = member;
        Self {
            process: process.id.0,
            pid: process.pid.get(),
            inode: process.inode,
            start_time: process.start_time().map(|time| time.0),
            end: end.map(|end| (save_moment(end.at), (&Removal::Died(end.death)).into())),
        }
    }
}

impl MemberRecord {
    fn restore(self) -> Option<Member> {
        let end = match self.end {
            Some((at, removal)) => Some(MemberEnd {
                at: moment(at),
                death: *removal.restore()?.death()?,
            }),
            None => None,
        };
        let process = process(self.process, self.pid, self.start_time)?;
        Some(Member {
            process: process.with_inode(self.inode),
            end,
        })
    }
}

fn process(id: u64, pid: u32, start_time: Option<u64>) -> Option<Process> {
    let pid = Pid::new(pid).ok()?;
    Some(Process::new(ProcessId(id), pid, start_time.map(StartTime)))
}

impl<'a> SessionRecord<'a> {
    pub(super) fn decode(content: &'a [u8]) -> Option<Self> {
        let (mut record, mut rest) = postcard::take_from_bytes::<Self>(content).ok()?;
        while !rest.is_empty() {
            let (further, behind) = postcard::take_from_bytes(rest).ok()?;
            record.further.push(further);
            rest = behind;
        }
        Some(record)
    }

    pub(super) fn restore(self, secret_key: Option<SecretKey>) -> Option<SavedSession> {
        let (mut labels, mut members) = (Labels::default(), Vec::new());
        let mut started_at = self.registered_at;
        for further in self.further {
            match further {
                FurtherRecord::Labels(pairs) => labels = pairs.into_iter().collect(),
                FurtherRecord::Members(records) => members = records,
                FurtherRecord::StartedAt(at) => started_at = at,
            }
        }
        let process = process(self.process, self.pid, self.start_time)?;
        let members = members.into_iter().map(MemberRecord::restore);
        Some(SavedSession {
            digest: self.digest,
            token_prefix: self.token_prefix,
            expires_at: self.expires_at.map(moment),
            registered_at: moment(self.registered_at),
            started_at: moment(started_at),
            entry: EntryId(self.entry),
            id: SessionId::new(self.id),
            process: process.with_inode(self.inode),
            members: members.collect::<Option<_>>()?,
            owner: self.owner,
            details: Details {
                mesh: self.mesh.into(),
                display_name: self.display_name.into(),
                cwd: self.cwd.map(Into::into),
                role: self.role.map(Into::into),
                groups: self.groups.into_iter().map(Into::into).collect(),
                labels,
                token_file: self.token_file.map(Into::into),
            },
            presence: self.presence.map(|it| {
                let attestation = Attestation {
                    session_pubkey: it.attested.into(),
                    parent_member_pubkey: it.parent.into(),
                    expires_at: it.expires_at,
                    signature: it.signature.into(),
                };
                (it.public_key.into(), attestation)
            }),
            bytes: usize::try_from(self.bytes).ok()?,
            secret_key,
        })
    }
}

/// `session` is the block of the session of the event, if it has one.
pub(super) fn of_event(appended: &Appended, session: Option<Block>) -> Vec<u8> {
    let event = &appended.event;
    let block = session.map_or(0, Block::number);
    let kind = match &event.kind {
        EventKind::Registered(_) => KindRecord::Registered(block),
        EventKind::Deregistered(_, removal) => KindRecord::Deregistered(block, removal.into()),
        EventKind::SourceState(state) => KindRecord::SourceState(
            position(&SOURCES, &state.source),
            position(&HEALTH, &state.health),
            &state.reason,
        ),
        _ => KindRecord::Shutdown,
    };
    encode(&EventRecord {
        seq: event.seq,
        at: save_moment(event.at),
        previous: appended.previous,
        kind,
    })
}

impl<'a> EventRecord<'a> {
    pub(super) fn decode(content: &'a [u8]) -> Option<Self> {
        postcard::from_bytes(content).ok()
    }

    pub(super) fn at(&self) -> Moment {
        moment(self.at)
    }
}

impl From<&Removal> for RemovalRecord {
    fn from(removal: &Removal) -> Self {
        match removal {
            Removal::Died(death) => Self::Died {
                source: position(&SOURCES, &death.source),
                evidence: position(&EVIDENCE, &death.evidence),
                pid_reused: death.pid_reused,
                exit: death
                    .exit
                    .map(|exit| (exit.status.to_wait_status(), position(&SOURCES, &exit.from))),
                detection_ns: death
                    .detection
                    .map(|time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
            },
            Removal::Expired => Self::Expired,
            Removal::Replaced => Self::Replaced,
            Removal::Requested => Self::Requested,
        }
    }
}

impl RemovalRecord {
    pub(super) fn restore(self) -> Option<Removal> {
        Some(match self {
            Self::Died {
                source,
                evidence,
                pid_reused,
                exit,
                detection_ns,
            } => Removal::Died(Death {
                source: value(&SOURCES, source)?,
                evidence: value(&EVIDENCE, evidence)?,
                pid_reused,
                exit: match exit {
                    Some((status, from)) => Some(Exit {
                        status: ExitStatus::from_wait_status(status),
                        from: value(&SOURCES, from)?,
                    }),
                    None => None,
                },
                detection: detection_ns.map(Duration::from_nanos),
            }),
            Self::Expired => Removal::Expired,
            Self::Replaced => Removal::Replaced,
            Self::Requested => Removal::Requested,
        })
    }
}

pub(super) fn source_state(source: u8, health: u8, reason: &str) -> Option<SourceState> {
    Some(SourceState {
        source: value(&SOURCES, source)?,
        health: value(&HEALTH, health)?,
        reason: reason.to_owned(),
    })
}

fn encode(record: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(record).expect("plain values can be written to a vector")
}

const fn save_moment(moment: Moment) -> SavedMoment {
    (moment.boot.as_nanos(), moment.wall_ms)
}

const fn moment((nanos, wall_ms): SavedMoment) -> Moment {
    Moment {
        boot: BootTime::from_nanos(nanos),
        wall_ms,
    }
}

fn position<T: PartialEq>(of: &[T], value: &T) -> u8 {
    let position = of.iter().position(|it| it == value);
    position
        .and_then(|it| u8::try_from(it).ok())
        .unwrap_or(u8::MAX)
}

fn value<T: Copy>(of: &[T], position: u8) -> Option<T> {
    of.get(usize::from(position)).copied()
}
