//! `reaperd watch`: prints one line for each event as it happens.

mod exec;
mod filter;
mod reader;
pub(super) mod text;

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use self::exec::Executor;
use self::filter::Filter;
use super::end_signals::{EndSignals, end_by};
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::{Layout, print_line, print_message};
use super::{terminal, values};
use crate::client::follow::{Followed, Follower, Start, numbered};
use crate::client::{Client, Frame};
use crate::sys::signal_action::is_ignored;
use crate::sys::{as_started, inherited};

/// The width of the first column, below which nothing is written.
const TIME_WIDTH: usize = "00:00:00.000  ".len();

/// Descriptors with higher numbers are not looked for.
const MAX_INHERITED: i32 = 4_096;

/// For `reaperd watch --help` and its manual page.
pub(super) const HELP: &str = "\
Events:
  listening             The first line, and after each reconnection: what happens from now on is shown
  session_registered    A session was stored
  session_deregistered  A session ended, with its cause and exit status
  source_state          A source of exit events changed
  snapshot              The present sessions: --snapshot, or after a gap
  gap                   Events are missing: the daemon does not keep them any more
  shutdown              The daemon stops
  end                   The last line if the daemon stopped in an orderly way, without --follow

Command of --exec:
  It gets one event as a line of JSON on its standard input. Commands for events of one session run one after \
the other, in the order of the events; those of others may run at the same time. It gets no descriptors but the \
standard streams, and not the variables with the token file of an outer `reaperd run`. If the reader of the output \
goes, or SIGINT, SIGTERM or SIGHUP comes, running commands are killed and no further ones run.

Exit status:
  0  The reader of the output has gone
  3  No daemon is listening, or it has ended without a notice
  9  The daemon stopped in an orderly way

Environment:
  REAPERD_SOCKET      Path of the daemon's socket
  REAPERD_SERVER_UID  User whose daemon is trusted as well

Examples:
  reaperd watch --filter event=session_deregistered
  reaperd watch --follow --snapshot --json
  reaperd watch --filter label.job=build-7
  reaperd watch --follow --filter session=build-7 --exec 'jq -r .data.cause >> causes'";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Begin behind this event: its number, or EPOCH.SEQ; 0 for all events that are kept
    #[arg(long, value_name = "SEQ|ID", value_parser = since, conflicts_with = "snapshot")]
    since: Option<Start>,
    /// Show only these events: event=NAME,NAME..., uid=USER, session=ID, mesh=MESH or label.KEY=VALUE (one of
    /// the last three, at the end), divided by commas; may be given more than once
    #[arg(long, value_name = "FILTER", value_parser = filter::parse)]
    filter: Vec<Filter>,
    /// Go on when the daemon restarts, without a hole and without showing an event twice
    #[arg(long)]
    follow: bool,
    /// Show the present sessions first
    #[arg(long)]
    snapshot: bool,
    /// Run this shell command for each event, with the event as JSON on its standard input
    #[arg(long, value_name = "COMMAND")]
    exec: Option<String>,
    /// Kill a command of --exec after this time
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = values::duration,
        requires = "exec"
    )]
    exec_timeout: Duration,
}

/// Parses the position of `--since`.
fn since(text: &str) -> Result<Start, String> {
    if let Ok(seq) = text.parse() {
        return Ok(Start::AfterSeq(seq));
    }
    match numbered(text) {
        Some(_) => Ok(Start::After(text.to_owned())),
        None => Err("expected the number of an event, or the id of one, EPOCH.SEQ".to_owned()),
    }
}

