//! `reaperd ls`.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::{self, Layout, age, json_line, table};
use super::{terminal, values};
use crate::client::{Client, Session, percent_encode};
use crate::clock;

const HEADER: [&str; 7] = ["SESSION", "NAME", "MESH", "PID", "AGE", "IDENTITY", "TOKEN"];

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// List only the sessions of this process
    #[arg(long)]
    pid: Option<u32>,
    /// List only the sessions in this mesh
    #[arg(long)]
    mesh: Option<String>,
    /// List only the sessions of this user; only root may name another one
    #[arg(long, value_name = "USER", value_parser = values::user)]
    uid: Option<u32>,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let filter = self.filter();
        let text = if self.json {
            // Passed through, with fields that this client does not know.
            let sessions: Vec<Value> = client.sessions(&filter).await?;
            let list = json!({ "schema": 1, "sessions": sessions });
            format!("{}\n", json_line(&list)).into_bytes()
        } else {
            let sessions = client.sessions(&filter).await?;
            let now_ms = clock::now().wall_ms;
            let mut text = Vec::new();
            show(&mut text, Layout::of_stdout(), sessions, now_ms)?;
            text
        };
        let mut out = output::stdout();
        out.write_all(&text)
            .and_then(|()| out.flush())
            .map_err(Failure::output)?;
        Ok(ExitCode::Success)
    }

    fn filter(&self) -> String {
        let pid = self.pid.map(|pid| format!("pid={pid}"));
        let uid = self.uid.map(|uid| format!("uid={uid}"));
        let mesh = self
            .mesh
            .as_ref()
            .map(|mesh| format!("mesh={}", percent_encode(mesh)));
        let query: Vec<String> = pid.into_iter().chain(mesh).chain(uid).collect();
        query.join("&")
    }
}

fn show(
    out: &mut impl Write,
    layout: Layout,
    sessions: Vec<Session>,
    now_ms: u64,
) -> io::Result<()> {
    let rows = sessions
        .into_iter()
        .map(|session| row(session, layout, now_ms))
        .collect();
    table(out, layout, terminal::width_of_stdout(), &HEADER, rows)
}

fn row(session: Session, layout: Layout, now_ms: u64) -> Vec<String> {
    let seconds = session
        .registered_at
        .map(|then| now_ms.saturating_sub(then) / 1_000);
    vec![
        session.session_id,
        session.display_name,
        session.mesh,
        session.pid.to_string(),
        seconds.map_or_else(String::new, |seconds| match layout {
            Layout::Columns => age(seconds),
            // In seconds, which programs can compare.
            Layout::Tabs => seconds.to_string(),
        }),
        session.identity.unwrap_or_default(),
        session.token_prefix.unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(layout: Layout) -> String {
        let session = json!({
            "sessionId": "s-1", "mesh": "dev", "displayName": "api", "pid": 7042,
            "registeredAt": 1_000, "token_prefix": "3fa9c1d2", "identity": "pidfd",
        });
        let mut out = Vec::new();
        show(
            &mut out,
            layout,
            vec![serde_json::from_value(session).unwrap()],
            64_500,
        )
        .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_session_is_shown_as_columns_or_tabs() {
        assert_eq!(
            shown(Layout::Columns),
            "\u{1b}[1mSESSION  NAME  MESH  PID   AGE  IDENTITY  TOKEN\u{1b}[0m\n\
             s-1      api   dev   7042  1m   pidfd     3fa9c1d2\n"
        );
        assert_eq!(
            shown(Layout::Tabs),
            "s-1\tapi\tdev\t7042\t63\tpidfd\t3fa9c1d2\n"
        );
    }

    #[test]
    fn filters_are_sent_as_a_query() {
        let filter = |pid, mesh: Option<&str>, uid| {
            Arguments {
                json: false,
                pid,
                mesh: mesh.map(str::to_owned),
                uid,
            }
            .filter()
        };
        assert_eq!(filter(None, None, None), "");
        assert_eq!(
            filter(Some(7), Some("a&b"), Some(0)),
            "pid=7&mesh=a%26b&uid=0"
        );
    }
}
