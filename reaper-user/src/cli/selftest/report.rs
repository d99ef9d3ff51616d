//! What the self-test says, to people as it comes and to programs at the end.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::doctor::system;
use crate::cli::output::{escape, milliseconds};
use crate::testkit::conformance::{Case, Fault, Observed, SourceSet};

/// What became of one lineup.
pub(super) enum Outcome {
    Tested { cases: Vec<Played>, lost: u64 },
    Untested { reason: String, remedy: String },
}

/// One case that was played.
#[derive(Serialize)]
pub(super) struct Played {
    case: &'static str,
    outcome: &'static str,
    /// What is wrong, or why it could not be played; empty where all is well.
    text: String,
    seen: usize,
    #[serde(skip)]
    lates: Vec<Duration>,
    #[serde(skip)]
    first: BTreeMap<&'static str, usize>,
}

impl Played {
    pub(super) fn new(case: &Case, fault: Option<Fault>, observed: &[Observed]) -> Self {
        let outcome = match &fault {
            None => "ok",
            Some(Fault::Missed(_)) => "missed",
            Some(Fault::FalseDeath(_)) => "false_death",
            Some(Fault::Untrue(_)) => "untrue",
            Some(Fault::Impossible(_)) => "skipped",
            Some(Fault::Staging(_)) => "not_staged",
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
            lates: observed.iter().filter_map(|one| one.late).collect(),
            first,
        }
    }

    fn is_good(&self) -> bool {
        matches!(self.outcome, "ok" | "skipped")
    }
}

/// The sums over the cases of one lineup.
#[derive(Debug, PartialEq, Serialize)]
struct Sums {
    /// Cases that went as they must, of those that could be played.
    good: usize,
    played: usize,
    /// Ends that were told.
    seen: usize,
    missed: usize,
    false_deaths: usize,
    /// From the order to end until the end was told.
    median_us: Option<u64>,
    worst_us: Option<u64>,
    /// Whose hint was the first, and how often.
    first: BTreeMap<&'static str, usize>,
}

impl Sums {
    fn of(cases: &[Played]) -> Self {
        let with = |outcome: &str| cases.iter().filter(|case| case.outcome == outcome).count();
        let mut lates: Vec<_> = cases.iter().flat_map(|case| &case.lates).collect();
        lates.sort_unstable();
        let us = |late: Option<&&Duration>| {
            late.map(|late| u64::try_from(late.as_micros()).unwrap_or(u64::MAX))
        };
        let mut first = BTreeMap::new();
        for (source, times) in cases.iter().flat_map(|case| &case.first) {
            *first.entry(*source).or_default() += times;
        }
        Self {
            good: with("ok"),
            played: cases.len() - with("skipped"),
            seen: cases.iter().map(|case| case.seen).sum(),
            missed: with("missed"),
            false_deaths: with("false_death"),
            median_us: us(lates.get(lates.len() / 2)),
            worst_us: us(lates.last()),
            first,
        }
    }

    fn line(&self) -> String {
        let Self {
            good,
            played,
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
            format!("; first came {}", shares.join(", "))
        } else {
            String::new()
        };
        format!(
            "{good:>2} of {played} cases good, {seen} ends seen, {missed} missed, \
             {false_deaths} false deaths, late by {} (median) and {} (worst){first}",
            time(median_us),
            time(worst_us),
        )
    }
}

