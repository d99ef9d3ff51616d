//! The JSON types of responses and events. None of them has a field for a token or a secret key.

mod health;
mod members;

use std::collections::BTreeMap;

use jiff::Timestamp;
use reaper_registry::{
    Death, Event, Exit, ExitStatus, Labels, Moment, Removal, Session, Source, SourceState,
};
use serde::{Serialize, Serializer};

pub(crate) use self::health::{
    CarriedOverView, ConfigView, Health, LastExit, MemoryView, PublicHealth, SandboxView,
};
pub(crate) use self::members::MemberView;
use crate::watch::identity::IdentityStrength;
use crate::watch::status::SourceStatus;

/// A session as its owner sees it, in camel case as the claudemesh daemon has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionView<'a> {
    session_id: &'a str,
    mesh: &'a str,
    display_name: &'a str,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    groups: &'a [Box<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<LabelsView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence: Option<PresenceView<'a>>,
    registered_at: u64,
    /// Milliseconds since 1970; null: as long as the process lives.
    expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<String>,
    /// In snake case, as the claudemesh daemon has it.
    #[serde(rename = "token_prefix")]
    token_prefix: String,
    uid: u32,
    /// Null once the process is no longer watched.
    identity: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_at: Option<u64>,
    /// All of its processes, if there are several.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<MemberView>,
}

/// An object, in the order of the keys.
struct LabelsView<'a>(&'a Labels);

impl Serialize for LabelsView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PresenceView<'a> {
    session_pubkey: &'a str,
    parent_attestation: AttestationView<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AttestationView<'a> {
    session_pubkey: &'a str,
    parent_member_pubkey: &'a str,
    expires_at: Number,
    signature: &'a str,
}

impl<'a> SessionView<'a> {
    pub(crate) fn new(session: &'a Session, identity: Option<IdentityStrength>) -> Self {
        let details = &session.details;
        Self {
            session_id: session.id.as_str(),
            mesh: &details.mesh,
            display_name: &details.display_name,
            pid: session.process.pid.get(),
            cwd: details.cwd.as_deref(),
            role: details.role.as_deref(),
            groups: &details.groups,
            labels: (!details.labels.is_empty()).then_some(LabelsView(&details.labels)),
            presence: session
                .presence
                .as_ref()
                .map(|(session_pubkey, attestation)| PresenceView {
                    session_pubkey,
                    parent_attestation: AttestationView {
                        session_pubkey: &attestation.session_pubkey,
                        parent_member_pubkey: &attestation.parent_member_pubkey,
                        expires_at: Number(attestation.expires_at),
                        signature: &attestation.signature,
                    },
                }),
            registered_at: session.registered_at.wall_ms,
            expires_at: session.expires_at.map(|last| last.wall_ms),
            start_time: session.process.start_time().map(|time| time.to_string()),
            token_prefix: session.token_prefix.to_string(),
            uid: session.owner,
            identity: identity.map(IdentityStrength::name),
            verified_at: None,
            members: session.members().iter().map(MemberView::from).collect(),
        }
    }

    /// Adds the time of the last check that found the process alive.
    pub(crate) fn verified_at(mut self, wall_ms: u64) -> Self {
        self.verified_at = Some(wall_ms);
        self
    }
}

/// The response to a look-up.
#[derive(Serialize)]
pub(crate) struct Me<'a> {
    pub(crate) session: SessionView<'a>,
}

/// The response to a registration.
#[derive(Serialize)]
pub(crate) struct RegisterResponse {
    pub(crate) ok: bool,
    pub(crate) registered_at: u64,
    /// Milliseconds since 1970; null: as long as the process lives.
    pub(crate) expires_at: Option<u64>,
    /// Whether the session existed before: same token, id, process, mesh and labels.
    pub(crate) renewed: bool,
    pub(crate) presence_accepted: bool,
    pub(crate) start_time: Option<u64>,
    pub(crate) identity: &'static str,
    pub(crate) sources: Vec<&'static str>,
    /// How many processes the session hangs on, if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) processes: Option<usize>,
    /// The names of fields that are not known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ignored: Vec<String>,
}

/// The response to a removal.
#[derive(Serialize)]
pub(crate) struct Removed {
    pub(crate) ok: bool,
    pub(crate) token_prefix: String,
}

/// One source in `/v1/sources`.
#[derive(Serialize)]
pub(crate) struct SourceView<'a> {
    source: &'static str,
    state: &'static str,
    reason: &'a str,
    remedy: &'a str,
    detail: &'a str,
    lost: u64,
    forged: u64,
}

impl<'a> From<&'a SourceStatus> for SourceView<'a> {
    fn from(status: &'a SourceStatus) -> Self {
        Self {
            source: status.source.name(),
            state: status.state(),
            reason: &status.reason,
            remedy: &status.remedy,
            detail: &status.detail,
            lost: status.lost,
            forged: status.forged,
        }
    }
}

/// `/v1/sources`.
#[derive(Serialize)]
pub(crate) struct SourceReport<'a> {
    pub(crate) schema: u8,
    pub(crate) status: &'static str,
    /// The longest time until an exit is noticed if every event about it is lost.
    pub(crate) worst_case_delay_ms: u64,
    pub(crate) sources: Vec<SourceView<'a>>,
    pub(crate) processes: usize,
    pub(crate) sessions: usize,
}

/// `/v1/limits`.
#[derive(Serialize)]
pub(crate) struct LimitsReport {
    /// The caller.
    #[serde(flatten)]
    pub(crate) caller: UserLimits,
    pub(crate) memory: BTreeMap<&'static str, u64>,
    /// All users that hold something; for root only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) users: Option<Vec<UserLimits>>,
}

