//! `reaperd wait`: waits until a session or any process has ended, and exits as it did.

mod process;
mod session;

use std::path::PathBuf;
use std::time::Duration;

use reaper_registry::{ExitStatus, Pid};
use serde_json::{Value, json};

use self::process::Process;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::lookup;
use super::output::{exit_status, json_line, print_line, print_message};
use super::values;
use crate::client::Client;

/// For `reaperd wait --help` and its manual page.
pub(super) const HELP: &str = "\
Exit status:
  N       N is the exit code of the process
  128+N   Signal N ended the process
  124     --timeout: it has not ended within this time
  125     It has ended, and the exit status is not known, or the session has ended and its process runs on
  4       No such session or process
  3       A session is waited for, and no daemon is listening
  2       Invalid command line

With --json, the output has the exit status as well, so that a code of the process and one of this command are \
kept apart. Without an output, the command itself has failed.

A process needs no daemon. Its exit status comes from the kernel (Linux 6.15 and newer), which has it once the \
parent has reaped the process, or else from a daemon that has a session of this process.

A session that has ended before is found as long as the daemon remembers its events. The stream of events is \
opened again if the daemon restarts.

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd wait 4711
  reaperd wait --timeout 30s --json build-7
  reaperd wait --token-file \"$REAPERD_TOKEN_FILE\"";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// ID of a session, or pid of a process if it is a number
    #[arg(
        value_name = "ID|PID",
        required_unless_present_any = ["id", "token_file"],
        conflicts_with_all = ["id", "token_file"]
    )]
    target: Option<String>,
    /// ID of a session, which may be a number
    #[arg(long, value_name = "ID", conflicts_with = "token_file")]
    id: Option<String>,
    /// Wait for the session whose token is in this file
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// User of the session with this ID; only root may name another one
    #[arg(long, value_name = "USER", value_parser = values::user, conflicts_with = "token_file")]
    uid: Option<u32>,
    /// Wait no longer than this, such as 500ms, 30s or 1h 30m [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    timeout: Option<Duration>,
    /// Print one JSON object about the end
    #[arg(long)]
    json: bool,
}

/// What is known of an end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ended {
    session_id: Option<String>,
    pid: Option<u32>,
    /// As in events, or `lost`: the daemon has forgotten the session.
    cause: String,
    status: Option<ExitStatus>,
    /// What reported the status: `kernel`, or a source of the daemon.
    from: Option<String>,
    /// The session hung on several processes.
    is_of_several: bool,
}

impl Arguments {
    /// Returns the exit status of the process.
    pub(super) async fn run(self, client: &Client) -> Result<u8, Failure> {
        let waiting = self.wait(client);
        let ended = match self.timeout {
            None => Some(waiting.await?),
            Some(limit) => match tokio::time::timeout(limit, waiting).await {
                Ok(ended) => Some(ended?),
                Err(_elapsed) => None,
            },
        };
        if self.json {
            print_line(&json_line(&as_json(ended.as_ref())))?;
        }
        let Some(ended) = ended else {
            print_message("reaperd: it has not ended within the time of --timeout");
            return Ok(ExitCode::TimedOut.number());
        };
        if ended.status.is_none() {
            print_message(&format!("reaperd: {}", ended.without_status()));
        }
        Ok(ended
            .status
            .map_or(ExitCode::UnknownStatus.number(), as_exit_code))
    }

