//! Server-sent events as bytes: the format of `text/event-stream` and the data of each event.

use std::fmt;

use reaper_registry::{Event, EventKind};
use serde::Serialize;

use super::wire::{
    DeregisteredData, EventHead, GapData, RegisteredData, SessionView, SourceStateData,
};
use crate::watch::identity::IdentityStrength;

/// The first bytes of every stream, with the delay after which a reader reconnects.
pub(super) const PREAMBLE: &[u8] = b": connected\n\nretry: 1000\n\n";
/// The comment on a stream without events.
pub(super) const KEEPALIVE: &[u8] = b": keepalive\n\n";

/// The names of events.
pub(crate) const NAMES: [&str; 6] = [
    "session_registered",
    "session_deregistered",
    "source_state",
    "gap",
    "snapshot",
    "shutdown",
];

/// `<epoch>.<seq>`: the position of an event in one run of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventId {
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

impl EventId {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (epoch, seq) = text.split_once('.')?;
        // Only the form in which it is written: no sign, no capitals, no shorter form.
        let id = Self {
            epoch: u64::from_str_radix(epoch, 16).ok()?,
            seq: seq.parse().ok()?,
        };
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.epoch, self.seq)
    }
}

/// Returns the name of an event.
pub(super) fn name_of(event: &Event) -> &'static str {
    match event.kind {
        EventKind::Registered(_) => "session_registered",
        EventKind::Deregistered(..) => "session_deregistered",
        EventKind::SourceState(_) => "source_state",
        EventKind::Shutdown => "shutdown",
        // The enum may grow. Readers ignore unknown names.
        _ => "other",
    }
}

/// Writes an event.
pub(super) fn write_event(
    out: &mut Vec<u8>,
    epoch: u64,
    event: &Event,
    identity: Option<IdentityStrength>,
) {
    let seq = event.seq;
    begin(out, Some(EventId { epoch, seq }), name_of(event));
    let head = EventHead::from(event);
    match &event.kind {
        EventKind::Registered(session) => {
            let session = SessionView::new(session, identity);
            write_json(out, &RegisteredData { head, session });
        }
        EventKind::Deregistered(session, removal) => {
            let session = SessionView::new(session, identity);
            write_json(out, &DeregisteredData::new(head, session, removal));
        }
        EventKind::SourceState(state) => write_json(out, &SourceStateData::new(head, state)),
        _ => write_json(out, &head),
    }
    end(out);
}

/// Writes a gap. Within a stream it has an id, which moves the reader's position behind the gap. At
/// the beginning it has none: the following snapshot moves the position, so that a reader that
/// loses its connection between the two gets both again.
pub(super) fn write_gap(out: &mut Vec<u8>, id: Option<EventId>, gap: &GapData) {
    begin(out, id, "gap");
    write_json(out, gap);
    end(out);
}

/// Writes the last event of a stream of one session.
pub(super) fn write_end(out: &mut Vec<u8>) {
    begin(out, None, "end");
    out.extend_from_slice(b"{}");
    end(out);
}

/// Writes a snapshot up to its first session.
pub(super) fn begin_snapshot(out: &mut Vec<u8>, id: EventId) {
    begin(out, Some(id), "snapshot");
    out.extend_from_slice(b"{\"sessions\":[");
}

/// Writes what follows the last session of a snapshot.
pub(super) fn end_snapshot(out: &mut Vec<u8>) {
    out.extend_from_slice(b"]}");
    end(out);
}

/// Writes one line of JSON. `serde_json` escapes line ends within strings.
pub(crate) fn write_json(out: &mut Vec<u8>, data: &impl Serialize) {
    serde_json::to_writer(out, data).expect("strings and numbers always serialise into memory");
}

fn begin(out: &mut Vec<u8>, id: Option<EventId>, name: &str) {
    if let Some(id) = id {
        out.extend_from_slice(format!("id: {id}\n").as_bytes());
    }
    out.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
}

fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reaper_registry::{
        BootTime, Death, Evidence, Exit, ExitStatus, Moment, Removal, Source, SourceHealth,
        SourceState,
    };

    use super::*;
    use crate::daemon::api::tests::session;

    fn written(kind: EventKind) -> String {
        let at = Moment {
            boot: BootTime::from_nanos(1),
            wall_ms: 1_795_324_800_007,
        };
        let mut out = Vec::new();
        write_event(
            &mut out,
            0xab,
            &Event { seq: 7, at, kind },
            Some(IdentityStrength::Pidfd),
        );
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn an_event_has_three_lines_and_an_empty_one() {
        let text = written(EventKind::SourceState(SourceState {
            source: Source::Pidfd,
            health: SourceHealth::Degraded,
            reason: "two\nlines".to_owned(),
        }));
        assert_eq!(
            text,
            "id: 00000000000000ab.7\nevent: source_state\ndata: {\"ts\":\"2026-11-22T05:20:00.007Z\
             \",\"seq\":7,\"source\":\"pidfd\",\"state\":\"degraded\",\"reason\":\"two\\nlines\"}\n\n"
        );
    }

    #[test]
    fn the_event_of_a_death_has_its_evidence() {
        let death = Death {
            source: Source::Netlink,
            evidence: Evidence::Pidfd,
            pid_reused: false,
            exit: Some(Exit {
                status: ExitStatus::Signal {
                    signal: 9,
                    core: false,
                },
                from: Source::Netlink,
            }),
            detection: Some(Duration::from_micros(310)),
        };
        let text = written(EventKind::Deregistered(session(), Removal::Died(death)));
        assert!(
            text.contains("\"cause\":\"exited\",\"source\":\"netlink\",\"evidence\":\"pidfd\"")
        );
        assert!(text.contains("\"exit\":{\"signal\":9,\"core\":false,\"from\":\"netlink\"}"));
        assert!(text.ends_with("\"detection_us\":310}\n\n"), "{text}");
    }

    #[test]
    fn without_a_death_the_evidence_is_null() {
        let text = written(EventKind::Deregistered(session(), Removal::Expired));
        assert!(text.ends_with(
            "\"cause\":\"expired\",\"source\":null,\"evidence\":null,\"exit\":null,\
             \"detection_us\":null}\n\n"
        ));
    }

    #[test]
    fn an_id_is_parsed_only_in_the_form_in_which_it_is_written() {
        let id = EventId {
            epoch: 0x1f,
            seq: 9,
        };
        assert_eq!(EventId::parse(&id.to_string()), Some(id));
        for text in [
            "",
            "9",
            "1f.9",
            "000000000000001F.9",
            "000000000000001f.09",
            "000000000000001f.+9",
            "000000000000001f.",
            "000000000000001f.9.9",
        ] {
            assert_eq!(EventId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn data_is_always_one_line() {
        for kind in [EventKind::Registered(session()), EventKind::Shutdown] {
            let text = written(kind);
            assert_eq!(text.lines().count(), 4, "{text}");
        }
    }
}