/// What one user holds, and may hold, by resource.
#[derive(Serialize)]
pub(crate) struct UserLimits {
    pub(crate) uid: u32,
    pub(crate) limits: BTreeMap<&'static str, LimitView>,
}

/// One resource of one user.
#[derive(Serialize)]
pub(crate) struct LimitView {
    pub(crate) used: usize,
    /// What the user may hold now.
    pub(crate) limit: usize,
    /// What all users may hold together.
    pub(crate) total: usize,
}

/// `/v1/version`.
#[derive(Serialize)]
pub(crate) struct About<'a> {
    /// Its own, or that of `--advertise-version`.
    pub(crate) daemon_version: &'a str,
    pub(crate) reaperd_version: &'static str,
    pub(crate) ipc_api: &'static str,
    pub(crate) ipc_features: &'static [&'static str],
    pub(crate) schema_version: u8,
}

/// The data of `session_registered`.
#[derive(Serialize)]
pub(crate) struct RegisteredData<'a> {
    #[serde(flatten)]
    pub(crate) head: EventHead,
    pub(crate) session: SessionView<'a>,
}

/// The data of `session_deregistered`.
#[derive(Serialize)]
pub(crate) struct DeregisteredData<'a> {
    #[serde(flatten)]
    pub(crate) head: EventHead,
    pub(crate) session: SessionView<'a>,
    #[serde(flatten)]
    end: EndView,
    detection_us: Option<u64>,
}

impl<'a> DeregisteredData<'a> {
    pub(crate) fn new(head: EventHead, session: SessionView<'a>, removal: &Removal) -> Self {
        let death = removal.death();
        let micros = |death: &Death| u64::try_from(death.detection?.as_micros()).ok();
        Self {
            head,
            session,
            end: removal.into(),
            detection_us: death.and_then(micros),
        }
    }
}

/// A session that has ended.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndedView<'a> {
    #[serde(flatten)]
    session: SessionView<'a>,
    /// When it was first registered.
    started_at: u64,
    ended_at: u64,
    /// The number of the event of its end.
    seq: u64,
    #[serde(flatten)]
    end: EndView,
}

impl<'a> EndedView<'a> {
    pub(crate) fn new(event: &Event, session: &'a Session, removal: &Removal) -> Self {
        Self {
            session: SessionView::new(session, None),
            started_at: session.started_at.wall_ms,
            ended_at: event.at.wall_ms,
            seq: event.seq,
            end: removal.into(),
        }
    }
}

/// How a session ended, in its event and in later errors for its token.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct EndView {
    cause: &'static str,
    source: Option<&'static str>,
    evidence: Option<&'static str>,
    exit: Option<ExitView>,
}

impl From<&Removal> for EndView {
    fn from(removal: &Removal) -> Self {
        let death = removal.death();
        Self {
            cause: removal.cause(),
            source: death.map(|death| death.source.name()),
            evidence: death.map(|death| death.evidence.name()),
            exit: death.and_then(|death| death.exit).map(ExitView::from),
        }
    }
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum ExitView {
    Code {
        code: u8,
        from: &'static str,
    },
    Signal {
        signal: u8,
        core: bool,
        from: &'static str,
    },
}

impl From<Exit> for ExitView {
    fn from(exit: Exit) -> Self {
        let from = exit.from.name();
        match exit.status {
            ExitStatus::Code(code) => Self::Code { code, from },
            ExitStatus::Signal { signal, core } => Self::Signal { signal, core, from },
        }
    }
}

/// The data of `source_state`.
#[derive(Serialize)]
pub(crate) struct SourceStateData<'a> {
    #[serde(flatten)]
    head: EventHead,
    source: &'static str,
    state: &'static str,
    reason: &'a str,
}

impl<'a> SourceStateData<'a> {
    pub(crate) fn new(head: EventHead, state: &'a SourceState) -> Self {
        Self {
            head,
            source: Source::name(state.source),
            state: state.health.name(),
            reason: &state.reason,
        }
    }
}

/// The first fields of every event, and the only ones of `shutdown`.
#[derive(Clone, Copy, Serialize)]
pub(crate) struct EventHead {
    ts: IsoTime,
    seq: u64,
}

impl From<&Event> for EventHead {
    fn from(event: &Event) -> Self {
        Self {
            ts: IsoTime(event.at.wall_ms),
            seq: event.seq,
        }
    }
}

/// The data of `gap`.
#[derive(Serialize)]
#[serde(untagged)]
pub(crate) enum GapData {
    /// Event numbers that are not sent to this reader.
    Missed { missed_from: u64, missed_to: u64 },
    /// The reader's position is of another run of the daemon.
    Reason { reason: &'static str },
}

/// Milliseconds since 1970, as `2026-01-02T03:04:05.678Z`.
#[derive(Clone, Copy)]
struct IsoTime(u64);

impl Serialize for IsoTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A clock past the year 9999 shows the epoch. The text is for display only.
        let time = i64::try_from(self.0)
            .ok()
            .and_then(|ms| Timestamp::from_millisecond(ms).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH);
        serializer.collect_str(&format_args!("{time:.3}"))
    }
}

/// A number that is written without `.0`, as clients of the claudemesh daemon send it.
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Up to 2^53 every whole number is exact.
        if self.0.fract() == 0.0 && self.0.abs() < 9e15 {
            let whole: i64 = format!("{:.0}", self.0)
                .parse()
                .map_err(serde::ser::Error::custom)?;
            serializer.serialize_i64(whole)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

/// Converts a boot-clock time to wall-clock time, relative to `now`.
pub(crate) fn wall_ms_of(boot_ns: u64, now: Moment) -> u64 {
    let ago_ns = now.boot.as_nanos().saturating_sub(boot_ns);
    now.wall_ms.saturating_sub(ago_ns / 1_000_000)
}
