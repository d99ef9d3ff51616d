//! The running daemon: what it reports about itself, and the findings about it. `status` shows the same.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Finding, Scope, Verdict, config, conflicts, memory, restart, sandbox, shares};
use crate::cli::failure::Failure;
use crate::cli::output::age;
use crate::client::{Client, ClientError, SourcesReport, Version};

/// The responses of a running daemon, as it sent them.
pub(in crate::cli) struct Running {
    pub(in crate::cli) version: Value,
    pub(in crate::cli) health: Value,
    pub(in crate::cli) sources: Value,
    /// Null for a daemon without this route.
    pub(in crate::cli) limits: Value,
}

/// The numbers in `/v1/sources`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Numbers {
    sessions: u64,
    processes: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Uptime {
    uptime_ms: Option<u64>,
}

impl Running {
    pub(in crate::cli) async fn query(client: &Client) -> Result<Self, ClientError> {
        Ok(Self {
            version: client.get("/v1/version").await?,
            health: client.get("/v1/health").await?,
            sources: client.get("/v1/sources").await?,
            limits: client.get("/v1/limits").await.unwrap_or_default(),
        })
    }

    /// Returns a response as this type.
    pub(in crate::cli) fn read<T: DeserializeOwned>(response: &Value) -> Result<T, ClientError> {
        T::deserialize(response).map_err(|error| ClientError::Protocol {
            detail: format!("unexpected response of the daemon: {error}"),
        })
    }

    /// Returns the findings about this daemon.
    pub(in crate::cli) fn findings(&self, client: &Client) -> Result<Vec<Finding>, ClientError> {
        let mut findings = vec![self.daemon(client)?];
        findings.extend(Self::read(&self.limits).ok().as_ref().map(shares::finding));
        findings.extend(memory::finding(&self.health));
        let conflicts = Self::read(&self.health).ok();
        findings.extend(conflicts.as_ref().and_then(conflicts::finding));
        // An older daemon does not report it.
        let restarts = Self::read(&self.health).ok();
        findings.extend(restarts.as_ref().map(restart::finding));
        findings.extend(Self::read(&self.health).ok().and_then(sandbox::finding));
        findings.extend(Self::read(&self.health).ok().and_then(config::finding));
        Ok(findings)
    }

    fn daemon(&self, client: &Client) -> Result<Finding, ClientError> {
        let version: Version = Self::read(&self.version)?;
        let sources: SourcesReport = Self::read(&self.sources)?;
        let Numbers {
            sessions,
            processes,
        } = Self::read(&self.sources)?;
        let Uptime { uptime_ms } = Self::read(&self.health)?;
        let used = sources.sources.iter().filter(|it| it.state != "off");
        let states: Vec<_> = used
            .map(|it| {
                let counted = |count, what| match count {
                    0 => String::new(),
                    count => format!(" ({count} {what})"),
                };
                let lost = counted(it.lost, "events lost");
                let forged = counted(it.forged, "forged messages ignored");
                format!("{} {}{lost}{forged}", it.source, it.state)
            })
            .collect();
        let up = uptime_ms.map_or_else(String::new, |ms| format!(", up {}", age(ms / 1_000)));
        let text = format!(
            "{} on {}{up}: sessions {sessions}, processes {processes}; {}",
            version.daemon_version,
            client.socket().display(),
            states.join(", ")
        );
        let is_ok = sources.status == "ok";
        // A source that another one stands in for is reported by the probe.
        let remedies = sources.sources.into_iter().map(|source| source.remedy);
        let remedies: Vec<_> = remedies.filter(|it| !is_ok && !it.is_empty()).collect();
        Ok(Finding {
            verdict: if is_ok { Verdict::Ok } else { Verdict::Warn },
            subject: "daemon".to_owned(),
            text,
            remedy: remedies.join("; "),
            scope: Scope::Daemon,
        })
    }
}

/// The finding about a daemon that does not report its state.
pub(super) fn not_running(client: &Client, error: ClientError) -> Finding {
    let (verdict, text, remedy) = match error {
        ClientError::NoDaemon { .. } => (
            Verdict::Skip,
            format!("no daemon is listening on {}", client.socket().display()),
            "reaperd daemon".to_owned(),
        ),
        error => {
            let Failure {
                message, remedy, ..
            } = error.into();
            (Verdict::Fail, message, remedy)
        }
    };
    Finding {
        verdict,
        subject: "daemon".to_owned(),
        text,
        remedy,
        scope: Scope::Daemon,
    }
}
