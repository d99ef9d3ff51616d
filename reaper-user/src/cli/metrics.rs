//! `reaperd metrics`: the metrics of the daemon, printed, or written for the textfile collector of
//! Prometheus's node exporter.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::output::print;
use crate::client::Client;

/// In a file only: whether the daemon responded when it was written. Prometheus's own `up` is about the
/// exporter that reads the file.
const UP: &str = "reaperd_up";
const UP_HELP: &str = "Whether the daemon responded when this file was written";

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Replace this file with the metrics, for the textfile collector; the name must end in .prom
    ///
    /// Readers see the old content or the new one. Without a daemon the file has `reaperd_up 0` and
    /// nothing else, so that no old value is taken for a current one.
    #[arg(long, value_name = "FILE", value_parser = prom_file)]
    write: Option<PathBuf>,
}

impl Arguments {
    pub(super) async fn run(self, client: &Client) -> Result<ExitCode, Failure> {
        let page = client.metrics().await;
        match &self.write {
            None => {
                print(page?)?;
            }
            Some(file) => {
                let is_up = u8::from(page.is_ok());
                let shown = page
                    .as_deref()
                    .map_or_else(|_| String::new(), without_process);
                let text =
                    format!("{shown}# HELP {UP} {UP_HELP}\n# TYPE {UP} gauge\n{UP} {is_up}\n");
                replace(file, text.as_bytes()).map_err(|error| not_written(file, &error))?;
                page?;
            }
        }
        Ok(ExitCode::Success)
    }
}

/// The collector reads no other files, and must not read one that is being written.
fn prom_file(text: &str) -> Result<PathBuf, String> {
    let file = PathBuf::from(text);
    if file
        .extension()
        .is_some_and(|extension| extension == "prom")
        && file.file_stem().is_some()
    {
        Ok(file)
    } else {
        Err("the name must end in .prom, as the collector requires".to_owned())
    }
}

/// Leaves out the metrics of the process. The exporter that reads the file has its own of these names: it
/// shows those, and logs an error at every scrape.
fn without_process(page: &str) -> String {
    let is_of_process = |line: &&str| {
        let name = line
            .strip_prefix("# HELP ")
            .or(line.strip_prefix("# TYPE "));
        name.unwrap_or(line).starts_with("process_")
    };
    let kept = page.split_inclusive('\n');
    kept.filter(|line| !is_of_process(line)).collect()
}

/// Replaces the file by one with this content, which every user can read.
fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut new = tempfile::Builder::new()
        .prefix(".reaperd-")
        .tempfile_in(folder)?;
    new.write_all(content)?;
    new.as_file()
        .set_permissions(Permissions::from_mode(0o644))?;
    new.persist(file)?;
    Ok(())
}

fn not_written(file: &Path, error: &io::Error) -> Failure {
    Failure::new(
        format!("cannot write {}: {error}", file.display()),
        "name a file in a folder that this user can write to",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_of_the_process_are_left_out() {
        let page = "# HELP process_a b\n# TYPE process_a gauge\nprocess_a 1\nreaperd_process_b 2\n";
        assert_eq!(without_process(page), "reaperd_process_b 2\n");
    }

    #[test]
    fn only_names_that_the_collector_reads_are_accepted() {
        for (name, expected) in [
            ("reaperd.prom", true),
            ("/var/lib/x/a.prom", true),
            (".prom", false),
            ("a.prom.tmp", false),
            ("a", false),
        ] {
            assert_eq!(prom_file(name).is_ok(), expected, "{name}");
        }
    }
}
