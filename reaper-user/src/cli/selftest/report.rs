//! The output of the self-test: lines as it runs, or one JSON object at the end.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::doctor::system;
use crate::cli::output::{escape, json_line, micros, milliseconds};
use crate::cli::progress::Progress;
use crate::testkit::conformance::{Case, Fault, Observed, SourceSet};

/// The result for one set of sources.
pub(super) enum Outcome {
    Tested { cases: Vec<CaseResult>, lost: u64 },
    Untested { reason: String, remedy: String },
}

/// The result of one case.
#[derive(Serialize)]
pub(super) struct CaseResult {
    case: &'static str,
    outcome: &'static str,
    /// Why the case failed or was skipped; empty if it passed.
    text: String,
    seen: usize,
    #[serde(skip)]
    delays: Vec<Duration>,
    #[serde(skip)]
    first: BTreeMap<&'static str, usize>,
}

impl CaseResult {
    pub(super) fn new(case: &Case, fault: Option<Fault>, observed: &[Observed]) -> Self {
        let outcome = match &fault {
            None => "ok",
            Some(Fault::Missed(_)) => "missed",
            Some(Fault::FalseDeath(_)) => "false_death",
            Some(Fault::WrongReport(_)) => "untrue",
            Some(Fault::Unsupported(_)) => "skipped",
            Some(Fault::Setup(_)) => "not_staged",
        };
        let mut first = BTreeMap::new();
        for Observed { source, .. } in observed {
            *first.entry(source.name()).or_default() += 1;
        }
        Self {
            case: case.name,
            outcome,
            text: fault.map(|fault| fault.to_string()).unwrap_or_default(),
            seen: observed.len(),
            delays: observed.iter().filter_map(|one| one.delay).collect(),
            first,
        }
    }

    fn is_ok(&self) -> bool {
        matches!(self.outcome, "ok" | "skipped")
    }
}

/// The sums over the cases of one set of sources.
#[derive(Debug, PartialEq, Serialize)]
struct Sums {
    #[serde(rename = "good")]
    passed: usize,
    /// Cases that were not skipped.
    #[serde(rename = "played")]
    run: usize,
    /// Exits that were detected.
    seen: usize,
    missed: usize,
    false_deaths: usize,
    /// The delay from the command to end until the exit was detected.
    median_us: Option<u64>,
    worst_us: Option<u64>,
    /// For each source, how many exits it reported first.
    first: BTreeMap<&'static str, usize>,
}

impl Sums {
    fn of(cases: &[CaseResult]) -> Self {
        let with = |outcome: &str| cases.iter().filter(|case| case.outcome == outcome).count();
        let mut delays: Vec<_> = cases.iter().flat_map(|case| &case.delays).collect();
        delays.sort_unstable();
        let us = |delay: Option<&&Duration>| delay.map(|delay| micros(**delay));
        let mut first = BTreeMap::new();
        for (source, times) in cases.iter().flat_map(|case| &case.first) {
            *first.entry(*source).or_default() += times;
        }
        Self {
            passed: with("ok"),
            run: cases.len() - with("skipped"),
            seen: cases.iter().map(|case| case.seen).sum(),
            missed: with("missed"),
            false_deaths: with("false_death"),
            median_us: us(delays.get(delays.len() / 2)),
            worst_us: us(delays.last()),
            first,
        }
    }

    fn line(&self) -> String {
        let Self {
            passed,
            run,
            seen,
            missed,
            false_deaths,
            median_us,
            worst_us,
            first,
        } = self;
        let time = |us: &Option<u64>| us.map_or_else(|| "-".to_owned(), milliseconds);
        let mut shares: Vec<_> = first.iter().collect();
        shares.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
        let shares: Vec<_> = shares
            .iter()
            .map(|(name, times)| format!("{name} {times}"))
            .collect();
        let first = if shares.len() > 1 {
            format!("; detected first by {}", shares.join(", "))
        } else {
            String::new()
        };
        format!(
            "{passed} of {run} cases passed; {seen} exits detected, {missed} missed, \
             {false_deaths} false; delay {} median, {} max{first}",
            time(median_us),
            time(worst_us),
        )
    }
}

pub(super) struct Report {
    progress: Progress,
    source_sets: Vec<(SourceSet, Outcome)>,
}

impl Report {
    /// Begins a report of so many cases with all sets of sources.
    pub(super) fn new(json: bool, cases: usize) -> Self {
        Self {
            progress: Progress::new(json, cases),
            source_sets: Vec::new(),
        }
    }

    pub(super) fn start(&self) -> io::Result<()> {
        self.progress.line(&format!(
            "Testing exit sources with real processes on {}",
            system()
        ))
    }

    /// Shows which case is run.
    pub(super) fn running(&self, source_set: SourceSet, case: &Case) {
        let name = case.name.replace('_', " ");
        self.progress
            .doing(format!("{}: {name}", source_set.name()));
    }

    /// Counts cases that were run, or will not be.
    pub(super) fn ran(&self, cases: usize) {
        self.progress.done(cases);
    }

