//! `reaperd ls`: the sessions as a table, as JSON, or as lines for programs.

mod rows;

use std::io::{self, Write};

use serde_json::{Value, json};

use self::rows::{Entry, Listed, Shown, show, together};
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::{Layout, escape, json_line, print_colored};
use super::selection::{Part, check_single, has_labels};
use super::values;
use crate::client::{Client, ClientError};
use crate::clock;

/// For `reaperd ls --help` and its manual page.
pub(super) const HELP: &str = "\
Columns:
  SESSION, NAME, MESH, PID  As registered
  AGE                       Time since the registration or renewal; with tabs, in seconds
  IDENTITY                  How the process is pinned
  TOKEN                     The first eight digits of the token
  STATE                     With --all: live, or how the session ended
  ENDED                     With --all: time since the end of the session, - if it is live; with tabs, in seconds
  UID, ROLE, GROUPS, FOLDER, LABELS  With --wide
  EXPIRES                   With --wide: time until the session ends, - for as long as its process lives; with \
tabs, in seconds

With --all the sessions that have ended come first, in the order of their end. The daemon keeps the last ones of each \
user, by default 256, for at most an hour.

Exit status:
  0  Done, also if there are no sessions
  3  No daemon is listening

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd ls --wide
  reaperd ls --all --filter label.job=7
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
    /// List sessions that have ended too, and show how and when they did
    #[arg(long)]
    all: bool,
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
        let text = if self.json || self.format == Some(Format::Json) {
            // Passed through, with fields that this client does not know.
            let sessions: Vec<Value> = self.sessions(client).await?;
            let list = json!({ "schema": 1, "sessions": sessions });
            format!("{}\n", json_line(&list)).into_bytes()
        } else {
            let sessions = self.sessions(client).await?;
            let mut text = Vec::new();
            self.write(&mut text, sessions)?;
            text
        };
        print_colored(text)?;
        Ok(ExitCode::Success)
    }

    async fn sessions<T: Entry>(&self, client: &Client) -> Result<Vec<T>, Failure> {
        let (query, parts) = self.query()?;
        let mut sessions = client.sessions(&query).await?;
        if self.all {
            let ended = client.ended_sessions(&query).await.map_err(unknown_list)?;
            sessions = together(sessions, ended);
        }
        sessions.retain(|it: &T| has_labels(&parts, |key| it.label(key)));
        Ok(sessions)
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
        let shown = Shown {
            all: self.all,
            wide: self.wide,
        };
        show(text, layout, sessions, clock::now().wall_ms, shown)
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

/// The error of a daemon that has no list of ended sessions.
fn unknown_list(error: ClientError) -> Failure {
    match &error {
        ClientError::Problem { code, .. } if code == "not_found" => Failure::new(
            "the daemon is of a former version and does not list ended sessions",
            "reaperd ls   (without --all)",
        ),
        _ => error.into(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_sent_as_a_query() {
        let query = |pid, mesh: Option<&str>, uid, filters: &[&str]| {
            let arguments = Arguments {
                json: false,
                format: None,
                all: false,
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
