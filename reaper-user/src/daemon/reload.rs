//! The configuration in force, and its reload.
//!
//! A reload reads files and environment again. Either everything is right, and what may change does, or
//! nothing changes. The server takes over what it needs of it with the next turn of its loop.

#[cfg(target_os = "linux")]
pub(crate) mod kept;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use reaper_registry::{Limits, Rules};
use tokio::sync::watch;

use super::accounts::Newcomers;
use super::api::App;
use super::api::listener::SocketAccess;
use super::api::wire::ConfigView;
use super::config::DaemonOptions;
use super::config::fault::Faults;
use super::config::layers::{Configuration, Given, Setting};
use super::config::options::LOG;
use crate::clock;

/// The option that a reload can lower, and raise no further than it was at the start.
const MAX_CONNECTIONS: &str = "max-connections";
/// The option whose change may change the access to the socket.
const ALLOW_UID: &str = "allow-uid";

/// The configuration of a running daemon.
pub(crate) struct Live {
    options: watch::Sender<Arc<DaemonOptions>>,
    /// `None`: the options were given by a test, and a reload changes nothing.
    source: Option<Given>,
    most_connections: Option<usize>,
    state: Mutex<State>,
}

/// What `/v1/health` shows.
struct State {
    running: Option<Configuration>,
    files: Vec<PathBuf>,
    loaded_at: u64,
    error: Option<String>,
    needs_restart: Vec<&'static str>,
}

/// What a configuration changes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    /// Texts such as `ttl 24h -> 1h`.
    applied: Vec<String>,
    needs_restart: Vec<&'static str>,
}

impl Live {
    /// Starts with this configuration.
    pub(crate) fn new(given: Given, configuration: Configuration) -> Self {
        let options = given.options(&configuration);
        Self::with(options, Some((given, configuration)))
    }

    /// Options that no reload changes.
    pub(crate) fn fixed(options: DaemonOptions) -> Self {
        Self::with(options, None)
    }

    fn with(options: DaemonOptions, loaded: Option<(Given, Configuration)>) -> Self {
        let (source, running) = loaded.unzip();
        let files = running.as_ref().map(|it: &Configuration| it.files.clone());
        Self {
            most_connections: options.max_connections,
            options: watch::Sender::new(Arc::new(options)),
            source,
            state: Mutex::new(State {
                running,
                files: files.unwrap_or_default(),
                loaded_at: clock::now().wall_ms,
                error: None,
                needs_restart: Vec::new(),
            }),
        }
    }

    pub(crate) fn options(&self) -> Arc<DaemonOptions> {
        self.options.borrow().clone()
    }

    /// Becomes ready with each reload that changes something.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<DaemonOptions>> {
        self.options.subscribe()
    }

    pub(crate) fn view(&self) -> ConfigView {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let files = state.files.iter().map(|path| path.display().to_string());
        ConfigView {
            files: files.collect(),
            loaded_at: state.loaded_at,
            error: state.error.clone(),
            needs_restart: state.needs_restart.clone(),
        }
    }

    /// Returns the configuration that is in force, if there is one besides the options.
    #[cfg(target_os = "linux")]
    fn running(&self) -> Option<Configuration> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running.clone()
    }

    /// Notes that a reload has failed.
    fn failed(&self, faults: &Faults) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.error = Some(faults.to_string());
    }

    /// Takes over what may change.
    fn take_over(&self, new: Configuration) -> Changes {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = state.running.as_ref().map_or(&[][..], |it| &it.settings);
        let mut options = DaemonOptions::clone(&self.options());
        let (changes, settings) = compare(before, &new.settings, &mut options);
        let changes = self.with_connections(changes, &options);
        state.running = Some(Configuration {
            settings,
            files: new.files.clone(),
        });
        state.files = new.files;
        state.loaded_at = clock::now().wall_ms;
        state.error = None;
        state.needs_restart.clone_from(&changes.needs_restart);
        drop(state);
        if !changes.applied.is_empty() {
            self.options.send_replace(Arc::new(options));
        }
        changes
    }

    fn with_connections(&self, mut changes: Changes, options: &DaemonOptions) -> Changes {
        let most = |max: Option<usize>| max.unwrap_or(usize::MAX);
        if most(options.max_connections) > most(self.most_connections) {
            changes.needs_restart.push(MAX_CONNECTIONS);
        }
        changes
    }
}

/// Sets the options that may change, and returns what differs and the settings that are then in force.
fn compare(
    before: &[Setting],
    after: &[Setting],
    options: &mut DaemonOptions,
) -> (Changes, Vec<Setting>) {
    let mut changes = Changes::default();
    let mut in_force = Vec::new();
    for (old, new) in before.iter().zip(after) {
        let spec = new.spec;
        let stays = old.text != new.text && !(spec.reload && may_change(new, options));
        if stays {
            changes.needs_restart.push(spec.name);
        } else if let Err(error) = (spec.set)(options, &new.text) {
            log::warn!("{} stays as it is: {error}", spec.name);
        } else if old.text != new.text {
            let (name, old, new) = (spec.name, &old.text, &new.text);
            changes.applied.push(format!("{name} {old:?} -> {new:?}"));
        }
        in_force.push(if stays { old.clone() } else { new.clone() });
    }
    (changes, in_force)
}

/// Returns whether this can change now. A confined worker that listens cannot change who reaches its socket
/// except by the list, if there is one. A log has one level or a list, as at its start.
fn may_change(new: &Setting, options: &DaemonOptions) -> bool {
    let mut changed = options.clone();
    if (new.spec.set)(&mut changed, &new.text).is_err() {
        return true;
    }
    match new.spec.name {
        ALLOW_UID => !access_is_fixed() || SocketAccess::of(&changed) == SocketAccess::of(options),
        LOG => options.log.can_become(&changed.log),
        _ => true,
    }
}

