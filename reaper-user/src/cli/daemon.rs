//! `reaperd daemon`: its options, which are those of the table of [`crate::daemon::config`]. The daemon
//! itself is in [`crate::daemon`].

mod activated;
mod flags;

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;

use self::flags::Flags;
use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output;
#[cfg(target_os = "linux")]
use crate::daemon::api::listener::{self, SocketAccess};
use crate::daemon::carried::Carried;
use crate::daemon::config::DaemonOptions;
use crate::daemon::config::layers::{Given, Selection};
use crate::daemon::handover::take::{self, NotTaken, Taken};
#[cfg(target_os = "linux")]
use crate::daemon::monitor::{self, Split};
#[cfg(target_os = "linux")]
use crate::daemon::private_memory;
use crate::daemon::reload::Live;
#[cfg(target_os = "linux")]
use crate::daemon::sandbox::{self, User};
use crate::daemon::signals::{self, Ending};
use crate::daemon::socket_path::Surroundings;
#[cfg(target_os = "linux")]
use crate::daemon::socket_path::runtime_folder;
use crate::daemon::systemd::activation::PassedSocket;
use crate::daemon::tcp::BoundListener;
use crate::daemon::{Inherited, descriptors, harden, profile, runtime};

/// The option whose flag all commands have.
const SOCKET: &str = "socket";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    files: ConfigFiles,
    #[command(flatten)]
    flags: Flags,
    /// Take the place of the daemon that runs on this socket, without a refused request
    ///
    /// It gets the socket, the connections and the sessions, and the running daemon ends. If this one
    /// cannot start, the running one goes on. Without a running daemon, starts as usual.
    #[arg(long)]
    replace: bool,
    /// Stop when the parent process, which must have this pid, exits
    #[arg(long, hide = true, value_name = "PID")]
    child_of: Option<u32>,
}

/// Which configuration files are read.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigFiles {
    /// Read this configuration file only
    ///
    /// By default these are read: /etc/reaperd/reaperd.toml, and reaperd/reaperd.toml in the folder of the
    /// user's configuration (~/.config). A user other than root who has the second does not need the first.
    #[arg(long, value_name = "FILE", conflicts_with = "no_config")]
    config: Option<PathBuf>,
    /// Read no configuration file
    #[arg(long)]
    no_config: bool,
}

impl ConfigFiles {
    pub(super) fn selection(self) -> Selection {
        match self.config {
            Some(path) => Selection::Only(path),
            None if self.no_config => Selection::None,
            None => Selection::Standard,
        }
    }
}

/// Takes everything from the running daemon, if there is one.
fn take_over(
    options: &DaemonOptions,
    server_uid: Option<u32>,
) -> Result<Option<(Taken, Carried)>, Failure> {
    #[cfg(target_os = "linux")]
    // Started by root, which does not trust other users' programs by itself.
    let server_uid = server_uid.or_else(|| options.user.map(|user| user.uid));
    let surroundings = Surroundings::of_this_process();
    let client = super::client(Some(&options.socket), server_uid, &surroundings);
    take::take_over(&client).map_err(|error| match error {
        NotTaken::Client(error) => error.into(),
        error => Failure {
            code: ExitCode::Protocol,
            ..Failure::new(error.to_string(), error.remedy())
        },
    })
}

/// Continues to listen on this address, or binds it while this process may, for every worker that it will
/// have. `flag` is the option of the address.
fn bind(
    address: Option<SocketAddr>,
    former: Option<OwnedFd>,
    purpose: &'static str,
    flag: &str,
) -> Result<Option<BoundListener>, Failure> {
    let Some(address) = address else {
        return Ok(None);
    };
    if let Some(adopted) = former.and_then(|former| BoundListener::adopt(former, address)) {
        return Ok(Some(adopted));
    }
    BoundListener::bind(address, purpose)
        .map(Some)
        .map_err(|error| {
            let or_none = if flag == "tcp" { ", or --no-tcp" } else { "" };
            let remedy = format!("use another port with --{flag}{or_none}");
            Failure::new(error.to_string(), remedy)
        })
}

