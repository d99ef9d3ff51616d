//! The `reaperd` binary.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use reaper_user::config::{DaemonOptions, RegisterPolicy};
use reaper_user::{Source, Sources, daemon};

#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon in the foreground.
    Daemon(DaemonArgs),
}

#[derive(Args)]
struct DaemonArgs {
    #[arg(long, env = "REAPERD_SOCKET")]
    socket: PathBuf,
    #[arg(long, default_value = "auto")]
    sources: String,
    #[arg(long, default_value = "")]
    require: String,
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    sweep_interval: Duration,
    #[arg(long, default_value = "24h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    #[arg(long, default_value_t = 100_000)]
    max_sessions: usize,
    #[arg(long, default_value_t = 10_000)]
    max_sessions_per_uid: usize,
    #[arg(long, default_value = "same-uid")]
    register_policy: RegisterPolicy,
    #[arg(long)]
    strict_replace: bool,
    #[arg(long)]
    allow_uid: Vec<u32>,
}

fn sources(list: &str) -> anyhow::Result<Vec<Source>> {
    list.split(',')
        .filter(|name| !name.is_empty())
        .map(|name| match name {
            "netlink" => Ok(Source::Netlink),
            "ebpf" => Ok(Source::Ebpf),
            "pidfd" => Ok(Source::Pidfd),
            "sweep" => Ok(Source::Sweep),
            other => Err(anyhow::anyhow!("{other} is no source")),
        })
        .collect()
}

fn main() -> anyhow::Result<ExitCode> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format(|out, record| writeln!(out, "{}", record.args()))
        .init();
    let Command::Daemon(args) = Cli::parse().command;
    let options = DaemonOptions {
        socket: args.socket,
        sources: if args.sources == "auto" {
            Sources::default()
        } else {
            Sources::only(sources(&args.sources)?)
        },
        require: sources(&args.require)?,
        sweep_interval: args.sweep_interval,
        ttl: args.ttl,
        max_sessions: args.max_sessions,
        max_sessions_per_uid: args.max_sessions_per_uid,
        register_policy: args.register_policy,
        strict_replace: args.strict_replace,
        allow_uids: args.allow_uid,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    Ok(match runtime.block_on(daemon::run(options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("reaperd: {error}\ntry: {}", error.remedy());
            ExitCode::FAILURE
        }
    })
}