    /// Adds the result for one set of sources and prints it.
    pub(super) fn add(&mut self, source_set: SourceSet, outcome: Outcome) -> io::Result<()> {
        let name = source_set.name();
        let print = |label: &str, text: &str| self.progress.line(&format!("{label:8}  {text}"));
        match &outcome {
            Outcome::Untested { reason, remedy } => {
                print(name, &format!("not tested: {}", escape(reason)))?;
                if !remedy.is_empty() {
                    print("", &format!("try: {}", escape(remedy)))?;
                }
            }
            Outcome::Tested { cases, lost } => {
                print(name, &Sums::of(cases).line())?;
                if *lost > 0 {
                    print(
                        "",
                        &format!("{lost} events were lost and recovered by a sweep"),
                    )?;
                }
                for case in cases.iter().filter(|case| case.outcome != "ok") {
                    let label = if case.is_ok() { "skipped" } else { "failed" };
                    let name = case.case.replace('_', " ");
                    print("", &format!("{label}: {name}: {}", escape(&case.text)))?;
                }
            }
        }
        self.source_sets.push((source_set, outcome));
        Ok(())
    }

    pub(super) fn finish(&self) -> io::Result<()> {
        self.progress.end();
        if self.progress.json {
            return writeln!(io::stdout(), "{}", json_line(&self.as_json()));
        }
        self.progress.line(&format!("result: {}", self.result()))
    }

    /// Whether every case passed or was skipped.
    pub(super) fn is_ok(&self) -> bool {
        self.source_sets.iter().all(|(_, outcome)| match outcome {
            Outcome::Tested { cases, .. } => cases.iter().all(CaseResult::is_ok),
            Outcome::Untested { .. } => true,
        })
    }

    /// Returns the first source that was not tested, and the remedy.
    pub(super) fn first_untested(&self) -> Option<(&'static str, String)> {
        self.source_sets
            .iter()
            .find_map(|(source_set, outcome)| match outcome {
                Outcome::Untested { remedy, .. } if remedy.is_empty() => {
                    Some((source_set.name(), "reaperd doctor".to_owned()))
                }
                Outcome::Untested { remedy, .. } => Some((source_set.name(), remedy.clone())),
                Outcome::Tested { .. } => None,
            })
    }

    fn result(&self) -> &'static str {
        if self.is_ok() { "ok" } else { "failed" }
    }

    fn as_json(&self) -> Value {
        let source_set = |(source_set, outcome): &(SourceSet, Outcome)| match outcome {
            Outcome::Tested { cases, lost } => json!({
                "source_set": source_set.name(),
                "state": "tested",
                "sums": Sums::of(cases),
                "lost": lost,
                "cases": cases,
            }),
            Outcome::Untested { reason, remedy } => json!({
                "source_set": source_set.name(),
                "state": "untested",
                "reason": reason,
                "remedy": remedy,
            }),
        };
        json!({
            "schema": 2,
            "version": env!("CARGO_PKG_VERSION"),
            "system": system(),
            "source_sets": self.source_sets.iter().map(source_set).collect::<Vec<_>>(),
            "result": self.result(),
        })
    }
}

#[cfg(test)]
mod tests {
    use reaper_registry::Source;

    use super::*;
    use crate::testkit::conformance::CASES;

    fn result(fault: Option<Fault>, delays_us: &[u64]) -> CaseResult {
        let observed: Vec<_> = delays_us
            .iter()
            .map(|us| Observed {
                source: Source::Pidfd,
                delay: Some(Duration::from_micros(*us)),
            })
            .collect();
        CaseResult::new(&CASES[0], fault, &observed)
    }

    #[test]
    fn sums_count_faults_by_kind_and_leave_out_skipped_cases() {
        let cases = [
            result(None, &[300, 100, 200]),
            result(Some(Fault::Missed(Duration::from_secs(25))), &[900]),
            result(Some(Fault::FalseDeath("x".into())), &[]),
            result(Some(Fault::Unsupported("x".into())), &[]),
        ];
        let sums = Sums::of(&cases);
        assert_eq!((sums.passed, sums.run, sums.seen), (1, 3, 4));
        assert_eq!((sums.missed, sums.false_deaths), (1, 1));
        assert_eq!((sums.median_us, sums.worst_us), (Some(300), Some(900)));
        assert_eq!(sums.first, BTreeMap::from([("pidfd", 4)]));
    }

    #[test]
    fn a_fault_fails_the_self_test_and_a_skipped_case_does_not() {
        let report = |fault| {
            let mut report = Report::new(true, 0);
            let tested = Outcome::Tested {
                cases: vec![result(None, &[]), result(fault, &[])],
                lost: 0,
            };
            report.add(SourceSet::Together, tested).unwrap();
            report
        };
        assert!(report(Some(Fault::Unsupported("x".into()))).is_ok());
        assert!(!report(Some(Fault::WrongReport("x".into()))).is_ok());
        assert!(!report(Some(Fault::Setup(io::Error::other("x")))).is_ok());
    }

    #[test]
    fn an_untested_source_is_returned_with_its_remedy() {
        let mut report = Report::new(true, 0);
        assert_eq!(report.first_untested(), None);
        let untested = Outcome::Untested {
            reason: "not permitted".to_owned(),
            remedy: "run as root".to_owned(),
        };
        report
            .add(SourceSet::Alone(Source::Ebpf), untested)
            .unwrap();
        assert_eq!(
            report.first_untested(),
            Some(("ebpf", "run as root".to_owned()))
        );
        assert_eq!(report.as_json()["source_sets"][0]["state"], "untested");
    }
}
