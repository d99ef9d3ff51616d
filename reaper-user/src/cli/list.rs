//! `reaperd ls`: the sessions as a table, as JSON, or as lines for programs.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Deserialize;
use serde_json::{Value, json};

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::{Layout, age, escape, json_line, print_colored, table};
use super::selection::{Part, check_single, has_labels};
use super::show::label;
use super::{terminal, values};
use crate::client::{Client, Session};
use crate::clock;

const HEADER: [&str; 7] = ["SESSION", "NAME", "MESH", "PID", "AGE", "IDENTITY", "TOKEN"];
/// Further columns of `--wide`.
const WIDE: [&str; 6] = ["UID", "ROLE", "GROUPS", "EXPIRES", "FOLDER", "LABELS"];

/// For `reaperd ls --help` and its manual page.
pub(super) const HELP: &str = "\
Columns:
  SESSION, NAME, MESH, PID  As registered
  AGE                       Time since the registration or renewal; with tabs, in seconds
  IDENTITY                  How the process is pinned
  TOKEN                     The first eight digits of the token
  UID, ROLE, GROUPS, FOLDER, LABELS  With --wide
  EXPIRES                   With --wide: time until the session ends, - for as long as its process lives; with \
tabs, in seconds

Exit status:
  0  Done, also if there are no sessions
  3  No daemon is listening

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd ls --wide
  reaperd ls --format ids | xargs -r -n 1 reaperd rm
  reaperd ls --format json --mesh dev
  reaperd ls --filter label.job=7 --filter label.stage=test";

/// How the list is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Aligned columns with a header
    Table,
    /// The same columns divided by tabs, without a header
    Tsv,
    /// The IDs, one on a line
    Ids,
    /// One JSON object
    Json,
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print one JSON object, as --format json
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// How to print the list [default: table on a terminal, else tsv]
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// Show more columns
    #[arg(long)]
    wide: bool,
    /// List only the sessions of this process
    #[arg(long)]
    pid: Option<u32>,
    /// List only the sessions in this mesh
    #[arg(long)]
    mesh: Option<String>,
    /// List only the sessions of this user; only root may name another one
    #[arg(long, value_name = "USER", value_parser = values::user)]
    uid: Option<u32>,
    /// List only these sessions: label.KEY=VALUE, mesh=MESH, pid=PID, session=ID or uid=USER; if it is given
    /// more than once, those that each selects
    #[arg(long, value_name = "KEY=VALUE", value_parser = Selected::parse)]
    filter: Vec<Selected>,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let (query, parts) = self.query()?;
        let text = if self.json || self.format == Some(Format::Json) {
            // Passed through, with fields that this client does not know.
            let mut sessions: Vec<Value> = client.sessions(&query).await?;
            sessions.retain(|it| has_labels(&parts, |key| it["labels"][key].as_str()));
            let list = json!({ "schema": 1, "sessions": sessions });
            format!("{}\n", json_line(&list)).into_bytes()
        } else {
            let mut sessions: Vec<Listed> = client.sessions(&query).await?;
            sessions.retain(|it| has_labels(&parts, |key| it.labels.get(key)?.as_str()));
            let mut text = Vec::new();
            self.write(&mut text, sessions)?;
            text
        };
        print_colored(text)?;
        Ok(ExitCode::Success)
    }

    fn write(&self, text: &mut Vec<u8>, sessions: Vec<Listed>) -> io::Result<()> {
        let layout = match self.format {
            Some(Format::Ids) => {
                return sessions
                    .iter()
                    .try_for_each(|it| writeln!(text, "{}", escape(&it.session.session_id)));
            }
            Some(Format::Table) => Layout::Columns,
            Some(_) => Layout::Tabs,
            None => Layout::of_stdout(),
        };
        show(text, layout, sessions, clock::now().wall_ms, self.wide)
    }

    /// Returns the query of the list, and what it selects.
    fn query(&self) -> Result<(String, Vec<Part>), Failure> {
        let mut parts = Vec::new();
        let mut pids: Vec<u32> = self.pid.into_iter().collect();
        parts.extend(self.mesh.clone().map(Part::Mesh));
        parts.extend(self.uid.map(Part::Uid));
        for selected in &self.filter {
            match selected {
                Selected::Pid(pid) => pids.push(*pid),
                Selected::Part(part) => parts.push(part.clone()),
            }
        }
        let usage = |message: String| Failure {
            code: ExitCode::Usage,
            ..Failure::new(message, "reaperd ls --help")
        };
        if pids.len() > 1 {
            return Err(usage("--filter pid= may be given once".to_owned()));
        }
        check_single(&parts).map_err(usage)?;
        let pid = pids.first().map(|pid| format!("pid={pid}"));
        let query = pid.into_iter().chain(parts.iter().map(Part::parameter));
        Ok((query.collect::<Vec<_>>().join("&"), parts))
    }
}

/// One `--filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Selected {
    Pid(u32),
    Part(Part),
}

