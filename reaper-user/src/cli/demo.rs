//! `reaperd demo`: the whole of it in some seconds, on a private daemon and real processes.
//!
//! Sessions are registered for processes that end in different ways; each has to be reported once,
//! soon, and as what it was, while living ones stay. The exit code tells the truth about that. All
//! of it is taken down again, whether it went well, failed or was interrupted.

mod observer;
mod private_daemon;
mod report;
mod scenario;

use std::path::{Path, PathBuf};
use std::time::Duration;

use reaper_registry::Token;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::new_token;
use super::values::{self, SourceChoice};
use crate::client::{Client, ClientError, SourcesReport};
use crate::clock::monotonic_ns;
use crate::testkit::test_process::{self, TestProcess};
use observer::Observer;
use private_daemon::PrivateDaemon;
use report::{Report, Row};
use scenario::{CONTROLS, Ending, STEPS, Step};

/// Where something but the sweep runs, a removal that takes longer is late.
const LATE: Duration = Duration::from_secs(2);
/// The daemon's own default: what a removal must not need where another source runs.
const SWEEP: Duration = Duration::from_secs(5);
/// Where the sweep is all there is, so that nobody has to wait long.
const QUICK_SWEEP: Duration = Duration::from_secs(1);
/// After this long nothing more is waited for: the whole takes less than 10 s even if it fails.
const BUDGET: Duration = Duration::from_secs(8);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The sources of exit events: auto, or a list of netlink, ebpf, pidfd, sweep
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = values::sources)]
    sources: SourceChoice,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let report = tokio::select! {
            report = self.play() => report?,
            // What was started is dropped with the play, and that takes it down.
            interrupted = interrupted() => return Err(interrupted),
        };
        report.finish().map_err(Failure::output)?;
        if report.is_good() {
            return Ok(ExitCode::Success);
        }
        Err(Failure::new(
            "the demo went wrong, see above",
            "reaperd doctor",
        ))
    }

    async fn play(&self) -> Result<Report, Failure> {
        test_process::adopt_orphans()?;
        let program = std::env::current_exe()?;
        let mut report = Report::new(self.json);
        report.open().map_err(Failure::output)?;
        let (daemon, sources, sweep) = self.start(&program).await?;
        report.sources(&sources, sweep).map_err(Failure::output)?;
        let alone = !sources
            .sources
            .iter()
            .any(|s| s.works() && s.source != "sweep");
        let limit = if alone { QUICK_SWEEP * 2 } else { LATE };
        let client = Client::new(daemon.socket());
        let observer = Observer::start(&client).await?;
        let start_ns = monotonic_ns();
        Harness {
            program,
            daemon,
            client,
            observer,
            report,
            limit,
            alone,
            start_ns,
        }
        .play()
        .await
    }

    async fn start(
        &self,
        program: &Path,
    ) -> Result<(PrivateDaemon, SourcesReport, Duration), Failure> {
        let mut sweep = if self.sources.is_sweep_alone() {
            QUICK_SWEEP
        } else {
            SWEEP
        };
        loop {
            let daemon = PrivateDaemon::start(program, &self.sources, sweep).await?;
            let sources = daemon.sources().await?;
            if sweep == QUICK_SWEEP
                || sources
                    .sources
                    .iter()
                    .any(|s| s.works() && s.source != "sweep")
            {
                return Ok((daemon, sources, sweep));
            }
            sweep = QUICK_SWEEP;
        }
    }
}

/// Waits until somebody wants us to stop.
async fn interrupted() -> Failure {
    let wait = async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = terminate.recv() => Ok(()),
            _ = hang_up.recv() => Ok(()),
        }
    };
    match wait.await {
        Ok(()) => Failure::new("interrupted; everything was taken down", "reaperd demo"),
        Err(error) => error.into(),
    }
}

/// A test process with its session.
struct Player {
    name: String,
    token: Token,
    test_process: TestProcess,
}

/// Everything while it runs.
struct Harness {
    program: PathBuf,
    daemon: PrivateDaemon,
    client: Client,
    observer: Observer,
    report: Report,
    /// What takes longer is late.
    limit: Duration,
    /// The sweep is all there is.
    alone: bool,
    start_ns: u64,
}

