//! `reaperd demo`: shows the whole product within seconds, with a private daemon and real processes.
//!
//! The demo registers sessions for test processes that end in different ways. Each removal must be
//! reported once, in time and with the correct exit status, and the sessions of running processes
//! must stay; the exit code is 0 only then. Everything that the demo starts is stopped and removed
//! again, also after a failure or an interrupt.

mod events;
mod private_daemon;
mod report;
mod scenario;

use std::path::{Path, PathBuf};
use std::time::Duration;

use reaper_registry::{Source, Token};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::end_signals::EndSignals;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::new_token;
use super::values;
use crate::client::{Client, ClientError, SourcesReport};
use crate::clock::monotonic_ns;
use crate::engine::Sources;
use crate::testkit::test_process::{self, TestProcess};
use events::Subscriber;
use private_daemon::PrivateDaemon;
use report::{Expected, Report, Row};
use scenario::{CONTROLS, Ending, STEPS, Step};

/// The longest delay of a removal if a source other than the sweep works.
const MAX_DELAY: Duration = Duration::from_secs(2);
/// The daemon's default interval, longer than [`MAX_DELAY`]: no removal may depend on the sweep if
/// another source works.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// The interval if the sweep is the only source, which keeps the demo short.
const SHORT_SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The end of all waiting: the demo takes less than 10 s even if it fails.
const TIMEOUT: Duration = Duration::from_secs(8);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Exit sources to use: auto, or a comma-separated list of netlink, ebpf, pidfd, sweep
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = values::sources)]
    sources: Sources,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) async fn run(self) -> Result<ExitCode, Failure> {
        let report = tokio::select! {
            report = self.run_scenario() => report?,
            // Dropping the other future stops the daemon and the test processes.
            interrupted = interrupted() => return Err(interrupted),
        };
        report.finish().map_err(Failure::output)?;
        if report.is_ok() {
            return Ok(ExitCode::Success);
        }
        Err(Failure::new(
            "some steps of the demo failed",
            "reaperd doctor",
        ))
    }

    async fn run_scenario(&self) -> Result<Report, Failure> {
        test_process::adopt_orphans()?;
        let program = std::env::current_exe()?;
        let mut report = Report::new(self.json, STEPS.len());
        report.start().map_err(Failure::output)?;
        let (daemon, sources, sweep) = self.start_daemon(&program).await?;
        report
            .set_sources(&sources, sweep)
            .map_err(Failure::output)?;
        let sweep_only = !has_event_source(&sources);
        let client = Client::new(daemon.socket());
        let subscriber = Subscriber::start(&client).await?;
        let start_ns = monotonic_ns();
        Demo {
            program,
            daemon,
            client,
            subscriber,
            report,
            sweep_only,
            start_ns,
        }
        .run()
        .await
    }

    /// Starts the daemon, with the short sweep interval if no other source works.
    async fn start_daemon(
        &self,
        program: &Path,
    ) -> Result<(PrivateDaemon, SourcesReport, Duration), Failure> {
        let mut sweep = if self.sources == Sources::only([Source::Sweep]) {
            SHORT_SWEEP_INTERVAL
        } else {
            SWEEP_INTERVAL
        };
        loop {
            let daemon = PrivateDaemon::start(program, &self.sources, sweep).await?;
            let sources = daemon.sources().await?;
            if sweep == SHORT_SWEEP_INTERVAL || has_event_source(&sources) {
                return Ok((daemon, sources, sweep));
            }
            sweep = SHORT_SWEEP_INTERVAL;
        }
    }
}

/// Whether a source other than the sweep works.
fn has_event_source(report: &SourcesReport) -> bool {
    report
        .sources
        .iter()
        .any(|source| source.works() && source.source != "sweep")
}

/// Waits for SIGINT, SIGTERM or SIGHUP.
async fn interrupted() -> Failure {
    let signals = EndSignals::receive([Signal::INT, Signal::TERM, Signal::HUP]);
    match signals {
        Ok(mut signals) => drop(signals.next().await),
        Err(error) => return error.into(),
    }
    Failure::new(
        "interrupted; the daemon and all test processes were stopped",
        "reaperd demo",
    )
}

/// A test process and its session.
struct Registered {
    session_id: String,
    token: Token,
    test_process: TestProcess,
}

/// The running demo.
struct Demo {
    program: PathBuf,
    daemon: PrivateDaemon,
    client: Client,
    subscriber: Subscriber,
    report: Report,
    /// Whether the sweep is the only source that works.
    sweep_only: bool,
    start_ns: u64,
}

impl Demo {
    async fn run(mut self) -> Result<Report, Failure> {
        let mut controls = Vec::new();
        for (session_id, kind) in CONTROLS {
            let test_process = TestProcess::spawn(&self.program, kind)?;
            controls.push(self.register(session_id, test_process).await?);
        }
        let mut steps = Vec::new();
        for step in &STEPS {
            let test_process = TestProcess::spawn(&self.program, step.kind)?;
            steps.push((step, self.register(step.session, test_process).await?));
        }
        for (step, registered) in &mut steps {
            step.run_first_stage(&mut registered.test_process)?;
        }
        for ((_, kind), control) in CONTROLS.iter().zip(&mut controls) {
            scenario::replace_program(*kind, &mut control.test_process)?;
        }
        let (two_stage, one_stage): (Vec<_>, Vec<_>) = steps
            .into_iter()
            .partition(|(step, _)| step.has_first_stage());
        let (reuse, plain): (Vec<_>, Vec<_>) = one_stage
            .into_iter()
            .partition(|(step, _)| step.ending == Ending::KillAndReusePid);
        self.end_all(plain).await?;
        // The first stages came before these exits, so the daemon has seen them too.
        for (step, registered) in &two_stage {
            if !self.is_registered(registered).await? {
                self.report.problem(
                    step.session,
                    "the session was removed while a thread was still running",
                );
            }
        }
        self.end_all(two_stage).await?;
        for (step, registered) in reuse {
            controls.extend(self.kill_and_reuse_pid(step, registered).await?);
        }
        self.finish(controls).await
    }