impl Selected {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(pid) = text.strip_prefix("pid=") {
            let pid = pid.parse();
            return pid
                .map(Self::Pid)
                .map_err(|_no_number| "pid= needs a number".to_owned());
        }
        Part::parse(text).map_or_else(
            || {
                Err(
                    "expected label.KEY=VALUE, mesh=MESH, pid=PID, session=ID or uid=USER"
                        .to_owned(),
                )
            },
            |part| part.map(Self::Part),
        )
    }
}

/// A session with what `--wide` shows.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(flatten)]
    session: Session,
    uid: Option<u32>,
    #[serde(default)]
    groups: Vec<String>,
    cwd: Option<String>,
    expires_at: Option<u64>,
    #[serde(default)]
    members: Vec<Member>,
    #[serde(default)]
    labels: BTreeMap<String, Value>,
}

/// One of several processes.
#[derive(Debug, Deserialize)]
struct Member {
    pid: u32,
    ended: bool,
}

impl Listed {
    fn row(self, layout: Layout, now_ms: u64, wide: bool) -> Vec<String> {
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
        } = self;
        let living = members.iter().filter(|it| !it.ended);
        let living: Vec<_> = living.map(|it| it.pid.to_string()).collect();
        let passed = |then: u64| time(now_ms.saturating_sub(then) / 1_000);
        let left = |then: u64| time(then.saturating_sub(now_ms) / 1_000);
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
        if wide {
            let labels = labels.iter().map(|(key, value)| label(key, value));
            row.extend([
                uid.map(|uid| uid.to_string()).unwrap_or_default(),
                session.role.unwrap_or_default(),
                groups.join(","),
                expires_at.map_or_else(|| "-".to_owned(), left),
                cwd.unwrap_or_default(),
                labels.collect::<Vec<_>>().join(","),
            ]);
        }
        row
    }
}

fn show(
    out: &mut impl Write,
    layout: Layout,
    sessions: Vec<Listed>,
    now_ms: u64,
    wide: bool,
) -> io::Result<()> {
    let rows = sessions
        .into_iter()
        .map(|session| session.row(layout, now_ms, wide))
        .collect();
    let further = if wide { WIDE.as_slice() } else { &[] };
    let header: Vec<_> = HEADER.iter().chain(further).copied().collect();
    table(out, layout, terminal::width_of_stdout(), &header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(layout: Layout, wide: bool) -> String {
        let session = json!({
            "sessionId": "s-1", "mesh": "dev", "displayName": "api", "pid": 7042,
            "registeredAt": 1_000, "token_prefix": "3fa9c1d2", "identity": "pidfd",
            "uid": 7, "groups": ["a", "b"], "cwd": "/srv", "expiresAt": 74_500,
            "labels": {"job": "7", "os": "b"},
        });
        let mut out = Vec::new();
        show(
            &mut out,
            layout,
            vec![serde_json::from_value(session).unwrap()],
            64_500,
            wide,
        )
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_session_is_shown_as_columns_or_tabs() {
        assert_eq!(
            shown(Layout::Columns, false),
            "\u{1b}[1mSESSION  NAME  MESH  PID   AGE  IDENTITY  TOKEN\u{1b}[0m\n\
             s-1      api   dev   7042  1m   pidfd     3fa9c1d2\n"
        );
        assert_eq!(
            shown(Layout::Tabs, false),
            "s-1\tapi\tdev\t7042\t63\tpidfd\t3fa9c1d2\n"
        );
        assert_eq!(
            shown(Layout::Tabs, true),
            "s-1\tapi\tdev\t7042\t63\tpidfd\t3fa9c1d2\t7\t\ta,b\t10\t/srv\tjob=7,os=b\n"
        );
    }

    #[test]
    fn filters_are_sent_as_a_query() {
        let query = |pid, mesh: Option<&str>, uid, filters: &[&str]| {
            let arguments = Arguments {
                json: false,
                format: None,
                wide: false,
                pid,
                mesh: mesh.map(str::to_owned),
                uid,
                filter: filters
                    .iter()
                    .map(|text| Selected::parse(text).unwrap())
                    .collect(),
            };
            let query = arguments.query().map_err(|failure| failure.message);
            query.map(|(query, _)| query)
        };
        assert_eq!(query(None, None, None, &[]).unwrap(), "");
        assert_eq!(
            query(Some(7), Some("a&b"), Some(0), &["label.a=b", "label.c="]).unwrap(),
            "pid=7&mesh=a%26b&uid=0&label=a%3Db&label=c%3D"
        );
        assert_eq!(
            query(None, None, None, &["pid=7", "session=a"]).unwrap(),
            "pid=7&session=a"
        );
        for twice in [&["pid=7", "pid=8"], &["mesh=a", "mesh=b"]] {
            let message = query(None, None, None, twice).unwrap_err();
            assert!(message.contains("may be given once"), "{message}");
        }
        assert!(query(Some(7), None, None, &["pid=7"]).is_err());
        for wrong in ["pid=x", "label.a", "event=gap", "mesh="] {
            assert!(Selected::parse(wrong).is_err(), "{wrong}");
        }
    }
}