impl Arguments {
    /// Runs the daemon and returns its exit code; in the monitor, that of the worker.
    /// `passed` are the descriptors that the service manager has passed.
    pub(super) fn run(
        self,
        socket: Option<PathBuf>,
        server_uid: Option<u32>,
        passed: Vec<(String, OwnedFd)>,
    ) -> Result<u8, Failure> {
        signals::ignore_until_received();
        if let Some(parent) = self.child_of {
            stop_with(parent)?;
        }
        let (carried, mut passed) = Carried::from_named(passed);
        let activated = activated::take(&mut passed)?;
        let replace = self.replace;
        let live = self.configure(socket, activated.as_ref())?;
        let options = live.options();
        output::start_daemon_log(&options.log);
        // What it cannot find out is in the log.
        #[cfg(target_os = "linux")]
        private_memory::refuse_tracer()?;
        if let Some(activated) = &activated {
            activated::warn_if_open_to_all(activated, &options);
        }
        if options.profile.is_some() {
            profile::create_parent(&options.socket)
                .map_err(|error| Failure::new(error.to_string(), error.remedy()))?;
        }
        let given_up = replace
            .then(|| take_over(&options, server_uid))
            .transpose()?;
        let inherited = inherit(&options, carried, activated, given_up.flatten())?;
        #[cfg(target_os = "linux")]
        let inherited = match divide(&options, inherited)? {
            Divided::Ended(code) => return Ok(code),
            Divided::Serves(inherited) => *inherited,
        };
        #[cfg(not(target_os = "linux"))]
        harden::keep_only_what_sources_need();
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(descriptors::worker_threads());
        let runtime = runtime::build(builder).map_err(super::no_runtime)?;
        let ended = runtime.block_on(crate::daemon::run(live, inherited));
        match ended {
            Ok(Ending::InOrder) => Ok(ExitCode::Success.number()),
            Ok(Ending::AtOnce) => Ok(ExitCode::AtOnce.number()),
            Err(error) => Err(Failure::new(error.to_string(), error.remedy())),
        }
    }

    /// Puts the configuration together. What a socket of the service manager decides stays so in a reload.
    fn configure(
        self,
        socket: Option<PathBuf>,
        activated: Option<&PassedSocket>,
    ) -> Result<Live, Failure> {
        let mut flags = self.flags.0;
        if let Some(socket) = socket {
            let text = socket.into_os_string().into_string().map_err(|path| {
                let message = format!("the path {} is not UTF-8", path.display());
                Failure::new(message, "use another --socket")
            })?;
            flags.push((SOCKET.to_owned(), text));
        }
        let mut given = Given::new(self.files.selection(), flags);
        let mut configuration = given.load()?;
        if let Some(activated) = activated {
            let options = given.options(&configuration);
            given.add_flags(activated::settings(activated, &configuration, &options)?);
            configuration = given.load()?;
        }
        Ok(Live::new(given, configuration))
    }
}

/// Collects what the service manager passes and what a former daemon has left, or gives up now.
fn inherit(
    options: &DaemonOptions,
    carried: Carried,
    activated: Option<PassedSocket>,
    given_up: Option<(Taken, Carried)>,
) -> Result<Inherited, Failure> {
    let (mut taken, carried) = match given_up {
        Some((taken, carried)) => (Some(taken), carried),
        None => (None, carried),
    };
    let (of_metrics, of_tcp) = taken.as_mut().map_or((None, None), |taken| {
        (taken.metrics_listener.take(), taken.tcp_listener.take())
    });
    let serve_api = "serve the API";
    let bound = bind(
        options.metrics_listen,
        of_metrics,
        "serve metrics",
        "metrics-listen",
    )
    .and_then(|metrics| {
        Ok((
            metrics,
            bind(options.tcp_address(), of_tcp, serve_api, "tcp")?,
        ))
    });
    let (metrics, tcp) = bound.inspect_err(|failure| {
        if let Some(taken) = &taken {
            taken.give_up(&failure.message);
        }
    })?;
    Ok(Inherited {
        carried,
        activated,
        taken,
        metrics,
        tcp,
    })
}