impl Harness {
    async fn play(mut self) -> Result<Report, Failure> {
        let mut controls = Vec::new();
        for (name, kind) in CONTROLS {
            controls.push(
                self.enter(name, TestProcess::spawn(&self.program, kind)?)
                    .await?,
            );
        }
        let mut players = Vec::new();
        for step in &STEPS {
            players.push((
                step,
                self.enter(step.name, TestProcess::spawn(&self.program, step.kind)?)
                    .await?,
            ));
        }
        for (step, player) in &mut players {
            step.prelude(&mut player.test_process)?;
        }
        for ((_, kind), player) in CONTROLS.iter().zip(&mut controls) {
            scenario::replace_program(*kind, &mut player.test_process)?;
        }
        let (survivors, first): (Vec<_>, Vec<_>) = players
            .into_iter()
            .partition(|(step, _)| step.has_prelude());
        let (last, first): (Vec<_>, Vec<_>) = first
            .into_iter()
            .partition(|(step, _)| step.ending == Ending::Recycle);
        self.end(first).await?;
        // By now the daemon has been told of what came before those deaths too.
        for (step, player) in &survivors {
            if !self.is_alive(player).await? {
                self.report.problem(
                    step.name,
                    "its session was dropped while a thread still ran",
                );
            }
        }
        self.end(survivors).await?;
        for (step, player) in last {
            controls.extend(self.recycle(step, player).await?);
        }
        self.close(controls).await
    }

    /// Registers a test process.
    async fn enter(&self, name: &str, test_process: TestProcess) -> Result<Player, Failure> {
        let token = new_token()?;
        let body = json!({
            "token": token.reveal().as_str(), "session_id": name, "mesh": "demo",
            "display_name": name, "pid": test_process.pid().get(),
        });
        let _registered: Value = self.client.post("/v1/sessions/register", &body).await?;
        Ok(Player {
            name: name.to_owned(),
            token,
            test_process,
        })
    }

    /// Whether its token still leads to its session.
    async fn is_alive(&self, player: &Player) -> Result<bool, Failure> {
        match self
            .client
            .get_as::<Value>(&player.token, "/v1/sessions/me")
            .await
        {
            Ok(answer) => Ok(answer.pointer("/session/sessionId") == Some(&json!(player.name))),
            Err(ClientError::Problem { status: 401, .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends these and waits for each to be reported: one by one, so that times are their own; or,
    /// where each would wait for its own sweep, all at once.
    async fn end(&mut self, players: Vec<(&'static Step, Player)>) -> Result<(), Failure> {
        let mut ended = Vec::new();
        for (step, mut player) in players {
            let at_ns = monotonic_ns();
            step.end(&mut player.test_process)?;
            if self.alone {
                ended.push((step, player, at_ns));
            } else {
                self.await_removal(step, &player, at_ns, step.title).await?;
            }
        }
        for (step, player, at_ns) in ended {
            self.await_removal(step, &player, at_ns, step.title).await?;
        }
        Ok(())
    }

    async fn await_removal(
        &mut self,
        step: &Step,
        player: &Player,
        ended_ns: u64,
        title: &'static str,
    ) -> Result<(), Failure> {
        let until = |start: u64, wait: Duration| start.saturating_add(nanos(wait));
        let deadline = until(ended_ns, self.limit).min(until(self.start_ns, BUDGET));
        let seen = self.observer.wait_for(&player.name, deadline).await;
        let mut row = Row::new(step.name, player.test_process.pid(), title);
        row.judge(seen, ended_ns, self.limit, step.status);
        if seen.is_some() && self.is_alive(player).await? {
            row.problem = Some("its token is still accepted".to_owned());
        }
        self.report.row(row).map_err(Failure::output)
    }

    /// Has the number of a dead process go to another one before the daemon can look: the new one
    /// must not be taken for the old one. Answers with the new one, registered.
    async fn recycle(
        &mut self,
        step: &'static Step,
        mut player: Player,
    ) -> Result<Option<Player>, Failure> {
        self.daemon.suspend()?;
        player.test_process.kill()?;
        // Reaped, so that its number is free.
        player.test_process.wait()?;
        let successor = scenario::take_pid(&self.program, step.kind, player.test_process.pid());
        let resumed_ns = monotonic_ns();
        self.daemon.resume()?;
        let (successor, title) = match successor {
            Ok(successor) => (Some(successor), step.title),
            Err(reason) => {
                self.report.skipped("pid reused", &reason);
                (None, "killed, daemon suspended")
            }
        };
        self.await_removal(step, &player, resumed_ns, title).await?;
        match successor {
            Some(test_process) => Ok(Some(self.enter("swift-successor", test_process).await?)),
            None => Ok(None),
        }
    }

    /// Looks at everything once more.
    async fn close(mut self, controls: Vec<Player>) -> Result<Report, Failure> {
        for player in &controls {
            if self.is_alive(player).await? {
                self.report.untouched();
            } else {
                self.report
                    .problem(&player.name, "a living process lost its session");
            }
        }
        self.report.controls(controls.len());
        if let Err(complaint) = self.daemon.stop() {
            self.report.problem("daemon", &complaint);
        }
        // The stream has ended, so this is all that was ever said.
        for name in self.observer.reported_twice().await {
            self.report
                .problem(&name, "its end was reported more than once");
        }
        self.report
            .took(Duration::from_nanos(monotonic_ns() - self.start_ns));
        Ok(self.report)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
