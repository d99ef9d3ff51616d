//! `cargo xtask bench`: measures the daemon and the library, each beside what it is compared with, in
//! one run on the same machine, interleaved where possible. Linux only.
//!
//! Absolute times on a shared machine mean little; the ratio of two medians taken side by side does.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line program"
)]

mod daemon;
mod deaths;
mod fork_server;
mod http;
mod load;
mod mass;
mod measure;
mod memory;
mod observers;
mod report;
mod resolve;
mod start;
mod storm;
mod sweep;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use report::Section;

/// How much to measure.
pub(crate) struct Plan {
    /// Interleaved repetitions; each section defines one.
    rounds: usize,
}

type Measure = fn(&Plan) -> io::Result<Section>;

/// In the order of the report.
const SECTIONS: &[(&str, Measure)] = &[
    ("death", deaths::small),
    ("polling", deaths::polling),
    ("fat", deaths::fat),
    ("storm", storm::measure),
    ("sweep", sweep::measure),
    ("resolve", resolve::measure),
    ("http", http::measure),
    ("memory", memory::measure),
    ("mass", mass::measure),
    ("start", start::measure),
];

const USAGE: &str = "bench [--only NAME,..] [--rounds N] [--write FILE]";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let outcome = match arguments.next().as_deref() {
        Some("fork-server") => fork_server::run(),
        Some("storm") => fork_server::storm(arguments.next().as_deref()),
        first => run(first.map(str::to_owned).into_iter().chain(arguments)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    only: Vec<String>,
    rounds: usize,
    write: Option<PathBuf>,
}

impl Arguments {
    fn parse(mut arguments: impl Iterator<Item = String>) -> io::Result<Self> {
        let mut parsed = Self {
            only: Vec::new(),
            rounds: 5,
            write: None,
        };
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or_else(|| io::Error::other(USAGE))?;
            match flag.as_str() {
                "--only" => parsed.only = value.split(',').map(str::to_owned).collect(),
                "--rounds" => parsed.rounds = value.parse().map_err(io::Error::other)?,
                "--write" => parsed.write = Some(value.into()),
                _ => return Err(io::Error::other(USAGE)),
            }
        }
        let known = |name: &String| SECTIONS.iter().any(|(known, _)| known == name);
        match parsed.only.iter().find(|name| !known(name)) {
            Some(unknown) => {
                let names: Vec<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
                let known = names.join(", ");
                Err(io::Error::other(format!("{unknown:?} is none of {known}")))
            }
            None => Ok(parsed),
        }
    }
}

fn run(arguments: impl Iterator<Item = String>) -> io::Result<()> {
    let Arguments {
        only,
        rounds,
        write,
    } = Arguments::parse(arguments)?;
    raise_descriptor_limits();
    let plan = Plan {
        rounds: rounds.max(1),
    };
    let mut sections = Vec::new();
    for (name, measure) in SECTIONS {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprintln!("measuring {name} ...");
        let section = measure(&plan)
            .map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
        println!("{}", section.as_text());
        sections.push(section);
    }
    match write {
        Some(path) => std::fs::write(path, report::markdown(&sections)),
        None => Ok(()),
    }
}

/// Ten thousand processes are watched here and in a daemon that inherits the limits.
fn raise_descriptor_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = 65_536;
    let now = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: Some(needed),
        maximum: now.maximum.map(|maximum| maximum.max(needed)),
    };
    if setrlimit(Resource::Nofile, wanted).is_err() {
        // Not root: up to the hard limit. Sections that need more report it.
        reaperd::testkit::descriptors::raise_open_file_limit();
    }
}
