//! `reaperd selftest`: runs the conformance cases against the sources of this machine.
//!
//! Reports for each source which exits it detected, which it missed, which living processes it took
//! for dead, and the delay. The exit code is 0 only if every case passed. The cases are in
//! [`crate::testkit::conformance`].

mod report;

use std::path::Path;

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::values;
use crate::daemon::descriptors;
use crate::engine::Sources;
use crate::testkit::conformance::{CASES, Harness, SourceSet};
use crate::testkit::test_process;
use report::{CaseResult, Outcome, Report};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Exit sources to test, one at a time: a comma-separated list of netlink, ebpf, pidfd, sweep;
    /// or auto, which tests every source that works and then all of them together
    #[arg(long, value_name = "LIST", default_value = "auto", value_parser = values::sources)]
    sources: Sources,
    /// Print one JSON object at the end
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        test_process::adopt_orphans()?;
        // 200 test processes run at once. Each needs two pipes and two handles.
        descriptors::raise_open_file_limit();
        let program = std::env::current_exe()?;
        let source_sets = self.source_sets();
        let mut report = Report::new(self.json, source_sets.len() * CASES.len());
        report.start().map_err(Failure::output)?;
        for source_set in source_sets {
            let outcome = run_cases(source_set, &program, &report)?;
            report.add(source_set, outcome).map_err(Failure::output)?;
        }
        report.finish().map_err(Failure::output)?;
        let untested = match self.sources {
            Sources::Auto => None,
            Sources::Only(_) => report.first_untested(),
        };
        if let Some((source, remedy)) = untested {
            let message = format!("{source} does not work here and was not tested");
            return Err(Failure::new(message, remedy));
        }
        if report.is_ok() {
            return Ok(ExitCode::Success);
        }
        Err(Failure::new(
            "some cases failed",
            "reaperd selftest --json   (and report the output as a bug)",
        ))
    }

    fn source_sets(&self) -> Vec<SourceSet> {
        match &self.sources {
            Sources::Auto => SourceSet::ALL.to_vec(),
            Sources::Only(sources) => sources.iter().copied().map(SourceSet::Alone).collect(),
        }
    }
}

/// Runs every case with one set of sources.
fn run_cases(source_set: SourceSet, program: &Path, report: &Report) -> Result<Outcome, Failure> {
    let harness = Harness::start(source_set, program.to_owned())?;
    let does_not_work = |status: &&crate::SourceStatus| !status.works();
    let status = harness.status();
    if let (SourceSet::Alone(_), Some(status)) = (source_set, status.iter().find(does_not_work)) {
        report.ran(CASES.len());
        return Ok(Outcome::Untested {
            reason: status.reason.clone(),
            remedy: status.remedy.clone(),
        });
    }
    let cases = CASES.iter().map(|case| {
        report.running(source_set, case);
        let fault = case.run(&harness).err();
        report.ran(1);
        CaseResult::new(case, fault, &harness.take_observed())
    });
    let cases = cases.collect();
    // Lost events are reported, but they are no failure: the cases show whether they were recovered.
    let lost = harness.status().iter().map(|status| status.lost).sum();
    Ok(Outcome::Tested { cases, lost })
}

#[cfg(test)]
mod tests {
    use reaper_registry::Source;

    use super::*;

    #[test]
    fn named_sources_are_tested_alone_and_auto_tests_all() {
        let only = Arguments {
            sources: Sources::only([Source::Netlink, Source::Sweep]),
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
            sources: Sources::Auto,
            json: false,
        };
        assert_eq!(auto.source_sets(), SourceSet::ALL);
    }
}