    /// Registers a session for a test process.
    async fn register(
        &self,
        session_id: &str,
        test_process: TestProcess,
    ) -> Result<Registered, Failure> {
        let token = new_token()?;
        let body = json!({
            "token": token.reveal().as_str(), "session_id": session_id, "mesh": "demo",
            "display_name": session_id, "pid": test_process.pid().get(),
        });
        let _response: Value = self.client.post("/v1/sessions/register", &body).await?;
        Ok(Registered {
            session_id: session_id.to_owned(),
            token,
            test_process,
        })
    }

    /// Whether the token still resolves to the session.
    async fn is_registered(&self, registered: &Registered) -> Result<bool, Failure> {
        match self
            .client
            .get_as::<Value>(&registered.token, "/v1/sessions/me")
            .await
        {
            Ok(response) => {
                Ok(response.pointer("/session/sessionId") == Some(&json!(registered.session_id)))
            }
            Err(ClientError::Problem { status: 401, .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends the processes and checks their removals: one after the other, so that the delays are
    /// independent. With the sweep alone all are ended first, because each would wait for a sweep.
    async fn end_all(&mut self, steps: Vec<(&'static Step, Registered)>) -> Result<(), Failure> {
        let mut ended = Vec::new();
        for (step, mut registered) in steps {
            let ended_ns = monotonic_ns();
            step.end(&mut registered.test_process)?;
            if self.sweep_only {
                ended.push((step, registered, ended_ns));
            } else {
                self.check_removal(step, &registered, ended_ns, step.title)
                    .await?;
            }
        }
        for (step, registered, ended_ns) in ended {
            self.check_removal(step, &registered, ended_ns, step.title)
                .await?;
        }
        Ok(())
    }

    async fn check_removal(
        &mut self,
        step: &Step,
        registered: &Registered,
        ended_ns: u64,
        title: &'static str,
    ) -> Result<(), Failure> {
        // A removal that takes longer is a failure.
        let max_delay = if self.sweep_only {
            SHORT_SWEEP_INTERVAL * 2
        } else {
            MAX_DELAY
        };
        self.report.waiting(step.session, title);
        let after = |start: u64, wait: Duration| start.saturating_add(nanos(wait));
        let deadline = after(ended_ns, max_delay).min(after(self.start_ns, TIMEOUT));
        let removal = self
            .subscriber
            .wait_for(&registered.session_id, deadline)
            .await;
        let mut row = Row::new(step.session, registered.test_process.pid(), title);
        row.check(
            removal,
            &Expected {
                ended_ns,
                max_delay,
                status: step.status,
            },
        );
        if removal.is_some() && self.is_registered(registered).await? {
            row.problem = Some("the token is still accepted".to_owned());
        }
        self.report.add(row).map_err(Failure::output)
    }

    /// Kills the process and gives its pid to a new process before the daemon can check it. The
    /// daemon must not mistake one for the other. Returns the new process, registered.
    async fn kill_and_reuse_pid(
        &mut self,
        step: &'static Step,
        mut registered: Registered,
    ) -> Result<Option<Registered>, Failure> {
        self.daemon.suspend()?;
        registered.test_process.kill()?;
        // Reaps it, which frees the pid.
        registered.test_process.wait()?;
        let pid = registered.test_process.pid();
        let successor = scenario::take_pid(&self.program, step.kind, pid);
        let resumed_ns = monotonic_ns();
        self.daemon.resume()?;
        let (successor, title) = match successor {
            Ok(successor) => (Some(successor), step.title),
            Err(reason) => {
                self.report.skip("pid reuse", &reason);
                (None, "killed, daemon suspended")
            }
        };
        self.check_removal(step, &registered, resumed_ns, title)
            .await?;
        match successor {
            Some(test_process) => Ok(Some(self.register("swift-successor", test_process).await?)),
            None => Ok(None),
        }
    }

    /// Checks the controls, stops the daemon and checks for duplicate events.
    async fn finish(mut self, controls: Vec<Registered>) -> Result<Report, Failure> {
        let mut unaffected = 0;
        for control in &controls {
            if self.is_registered(control).await? {
                unaffected += 1;
            } else {
                self.report.problem(
                    &control.session_id,
                    "the session of a running process was removed",
                );
            }
        }
        if let Err(error) = self.daemon.stop() {
            self.report.problem("daemon", &error);
        }
        // The daemon has stopped, so the stream is complete.
        for session_id in self.subscriber.duplicates().await {
            self.report
                .problem(&session_id, "the removal was reported more than once");
        }
        let took = Duration::from_nanos(monotonic_ns() - self.start_ns);
        self.report.set_controls(controls.len(), unaffected, took);
        Ok(self.report)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