impl Arguments {
    /// Takes the descriptors beside the standard streams that this process got at its start, so that the
    /// commands of --exec get none of them. Must be called before this process opens one itself.
    pub(super) fn take_descriptors(&self) -> Vec<(usize, OwnedFd)> {
        match self.exec {
            Some(_) => inherited::take_from(3, MAX_INHERITED),
            None => Vec::new(),
        }
    }

    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        if self.exec.is_none() && as_started::stdout_was_closed() {
            return Err(Failure::new(
                "standard output is closed",
                "open it, or use --exec for a command that gets the events",
            ));
        }
        let executor = match &self.exec {
            Some(command) => Some(Executor::start(command, self.exec_timeout)?),
            None => None,
        };
        let Some(executor) = executor else {
            return tokio::select! {
                shown = self.show(client, None) => shown,
                () = reader::gone() => Ok(ExitCode::Success),
            };
        };
        // One that is ignored does not end this process, and so does not leave commands running.
        let signals = [Signal::INT, Signal::TERM, Signal::HUP];
        let mut signals = EndSignals::receive(signals.into_iter().filter(|it| !is_ignored(*it)))?;
        let mut reader_gone = pin!(reader::gone());
        let (shown, end) = tokio::select! {
            shown = self.show(client, Some(&executor)) => (shown, None),
            () = &mut reader_gone => (Ok(ExitCode::Success), Some(End::NoReader)),
            signal = signals.next() => (Ok(ExitCode::Failure), Some(End::By(signal))),
        };
        let stop = executor.stopper();
        let mut finished = pin!(tokio::task::spawn_blocking(|| executor.finish()));
        let end = if end.is_some() {
            end
        } else {
            // What was read before is handled.
            tokio::select! {
                _done = &mut finished => return shown,
                () = reader_gone => Some(End::NoReader),
                signal = signals.next() => Some(End::By(signal)),
            }
        };
        stop.request();
        finished.await.unwrap_or_default();
        if let Some(End::By(signal)) = end {
            end_by(signal)?;
        }
        shown
    }

    /// Shows events until the daemon stops, or without an end.
    async fn show(
        &self,
        client: &Client,
        executor: Option<&Executor>,
    ) -> Result<ExitCode, Failure> {
        let query = filter::query(&self.filter).map_err(|message| Failure {
            code: ExitCode::Usage,
            ..Failure::new(message, "reaperd watch --help")
        })?;
        let start = match &self.since {
            Some(since) => since.clone(),
            None if self.snapshot => Start::Snapshot,
            None => Start::Now,
        };
        let mut events = Follower::new(client, &query, start).await?;
        let (mut is_first, mut is_stopping) = (true, false);
        loop {
            let frame = match events.next().await? {
                Followed::Frame(frame) => frame,
                Followed::Open => {
                    let data = json!({ "resumed": !is_first });
                    is_first = false;
                    self.print(&text::own_event("listening", events.last(), data))?;
                    continue;
                }
                Followed::Lost(reason) if self.follow => {
                    print_message(&format!("reaperd: {reason}; reconnecting"));
                    continue;
                }
                Followed::Lost(_) if is_stopping => {
                    let data = json!({ "reason": "shutdown" });
                    self.print(&text::own_event("end", "", data))?;
                    return Ok(ExitCode::DaemonStopped);
                }
                Followed::Lost(reason) => return Err(stream_lost(&reason)),
            };
            // One in the history may be of a former daemon; the stream goes on behind it.
            is_stopping = frame.event == "shutdown";
            let Some(frame) = filter::selected(&self.filter, frame) else {
                continue;
            };
            self.print(&frame)?;
            if let Some(executor) = executor {
                executor
                    .submit(&session_of(&frame), &text::as_json(&frame)?)
                    .await;
            }
        }
    }

    /// One write per line, flushed, so that a reader gets the event at once.
    fn print(&self, frame: &Frame) -> Result<(), Failure> {
        let line = if self.json {
            text::as_json(frame)?
        } else {
            let line = text::as_text(frame, Layout::of_stdout())?;
            terminal::wrap(&line, terminal::width_of_stdout(), TIME_WIDTH).into_owned()
        };
        print_line(&line)
    }
}

/// Why commands are not run to their end.
enum End {
    NoReader,
    By(Signal),
}

/// The id of the session that the event is about, or nothing.
fn session_of(frame: &Frame) -> String {
    let data: Value = serde_json::from_str(&frame.data).unwrap_or_default();
    let id = data["session"]["sessionId"].as_str();
    id.unwrap_or_default().to_owned()
}

fn stream_lost(reason: &str) -> Failure {
    Failure {
        code: ExitCode::NoDaemon,
        message: format!("{reason}; later events were not received"),
        remedy: "reaperd watch --follow   (goes on when the daemon is back)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_number_or_an_id() {
        assert_eq!(since("0"), Ok(Start::AfterSeq(0)));
        let id = "6940afdd9cee9401.7";
        assert_eq!(since(id), Ok(Start::After(id.to_owned())));
        for wrong in ["", "-1", "now", "6940.7"] {
            assert!(since(wrong).is_err(), "{wrong:?}");
        }
    }
}
