//! `reaperd show`: one session in full.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::lookup::{self, no_session, read_token};
use super::output::{Layout, age, escape, json_line, print_colored};
use super::values;
use crate::client::Client;
use crate::clock;

/// For `reaperd show --help` and its manual page.
pub(super) const HELP: &str = "\
Output:
  One line for each field: its name and its value; in a pipe, divided by a tab. Times are in UTC.
  With --json: an object with schema and session, which is a session object of the HTTP interface.

Exit status:
  0  The session was found
  3  No daemon is listening
  4  No such session

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd show build-7
  reaperd show --token-file \"$REAPERD_TOKEN_FILE\" --json";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// ID of the session
    #[arg(
        value_name = "ID",
        required_unless_present = "token_file",
        conflicts_with = "token_file"
    )]
    session_id: Option<String>,
    /// User of the session with this ID; only root may name another one
    #[arg(long, value_name = "USER", value_parser = values::user, conflicts_with = "token_file")]
    uid: Option<u32>,
    /// Show the session whose token is in this file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let session = match (&self.token_file, &self.session_id) {
            (Some(file), _) => {
                let (is_live, mut body) = client.session_of(&read_token(file)?).await?;
                if !is_live {
                    let detail = body["detail"].as_str().unwrap_or_default();
                    let message = format!("no session has this token: {}", escape(detail));
                    return Err(no_session(message));
                }
                body["session"].take()
            }
            (None, id) => {
                let id = id.as_deref().unwrap_or_default();
                lookup::session(client, "show", id, self.uid).await?
            }
        };
        let text = if self.json {
            let whole = json!({ "schema": 1, "session": session });
            format!("{}\n", json_line(&whole))
        } else {
            lines(&session, Layout::of_stdout(), clock::now().wall_ms)
        };
        print_colored(text)?;
        Ok(ExitCode::Success)
    }
}

/// Returns one line for each field that is present.
fn lines(session: &Value, layout: Layout, now_ms: u64) -> String {
    let text = |name: &str| match &session[name] {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let time = |name: &str| {
        let then = session[name].as_u64()?;
        Some(at(then, now_ms))
    };
    let groups = session["groups"].as_array().map(|groups| {
        let groups = groups.iter().filter_map(Value::as_str);
        groups.collect::<Vec<_>>().join(", ")
    });
    let labels = session["labels"].as_object().map(|labels| {
        let labels = labels.iter();
        let labels = labels.map(|(key, value)| label(key, value));
        labels.collect::<Vec<_>>().join(", ")
    });
    let expires = match &session["expiresAt"] {
        Value::Null => Some("with its process".to_owned()),
        _ => time("expiresAt"),
    };
    let members = session["members"].as_array().map(|members| {
        let members: Vec<_> = members.iter().map(member).collect();
        members.join(", ")
    });
    let rows = [
        ("session", text("sessionId")),
        ("name", text("displayName")),
        ("mesh", text("mesh")),
        ("role", text("role")),
        ("groups", groups),
        ("labels", labels),
        ("pid", text("pid")),
        ("processes", members),
        ("start time", text("startTime")),
        ("user", text("uid")),
        ("folder", text("cwd")),
        ("registered", time("registeredAt")),
        ("expires", expires),
        ("identity", text("identity")),
        ("verified", time("verifiedAt")),
        (
            "token",
            text("token_prefix").map(|prefix| format!("{prefix}...")),
        ),
        ("presence", text("presence").map(|_| "yes".to_owned())),
    ];
    let present = rows
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)));
    let line = |(name, value): (&str, String)| match layout {
        Layout::Columns => format!("{name:<12}{}\n", escape(&value)),
        Layout::Tabs => format!("{name}\t{}\n", escape(&value)),
    };
    present.map(line).collect()
}

/// Shows one of several processes.
fn member(member: &Value) -> String {
    let pid = &member["pid"];
    let exit = &member["exit"];
    match (&exit["code"], &exit["signal"]) {
        _ if member["ended"] == false => pid.to_string(),
        (Value::Number(code), _) => format!("{pid} (exited with {code})"),
        (_, Value::Number(signal)) => format!("{pid} (ended by signal {signal})"),
        _ => format!("{pid} (ended)"),
    }
}

/// Formats a label.
pub(super) fn label(key: &str, value: &Value) -> String {
    format!("{key}={}", value.as_str().unwrap_or_default())
}

/// Formats a time with its distance from now.
fn at(then_ms: u64, now_ms: u64) -> String {
    let instant = i64::try_from(then_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let instant = instant.map_or_else(|| then_ms.to_string(), |it| format!("{it:.3}"));
    let seconds = now_ms.abs_diff(then_ms) / 1_000;
    if then_ms > now_ms {
        format!("{instant} (in {})", age(seconds))
    } else {
        format!("{instant} ({} ago)", age(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_has_a_line_and_absent_ones_have_none() {
        let session = json!({
            "sessionId": "s-1", "displayName": "a\u{1b}pi", "mesh": "dev", "pid": 7042,
            "registeredAt": 1_795_324_800_123_u64, "expiresAt": null, "groups": ["a", "b"],
            "members": [{"pid": 7042, "ended": true, "exit": {"code": 3}}, {"pid": 7043, "ended": false},
                {"pid": 7044, "ended": true, "exit": {"signal": 9}}, {"pid": 7045, "ended": true, "exit": null}],
            "labels": {"job": "7", "os": "a b"},
        });
        let shown = lines(&session, Layout::Columns, 1_795_324_861_000);
        assert_eq!(
            shown,
            "session     s-1\nname        a\\u{1b}pi\nmesh        dev\ngroups      a, b\nlabels      job=7, os=a b\npid         7042\n\
             processes   7042 (exited with 3), 7043, 7044 (ended by signal 9), 7045 (ended)\n\
             registered  2026-11-22T05:20:00.123Z (1m ago)\nexpires     with its process\n"
        );
        let tabs = lines(&session, Layout::Tabs, 1_795_324_861_000);
        assert!(tabs.starts_with("session\ts-1\n"), "{tabs}");
    }

    #[test]
    fn a_time_of_the_future_is_shown_as_such() {
        assert_eq!(at(65_000, 5_000), "1970-01-01T00:01:05.000Z (in 1m)");
    }
}
