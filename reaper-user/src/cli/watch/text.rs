//! Events as lines: for people, and as JSON for programs.

use serde_json::{Value, json};

use super::super::output::{Layout, ending, escape, json_line, milliseconds};
use crate::client::{ClientError, Deregistered, Frame};
use crate::clock;

/// The width of the column with what happened: that of `registered`.
const NAME_WIDTH: usize = 10;

/// Creates an event of this command, which is none of the daemon.
pub(super) fn own_event(event: &str, id: &str, mut data: Value) -> Frame {
    let now = i64::try_from(clock::now().wall_ms).unwrap_or_default();
    let now = jiff::Timestamp::from_millisecond(now).unwrap_or_default();
    data["ts"] = format!("{now:.3}").into();
    Frame {
        id: id.to_owned(),
        event: event.to_owned(),
        data: data.to_string(),
    }
}

fn data(frame: &Frame) -> Result<Value, ClientError> {
    serde_json::from_str(&frame.data).map_err(|error| ClientError::Protocol {
        detail: format!("the data of a {:?} event is not JSON: {error}", frame.event),
    })
}

pub(super) fn as_json(frame: &Frame) -> Result<String, ClientError> {
    let event = json!({
        "schema": 1, "id": frame.id, "event": frame.event, "data": data(frame)?,
    });
    Ok(json_line(&event))
}

pub(super) fn as_text(frame: &Frame, layout: Layout) -> Result<String, ClientError> {
    let data = data(frame)?;
    let mut fields = vec![clock_time(&data)];
    match frame.event.as_str() {
        "session_registered" => {
            fields.push("registered".to_owned());
            fields.extend(session_fields(&data));
        }
        "session_deregistered" => {
            fields.push("removed".to_owned());
            fields.extend(session_fields(&data));
            let removal: Deregistered =
                serde_json::from_value(data).map_err(|error| ClientError::Protocol {
                    detail: format!("cannot parse a session_deregistered event: {error}"),
                })?;
            fields.push(cause(&removal));
            fields.extend(
                removal
                    .source
                    .as_ref()
                    .map(|source| format!("via {source}")),
            );
            fields.extend(removal.detection_us.map(milliseconds));
        }
        "source_state" => {
            fields.push("source".to_owned());
            let values = ["source", "state", "reason"].map(|field| text(&data, field));
            fields.extend(
                values
                    .into_iter()
                    .flatten()
                    .filter(|field| !field.is_empty()),
            );
        }
        "listening" => {
            fields.push("listening".to_owned());
            fields.extend((!frame.id.is_empty()).then(|| format!("after {}", frame.id)));
        }
        "end" => {
            fields.push("ended".to_owned());
            fields.push("the daemon has stopped".to_owned());
        }
        "snapshot" => {
            fields.push("snapshot".to_owned());
            let sessions = data
                .get("sessions")
                .and_then(Value::as_array)
                .map_or(0, Vec::len);
            fields.push(format!("{sessions} sessions"));
        }
        other => {
            fields.push(other.to_owned());
            fields.push(data.to_string());
        }
    }
    let mut fields: Vec<_> = fields.iter().map(|field| escape(field)).collect();
    if layout == Layout::Columns && fields.len() > 2 {
        fields[1] = format!("{:NAME_WIDTH$}", fields[1]).into();
    }
    Ok(fields.join(layout.gap()))
}

fn session_fields(data: &Value) -> Vec<String> {
    let session = data.get("session").unwrap_or(&Value::Null);
    let pid = session
        .get("pid")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    vec![
        text(session, "sessionId").unwrap_or_default(),
        text(session, "displayName").unwrap_or_default(),
        format!("pid {pid}"),
    ]
}

/// Describes why a session was removed: the exit status if known, else the cause.
pub(in crate::cli) fn cause(removal: &Deregistered) -> String {
    ending(&removal.cause, removal.exit.as_ref())
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field).and_then(Value::as_str).map(str::to_owned)
}

/// Formats the time of day in UTC, with milliseconds.
fn clock_time(data: &Value) -> String {
    let then = match data.get("ts") {
        Some(Value::String(text)) => text.parse().ok(),
        Some(Value::Number(ms)) => ms
            .as_i64()
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()),
        _ => None,
    };
    let Some(then) = then else {
        return "--:--:--.---Z".to_owned();
    };
    let ms_of_day = then.as_millisecond().rem_euclid(86_400_000);
    let (seconds, ms) = (ms_of_day / 1_000, ms_of_day % 1_000);
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{ms:03}Z", seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(event: &str, data: &str) -> Frame {
        Frame {
            id: "e.4".into(),
            event: event.into(),
            data: data.into(),
        }
    }

    fn removal(rest: &str) -> Frame {
        let session = r#""session":{"sessionId":"s-1","displayName":"api","pid":7042}"#;
        frame("session_deregistered", &format!("{{{session},{rest}}}"))
    }

    #[test]
    fn a_removal_is_shown_with_session_exit_status_and_source() {
        let killed = removal(
            r#""ts":"2026-11-22T12:00:04.118Z","cause":"exited","source":"netlink",
               "evidence":"pidfd","exit":{"signal":9,"core":false,"from":"netlink"},
               "detection_us":412"#,
        );
        assert_eq!(
            as_text(&killed, Layout::Columns).unwrap(),
            "12:00:04.118Z  removed     s-1  api  pid 7042  killed by SIGKILL  via netlink  0.4 ms"
        );
        let reused = removal(r#""ts":1795324800123,"cause":"pid_reused","source":"sweep""#);
        assert_eq!(
            as_text(&reused, Layout::Tabs).unwrap(),
            "05:20:00.123Z\tremoved\ts-1\tapi\tpid 7042\tpid reused\tvia sweep"
        );
    }

    #[test]
    fn unknown_events_are_shown_with_control_characters_escaped() {
        let odd = frame("new\u{1b}thing", r#"{"a":"\u001b"}"#);
        let line = as_text(&odd, Layout::Columns).unwrap();
        assert_eq!(line, r#"--:--:--.---Z  new\u{1b}thing  {"a":"\u001b"}"#);
    }

    #[test]
    fn json_output_has_the_event_data_unchanged() {
        let line = as_json(&frame("gap", r#"{"reason":"epoch","x":[1]}"#)).unwrap();
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["schema"], 1);
        assert_eq!(value["data"], json!({"reason": "epoch", "x": [1]}));
        assert!(as_json(&frame("gap", "no json")).is_err());
    }
}
