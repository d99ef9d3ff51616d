//! The sessions of a list as rows, and those that have ended among them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::output::{Layout, age, ending, table};
use super::super::show::label;
use super::super::terminal;
use crate::client::{ExitSeen, Session};

const HEADER: [&str; 7] = ["SESSION", "NAME", "MESH", "PID", "AGE", "IDENTITY", "TOKEN"];
/// Further columns of `--all`.
const ALL: [&str; 2] = ["STATE", "ENDED"];
/// Further columns of `--wide`.
const WIDE: [&str; 6] = ["UID", "ROLE", "GROUPS", "EXPIRES", "FOLDER", "LABELS"];

/// A session of a list, in whichever form.
pub(super) trait Entry: DeserializeOwned {
    /// What differs between two sessions of a daemon.
    fn key(&self) -> (String, Option<u64>, Option<String>, Option<u64>);
    /// The value of one of its labels.
    fn label(&self, key: &str) -> Option<&str>;
}

impl Entry for Value {
    fn key(&self) -> (String, Option<u64>, Option<String>, Option<u64>) {
        let text = |field: &str| self[field].as_str().map(str::to_owned);
        let number = |field: &str| self[field].as_u64();
        (
            text("sessionId").unwrap_or_default(),
            number("uid"),
            text("token_prefix"),
            number("registeredAt"),
        )
    }

    fn label(&self, key: &str) -> Option<&str> {
        self["labels"][key].as_str()
    }
}

/// A session with what `--all` and `--wide` show.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listed {
    #[serde(flatten)]
    pub(super) session: Session,
    uid: Option<u32>,
    #[serde(default)]
    groups: Vec<String>,
    cwd: Option<String>,
    expires_at: Option<u64>,
    #[serde(default)]
    members: Vec<Member>,
    #[serde(default)]
    labels: BTreeMap<String, Value>,
    /// Of a session that has ended.
    ended_at: Option<u64>,
    cause: Option<String>,
    exit: Option<ExitSeen>,
}

/// One of several processes.
#[derive(Debug, Deserialize)]
struct Member {
    pid: u32,
    ended: bool,
}

impl Entry for Listed {
    fn key(&self) -> (String, Option<u64>, Option<String>, Option<u64>) {
        let session = &self.session;
        (
            session.session_id.clone(),
            self.uid.map(u64::from),
            session.token_prefix.clone(),
            session.registered_at,
        )
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key)?.as_str()
    }
}

/// Puts both lists together: first the ended sessions in the order of their end. One that ended between the
/// two requests is in both.
pub(super) fn together<T: Entry>(live: Vec<T>, ended: Vec<T>) -> Vec<T> {
    let keys: BTreeSet<_> = ended.iter().map(Entry::key).collect();
    let live = live.into_iter().filter(|it| !keys.contains(&it.key()));
    ended.into_iter().rev().chain(live).collect()
}

/// Which columns are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) all: bool,
    pub(super) wide: bool,
}

impl Listed {
    fn row(self, layout: Layout, now_ms: u64, shown: Shown) -> Vec<String> {
        let time = |seconds: u64| match layout {
            Layout::Columns => age(seconds),
            // In seconds, which programs can compare.
            Layout::Tabs => seconds.to_string(),
        };
        let Self {
            session,
            uid,
            groups,
            cwd,
            expires_at,
            members,
            labels,
            ended_at,
            cause,
            exit,
        } = self;
        let passed = |then: u64| time(now_ms.saturating_sub(then) / 1_000);
        let left = |then: u64| time(then.saturating_sub(now_ms) / 1_000);
        let living = members.iter().filter(|it| !it.ended);
        let living: Vec<_> = living.map(|it| it.pid.to_string()).collect();
        let none = || "-".to_owned();
        let mut row = vec![
            session.session_id,
            session.display_name,
            session.mesh,
            match living[..] {
                [] => session.pid.to_string(),
                _ => living.join(","),
            },
            session.registered_at.map_or_else(String::new, passed),
            session.identity.unwrap_or_default(),
            session.token_prefix.unwrap_or_default(),
        ];
        if shown.all {
            let how = |cause: &str| ending(cause, exit.as_ref());
            row.extend([
                cause.as_deref().map_or_else(|| "live".to_owned(), how),
                ended_at.map_or_else(none, passed),
            ]);
        }
        if shown.wide {
            let labels = labels.iter().map(|(key, value)| label(key, value));
            let expires_at = expires_at.filter(|_| ended_at.is_none());
            row.extend([
                uid.map(|uid| uid.to_string()).unwrap_or_default(),
                session.role.unwrap_or_default(),
                groups.join(","),
                expires_at.map_or_else(none, left),
                cwd.unwrap_or_default(),
                labels.collect::<Vec<_>>().join(","),
            ]);
        }
        row
    }
}