/// All of it.
pub(super) struct Report {
    json: bool,
    source_sets: Vec<(SourceSet, Outcome)>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        Self {
            json,
            source_sets: Vec::new(),
        }
    }

    pub(super) fn open(&self) -> io::Result<()> {
        self.say(&format!(
            "reaperd selftest: real processes that end in every way we know, on {}",
            system()
        ))
    }

    /// Takes in what became of a lineup and tells people of it.
    pub(super) fn add(&mut self, source_set: SourceSet, outcome: Outcome) -> io::Result<()> {
        let name = source_set.name();
        match &outcome {
            Outcome::Untested { reason, remedy } => {
                self.say(&format!("{name:8}  not tested: {}", escape(reason)))?;
                if !remedy.is_empty() {
                    self.say(&format!("{:8}  try: {}", "", escape(remedy)))?;
                }
            }
            Outcome::Tested { cases, lost } => {
                self.say(&format!("{name:8}  {}", Sums::of(cases).line()))?;
                if *lost > 0 {
                    self.say(&format!("{:8}  {lost} events lost, and made up for", ""))?;
                }
                for case in cases.iter().filter(|case| case.outcome != "ok") {
                    let how = case.outcome.replace('_', " ");
                    let what = case.case.replace('_', " ");
                    let text = escape(&case.text);
                    self.say(&format!("{:8}  {how}: {what}: {text}", ""))?;
                }
            }
        }
        self.source_sets.push((source_set, outcome));
        Ok(())
    }

    pub(super) fn finish(&self) -> io::Result<()> {
        if self.json {
            return writeln!(io::stdout(), "{}", self.as_json());
        }
        self.say(&format!("result: {}", self.result()))
    }

    /// Whether nothing was missed, mistaken or told wrongly by any source that was tested.
    pub(super) fn is_good(&self) -> bool {
        self.source_sets.iter().all(|(_, outcome)| match outcome {
            Outcome::Tested { cases, .. } => cases.iter().all(Played::is_good),
            Outcome::Untested { .. } => true,
        })
    }

    /// The first source that was not tested, and what would mend that.
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
        if self.is_good() { "ok" } else { "failed" }
    }

    fn as_json(&self) -> Value {
        let source_set = |(source_set, outcome): &(SourceSet, Outcome)| match outcome {
            Outcome::Tested { cases, lost } => json!({
                "lineup": source_set.name(),
                "state": "tested",
                "sums": Sums::of(cases),
                "lost": lost,
                "cases": cases,
            }),
            Outcome::Untested { reason, remedy } => json!({
                "lineup": source_set.name(),
                "state": "untested",
                "reason": reason,
                "remedy": remedy,
            }),
        };
        json!({
            "schema": 1,
            "version": env!("CARGO_PKG_VERSION"),
            "system": system(),
            "lineups": self.source_sets.iter().map(source_set).collect::<Vec<_>>(),
            "result": self.result(),
        })
    }

    /// A line for people, at once: the whole takes a minute.
    fn say(&self, line: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use reaper_registry::Source;

    use super::*;
    use crate::testkit::conformance::CASES;

    fn played(fault: Option<Fault>, late_us: &[u64]) -> Played {
        let observed: Vec<_> = late_us
            .iter()
            .map(|us| Observed {
                source: Source::Pidfd,
                late: Some(Duration::from_micros(*us)),
            })
            .collect();
        Played::new(&CASES[0], fault, &observed)
    }

    #[test]
    fn sums_count_faults_by_kind_and_leave_out_what_could_not_be_played() {
        let cases = [
            played(None, &[300, 100, 200]),
            played(Some(Fault::Missed(Duration::from_secs(25))), &[900]),
            played(Some(Fault::FalseDeath("x".into())), &[]),
            played(Some(Fault::Impossible("x".into())), &[]),
        ];
        let sums = Sums::of(&cases);
        assert_eq!((sums.good, sums.played, sums.seen), (1, 3, 4));
        assert_eq!((sums.missed, sums.false_deaths), (1, 1));
        assert_eq!((sums.median_us, sums.worst_us), (Some(300), Some(900)));
        assert_eq!(sums.first, BTreeMap::from([("pidfd", 4)]));
    }

    #[test]
    fn a_fault_fails_the_whole_and_a_skip_does_not() {
        let report = |fault| {
            let mut report = Report::new(true);
            let tested = Outcome::Tested {
                cases: vec![played(None, &[]), played(fault, &[])],
                lost: 0,
            };
            report.add(SourceSet::Together, tested).unwrap();
            report
        };
        assert!(report(Some(Fault::Impossible("x".into()))).is_good());
        assert!(!report(Some(Fault::Untrue("x".into()))).is_good());
        assert!(!report(Some(Fault::Staging(io::Error::other("x")))).is_good());
    }

    #[test]
    fn a_source_that_was_asked_for_and_does_not_work_is_named_with_its_remedy() {
        let mut report = Report::new(true);
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
        assert_eq!(report.as_json()["lineups"][0]["state"], "untested");
    }
}
