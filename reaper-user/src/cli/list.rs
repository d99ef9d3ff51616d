//! `reaperd ls`.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::{Layout, age, json_line, table};
use crate::client::{Client, ClientError, Session, SessionList, percent_encode};
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
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let response: Value = client.get(&self.target()).await?;
        let mut out = io::BufWriter::new(io::stdout().lock());
        let written = if self.json {
            // Passed through, with fields that this client does not know.
            let sessions = response.get("sessions").cloned().unwrap_or_default();
            let list = json!({ "schema": 1, "sessions": sessions });
            writeln!(out, "{}", json_line(&list))
        } else {
            let list: SessionList =
                serde_json::from_value(response).map_err(|error| ClientError::Protocol {
                    detail: error.to_string(),
                })?;
            show(
                &mut out,
                Layout::of_stdout(),
                list.sessions,
                clock::now().wall_ms,
            )
        };
        written
            .and_then(|()| out.flush())
            .map_err(Failure::output)?;
        Ok(ExitCode::Success)
    }

    fn target(&self) -> String {
        let pid = self.pid.map(|pid| format!("pid={pid}"));
        let mesh = self
            .mesh
            .as_ref()
            .map(|mesh| format!("mesh={}", percent_encode(mesh)));
        let query: Vec<String> = pid.into_iter().chain(mesh).collect();
        match query.as_slice() {
            [] => "/v1/sessions".to_owned(),
            _ => format!("/v1/sessions?{}", query.join("&")),
        }
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
    table(out, layout, &HEADER, rows)
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
            "SESSION  NAME  MESH  PID   AGE  IDENTITY  TOKEN\n\
             s-1      api   dev   7042  1m   pidfd     3fa9c1d2\n"
        );
        assert_eq!(
            shown(Layout::Tabs),
            "s-1\tapi\tdev\t7042\t63\tpidfd\t3fa9c1d2\n"
        );
    }

    #[test]
    fn filters_are_sent_as_a_query() {
        let target = |pid, mesh: Option<&str>| {
            Arguments {
                json: false,
                pid,
                mesh: mesh.map(str::to_owned),
            }
            .target()
        };
        assert_eq!(target(None, None), "/v1/sessions");
        assert_eq!(
            target(Some(7), Some("a&b")),
            "/v1/sessions?pid=7&mesh=a%26b"
        );
    }
}