    async fn wait(&self, client: &Client) -> Result<Ended, Failure> {
        if let Some(file) = &self.token_file {
            return session::of_token(client, &lookup::read_token(file)?).await;
        }
        if let Some(id) = &self.id {
            return session::named(client, id, self.uid).await;
        }
        let target = self.target.as_deref().unwrap_or_default();
        if target.is_empty() || !target.bytes().all(|byte| byte.is_ascii_digit()) {
            return session::named(client, target, self.uid).await;
        }
        if self.uid.is_some() {
            return Err(Failure {
                code: ExitCode::Usage,
                ..Failure::new(
                    format!("--uid is about a session, and {target} is a pid"),
                    format!("reaperd wait --id {target} --uid USER   or   reaperd wait {target}"),
                )
            });
        }
        let number = target.parse().ok().and_then(|pid| Pid::new(pid).ok());
        let pid = number.ok_or_else(|| Failure {
            code: ExitCode::Usage,
            ..Failure::new(
                format!("{target} is not the pid of a process"),
                format!("reaperd wait --id {target}   (for a session with this id)"),
            )
        })?;
        of_process(client, pid).await
    }
}

/// Waits for a process. The daemon is asked only for what the kernel does not tell.
async fn of_process(client: &Client, pid: Pid) -> Result<Ended, Failure> {
    let mut process = Process::pin(pid).await?;
    let status = process.ended().await;
    let mut ended = Ended {
        pid: Some(pid.get()),
        cause: "exited".to_owned(),
        status,
        from: status.map(|_| "kernel".to_owned()),
        ..Ended::default()
    };
    if status.is_none()
        && let Some(seen) = session::remembered_process(client, pid, process.start_time()).await
    {
        ended.status = seen.status;
        ended.from = seen.from;
        ended.session_id = seen.session_id;
    }
    Ok(ended)
}

impl Ended {
    /// Returns whether it is the end of one process, whose status the kernel may have.
    fn is_of_process(&self) -> bool {
        self.cause == "exited" && !self.is_of_several
    }

    /// Describes an end of which no exit status is known.
    fn without_status(&self) -> String {
        let session = self.session_id.as_deref().unwrap_or_default();
        match self.cause.as_str() {
            "exited" | "pid_reused" => "it has ended, and its exit status is not known".to_owned(),
            "expired" => format!("the time of session {session} is over; its process may run on"),
            "replaced" => {
                format!("session {session} was replaced by another one; its process may run on")
            }
            "requested" => {
                format!("session {session} was removed on request; its process may run on")
            }
            "lost" => format!(
                "the daemon was restarted and has forgotten session {session}; its process may run on"
            ),
            other => format!("session {session} has ended: {other}"),
        }
    }
}

/// As shells report it.
fn as_exit_code(status: ExitStatus) -> u8 {
    match status {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal { signal, .. } => 128_u8.saturating_add(signal),
    }
}

fn as_json(ended: Option<&Ended>) -> Value {
    let Some(ended) = ended else {
        return json!({ "schema": 1, "ended": false, "timed_out": true });
    };
    let exit = ended.status.map(|status| match status {
        ExitStatus::Code(code) => json!({ "code": code, "from": ended.from }),
        ExitStatus::Signal { signal, .. } => json!({ "signal": signal, "from": ended.from }),
    });
    json!({
        "schema": 1,
        "ended": true,
        "timed_out": false,
        "session_id": ended.session_id,
        "pid": ended.pid,
        "cause": ended.cause,
        "exit": exit,
        "text": ended.status.map_or_else(|| ended.without_status(), exit_status),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_that_of_shells() {
        let killed = |signal| ExitStatus::Signal {
            signal,
            core: false,
        };
        assert_eq!(as_exit_code(ExitStatus::Code(255)), 255);
        assert_eq!(
            (as_exit_code(killed(9)), as_exit_code(killed(64))),
            (137, 192)
        );
    }

    #[test]
    fn an_unknown_status_is_null_in_json_and_the_text_says_what_happened() {
        let ended = Ended {
            session_id: Some("s-1".to_owned()),
            cause: "requested".to_owned(),
            ..Ended::default()
        };
        let value = as_json(Some(&ended));
        assert_eq!(value["exit"], Value::Null);
        let text = value["text"].as_str().unwrap();
        assert!(text.contains("s-1 was removed on request"), "{text}");
        assert_eq!(as_json(None)["timed_out"], true);
    }
}
