//! `reaperd selftest`: the torture kit against the sources of the machine at hand. What each source
//! saw, missed and took for an end that was none, and how late it was; the exit code tells the truth
//! about that. The cases are in [`crate::testkit::conformance`]; here they are chosen, played and told
//! of.

mod report;

use std::path::Path;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::values::{self, SourceChoice};
use crate::testkit::conformance::{CASES, Harness, SourceSet};
use crate::testkit::test_process;
use crate::watch::fd_budget;
use report::{Outcome, Played, Report};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The sources to test, each alone: a list of netlink, ebpf, pidfd, sweep; auto is each that
    /// works here, and then all of them together
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = values::sources)]
    sources: SourceChoice,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        test_process::adopt_orphans()?;
        // Two hundred test processes at once, each behind two pipes and two handles.
        fd_budget::raise_open_file_limit();
        let program = std::env::current_exe()?;
        let mut report = Report::new(self.json);
        report.open().map_err(Failure::output)?;
        for source_set in self.source_sets() {
            let outcome = play(source_set, &program)?;
            report.add(source_set, outcome).map_err(Failure::output)?;
        }
        report.finish().map_err(Failure::output)?;
        let missing = match self.sources {
            SourceChoice::Auto => None,
            SourceChoice::Only(_) => report.first_untested(),
        };
        if let Some((source, remedy)) = missing {
            let message = format!("{source} does not work here, so it was not tested");
            return Err(Failure::new(message, remedy));
        }
        if report.is_good() {
            return Ok(ExitCode::Success);
        }
        Err(Failure::new(
            "not everything went as it must, see above",
            "reaperd selftest --json, and report it with what it prints",
        ))
    }

    fn source_sets(&self) -> Vec<SourceSet> {
        match &self.sources {
            SourceChoice::Auto => SourceSet::ALL.to_vec(),
            SourceChoice::Only(sources) => sources.iter().copied().map(SourceSet::Alone).collect(),
        }
    }
}

/// Plays every case with one lineup.
fn play(source_set: SourceSet, program: &Path) -> Result<Outcome, Failure> {
    let harness = Harness::open(source_set, program.to_owned())?;
    let missing = |status: &&crate::SourceStatus| !status.works();
    let reports = harness.reports();
    if let (SourceSet::Alone(_), Some(status)) = (source_set, reports.iter().find(missing)) {
        return Ok(Outcome::Untested {
            reason: status.reason.clone(),
            remedy: status.remedy.clone(),
        });
    }
    let cases = CASES.iter().map(|case| {
        let fault = case.play(&harness).err();
        Played::new(case, fault, &harness.take_observed())
    });
    let cases = cases.collect();
    // Losses are no faults where everything was made up for, and worth knowing.
    let lost = harness.reports().iter().map(|status| status.lost).sum();
    Ok(Outcome::Tested { cases, lost })
}

#[cfg(test)]
mod tests {
    use reaper_registry::Source;

    use super::*;

    #[test]
    fn named_sources_are_tested_alone_and_auto_is_everything() {
        let only = Arguments {
            sources: SourceChoice::Only(vec![Source::Netlink, Source::Sweep]),
            json: false,
        };
        assert_eq!(
            only.source_sets(),
            [
                SourceSet::Alone(Source::Netlink),
                SourceSet::Alone(Source::Sweep)
            ]
        );
        let auto = Arguments {
            sources: SourceChoice::Auto,
            json: false,
        };
        assert_eq!(auto.source_sets(), SourceSet::ALL);
    }
}