/// What this process is, once it has been divided.
#[cfg(target_os = "linux")]
enum Divided {
    /// The monitor, whose worker has ended with this code.
    Ended(u8),
    /// The one that serves, with what was left by the one before it.
    Serves(Box<Inherited>),
}

/// Gives up what this process does not need.
#[cfg(target_os = "linux")]
fn divide(options: &DaemonOptions, mut inherited: Inherited) -> Result<Divided, Failure> {
    let user = options.user;
    harden::raise_locked_memory_limit();
    let is_activated = inherited.activated.is_some();
    if let Some(group) = options.socket_group.filter(|_| !is_activated) {
        harden::join_group(group);
    }
    let carried = std::mem::take(&mut inherited.carried);
    let split = if options.no_monitor {
        Split::Alone(carried)
    } else {
        // A connection that the monitor keeps open would never end for its client.
        let close_connections = || inherited.taken = None;
        monitor::split(user.is_some(), carried, close_connections).map_err(|error| {
            Failure::new(
                format!("the daemon cannot start its worker: {error}"),
                "raise the limits of processes and open files (ulimit -u, ulimit -n), or use \
                 --no-monitor",
            )
        })?
    };
    inherited.carried = match split {
        Split::Monitor(code) => return Ok(Divided::Ended(code)),
        Split::Worker(monitor, carried) => {
            confine(options, is_activated, monitor)?;
            carried
        }
        Split::Alone(_) if user.is_some() => {
            return Err(Failure::new(
                "--user needs a monitor, which cannot be started here",
                "start the daemon as that user",
            ));
        }
        Split::Alone(carried) => {
            sandbox::empty_bounding_set();
            harden::keep_only_what_sources_need();
            carried
        }
    };
    Ok(Divided::Serves(Box::new(inherited)))
}

/// Confines the worker.
#[cfg(target_os = "linux")]
fn confine(
    options: &DaemonOptions,
    is_activated: bool,
    monitor: rustix::process::Pid,
) -> Result<(), Failure> {
    let user = options.user;
    let access = SocketAccess::of(options);
    let folder = (!is_activated)
        .then(|| listener::create_folder(&options.socket, access, user))
        .transpose()
        .map_err(|error| Failure::new(error.to_string(), error.remedy()))?;
    let files = sandbox::Files {
        socket_folder: folder.as_deref(),
        token_folders: &token_folders(user),
    };
    sandbox::confine(user, options.socket_group, monitor, &files).map_err(|error| {
        Failure::new(
            format!("the daemon cannot become the user of --user: {error}"),
            "start it as root, or without --user",
        )
    })
}

/// Returns the folders below which sessions of the daemon's user have their token files: this program's in
/// the user's runtime folder as this process sees it, and in the usual one, which a login sets.
#[cfg(target_os = "linux")]
fn token_folders(user: Option<User>) -> [PathBuf; 2] {
    let surroundings = Surroundings::of_this_process();
    let uid = user.map_or(surroundings.uid, |user| user.uid);
    let usual = Surroundings {
        runtime_dir: Some(format!("/run/user/{uid}").into()),
        ..surroundings.clone()
    };
    let seen = Surroundings {
        uid,
        ..surroundings
    };
    [seen, usual].map(|surroundings| runtime_folder(&surroundings).path)
}

/// Makes the kernel stop this daemon when the parent exits. A killed demo cannot stop it.
#[cfg(target_os = "linux")]
fn stop_with(parent: u32) -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};

    set_parent_process_death_signal(Some(Signal::TERM)).map_err(std::io::Error::from)?;
    // Checked afterwards, because the parent may have exited before the call.
    if getppid().is_none_or(|now| now.as_raw_pid().cast_unsigned() != parent) {
        return Err(Failure::new(
            "the parent process has exited",
            "reaperd daemon",
        ));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature everywhere")]
fn stop_with(_parent: u32) -> Result<(), Failure> {
    Ok(())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn of_the_runtime_folders_only_the_part_of_this_program_is_open_to_the_worker() {
        let user = User { uid: 7, gid: 7 };
        let folders = token_folders(Some(user));
        assert_eq!(folders[1], Path::new("/run/user/7/reaperd"));
        for folder in folders {
            let name = folder.file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with("reaperd"), "{name}");
        }
    }
}