#[cfg(target_os = "linux")]
fn access_is_fixed() -> bool {
    super::sandbox::restricts_calls()
}

/// Only Linux has a sandbox.
#[cfg(not(target_os = "linux"))]
const fn access_is_fixed() -> bool {
    false
}

/// Reads the configuration again. This is the whole reload: a service manager is notified before and
/// after it.
pub(crate) async fn reload(app: &App) {
    if let Some(changes) = read_again(&app.live).await {
        apply(app);
        report(&changes);
        #[cfg(target_os = "linux")]
        kept::keep(&app.live);
    }
}

/// Reads the configuration and takes over what may change. `None`: nothing was read.
async fn read_again(live: &Live) -> Option<Changes> {
    let given = live.source.clone()?;
    // It waits for files and for the monitor.
    let loading = tokio::task::spawn_blocking(move || given.load());
    let Ok(loaded) = loading.await else {
        log::error!("the reload of the configuration panicked; nothing has changed");
        return None;
    };
    match loaded {
        Ok(configuration) => Some(live.take_over(configuration)),
        Err(faults) => {
            for fault in &faults.0 {
                log::error!("the configuration stays as it is: {fault}");
            }
            live.failed(&faults);
            None
        }
    }
}

fn report(changes: &Changes) {
    let Changes {
        applied,
        needs_restart,
    } = changes;
    if applied.is_empty() {
        log::info!("configuration reloaded: nothing has changed");
    } else {
        log::info!("configuration reloaded: {}", applied.join(", "));
    }
    if !needs_restart.is_empty() {
        log::warn!("needs a restart: {}", needs_restart.join(", "));
    }
}

/// Puts the options in force outside of the server.
fn apply(app: &App) {
    let options = app.options();
    app.reaper.registry().set_rules(rules(&options));
    app.reaper.set_sweep_interval(options.sweep_interval);
    let shares = app
        .descriptors
        .with_max_connections(options.max_connections);
    let newcomers = Newcomers::with(&options);
    app.accounts.set_limits(newcomers, shares.limits(&options));
    options.log.set_level();
}

/// Returns the settings of the registry.
pub(crate) fn rules(options: &DaemonOptions) -> Rules {
    Rules {
        ttl: options.ttl,
        max_ttl: options.max_ttl,
        limits: Limits {
            sessions: options.max_sessions,
            sessions_per_owner: options.max_sessions_per_uid,
            bytes: options.max_bytes,
            bytes_per_owner: options.max_bytes_per_uid,
        },
        strict_replace: options.strict_replace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::config::layers::Origin;
    use crate::daemon::config::options::OPTIONS;

    fn settings(changed: &[(&str, &str)]) -> Vec<Setting> {
        let text = |name, default| {
            let change = changed.iter().find(|(changed, _)| *changed == name);
            change.map_or(default, |(_, text)| *text).to_owned()
        };
        let setting = |spec: &'static crate::daemon::config::options::OptionSpec| Setting {
            spec,
            text: text(spec.name, spec.default),
            origin: Origin::Default,
        };
        OPTIONS.iter().map(setting).collect()
    }

    #[test]
    fn what_needs_a_restart_keeps_its_value_until_it_is_as_before() {
        let mut options = DaemonOptions::on("/s");
        let first = settings(&[]);
        let edited = settings(&[("socket-group", "0"), ("ttl", "1h")]);
        let (changes, running) = compare(&first, &edited, &mut options);
        assert_eq!(changes.applied, ["ttl \"24h\" -> \"1h\""]);
        assert_eq!(changes.needs_restart, ["socket-group"]);
        assert_eq!(options.socket_group, None);
        assert_eq!(options.ttl.unwrap().as_secs(), 3_600);
        let (changes, running) = compare(&running, &edited, &mut options);
        assert_eq!((changes.applied.len(), changes.needs_restart.len()), (0, 1));
        let (changes, _) = compare(&running, &settings(&[("ttl", "1h")]), &mut options);
        assert_eq!(changes, Changes::default());
    }

    #[test]
    fn a_level_becomes_another_level_and_a_list_needs_a_restart() {
        let list = "warn,reaperd::sessions=info";
        for (before, after, may) in [
            ("info", "debug", true),
            ("info", list, false),
            (list, "info", false),
            (list, "error,reaperd::sessions=info", false),
        ] {
            let mut options = DaemonOptions {
                log: before.parse().unwrap(),
                ..DaemonOptions::on("/s")
            };
            let settings = |log| settings(&[("log", log)]);
            let (changes, _) = compare(&settings(before), &settings(after), &mut options);
            assert_eq!(changes.applied.len(), usize::from(may), "{before} {after}");
            assert_eq!(changes.needs_restart.len(), usize::from(!may));
            assert_eq!(options.log == after.parse().unwrap(), may);
        }
    }

    #[test]
    fn connections_can_be_raised_to_their_number_at_the_start() {
        let live = Live::fixed(DaemonOptions {
            max_connections: Some(20),
            ..DaemonOptions::on("/s")
        });
        for (max, needs_restart) in [(Some(20), 0), (Some(8), 0), (Some(21), 1), (None, 1)] {
            let options = DaemonOptions {
                max_connections: max,
                ..DaemonOptions::on("/s")
            };
            let changes = live.with_connections(Changes::default(), &options);
            assert_eq!(changes.needs_restart.len(), needs_restart, "{max:?}");
        }
    }
}