pub(super) fn show(
    out: &mut impl Write,
    layout: Layout,
    sessions: Vec<Listed>,
    now_ms: u64,
    shown: Shown,
) -> io::Result<()> {
    let rows = sessions
        .into_iter()
        .map(|session| session.row(layout, now_ms, shown))
        .collect();
    let mut header = HEADER.to_vec();
    header.extend(ALL.iter().filter(|_| shown.all));
    header.extend(WIDE.iter().filter(|_| shown.wide));
    table(out, layout, terminal::width_of_stdout(), &header, rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn session() -> Value {
        json!({
            "sessionId": "s-1", "mesh": "dev", "displayName": "api", "pid": 7042,
            "registeredAt": 1_000, "token_prefix": "3fa9c1d2", "identity": "pidfd",
            "uid": 7, "groups": ["a", "b"], "cwd": "/srv", "expiresAt": 74_500,
            "labels": {"job": "7", "os": "b"},
        })
    }

    fn ended(cause: &str, exit: &Value) -> Value {
        let mut ended = session();
        ended["identity"] = Value::Null;
        ended["endedAt"] = json!(4_500);
        ended["cause"] = json!(cause);
        ended["exit"] = exit.clone();
        ended
    }

    fn shown(layout: Layout, session: &Value, all: bool, wide: bool) -> String {
        let mut out = Vec::new();
        let sessions = vec![serde_json::from_value(session.clone()).unwrap()];
        show(&mut out, layout, sessions, 64_500, Shown { all, wide }).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_session_is_shown_as_columns_or_tabs() {
        assert_eq!(
            shown(Layout::Columns, &session(), false, false),
            "\u{1b}[1mSESSION  NAME  MESH  PID   AGE  IDENTITY  TOKEN\u{1b}[0m\n\
             s-1      api   dev   7042  1m   pidfd     3fa9c1d2\n"
        );
        assert_eq!(
            shown(Layout::Tabs, &session(), false, false),
            "s-1\tapi\tdev\t7042\t63\tpidfd\t3fa9c1d2\n"
        );
        assert_eq!(
            shown(Layout::Tabs, &session(), true, true),
            "s-1\tapi\tdev\t7042\t63\tpidfd\t3fa9c1d2\tlive\t-\t7\t\ta,b\t10\t/srv\tjob=7,os=b\n"
        );
    }

    #[test]
    fn an_ended_session_is_shown_with_how_and_when_it_ended() {
        for (cause, exit, state) in [
            ("exited", json!({"code": 3, "from": "netlink"}), "exit 3"),
            (
                "exited",
                json!({"signal": 9, "core": false, "from": "ebpf"}),
                "killed by SIGKILL",
            ),
            ("exited", Value::Null, "exited"),
            ("pid_reused", Value::Null, "pid reused"),
            ("requested", Value::Null, "requested"),
        ] {
            assert_eq!(
                shown(Layout::Tabs, &ended(cause, &exit), true, true),
                format!(
                    "s-1\tapi\tdev\t7042\t63\t\t3fa9c1d2\t{state}\t60\t7\t\ta,b\t-\t/srv\tjob=7,os=b\n"
                )
            );
        }
        let columns = shown(
            Layout::Columns,
            &ended("expired", &Value::Null),
            true,
            false,
        );
        assert!(columns.contains("STATE    ENDED"), "{columns}");
    }

    #[test]
    fn a_session_that_ends_meanwhile_is_shown_once_and_as_ended() {
        let entry =
            |id: &str, registered_at: u64| json!({"sessionId": id, "registeredAt": registered_at});
        // The last one that ended comes first.
        let ended = vec![entry("c", 3), entry("a", 1)];
        let live = vec![entry("a", 2), entry("c", 3), entry("d", 4)];
        let ids = together(live, ended).into_iter();
        let ids: Vec<_> = ids.map(|it| it["registeredAt"].as_u64().unwrap()).collect();
        assert_eq!(ids, [1, 3, 2, 4]);
    }
}
