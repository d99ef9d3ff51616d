//! What was measured, for a reader: a table on the terminal and `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::fs;

/// Whether a row reaches what it is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// What it is compared with misses it too here, so the row has no verdict.
    Unclear,
    /// It is there for comparison.
    None,
}

impl Verdict {
    const fn text(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::Missed => "**missed**",
            Self::Unclear => "no verdict: what it is compared with misses it too",
            Self::None => "",
        }
    }
}

/// One line of a table.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) measured: String,
    pub(crate) beside: String,
    pub(crate) ratio: String,
    pub(crate) target: &'static str,
    pub(crate) verdict: Verdict,
}

impl Row {
    /// A row without a target.
    pub(crate) fn new(what: impl Into<String>, measured: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            measured: measured.into(),
            beside: String::new(),
            ratio: String::new(),
            target: "",
            verdict: Verdict::None,
        }
    }

    pub(crate) fn beside(mut self, beside: impl Into<String>) -> Self {
        self.beside = beside.into();
        self
    }

    pub(crate) fn ratio(mut self, ratio: impl Into<String>) -> Self {
        self.ratio = ratio.into();
        self
    }

    pub(crate) fn target(mut self, target: &'static str, met: bool) -> Self {
        self.target = target;
        self.verdict = if met { Verdict::Met } else { Verdict::Missed };
        self
    }

    /// A miss is no verdict if what it is compared with misses the target as well.
    pub(crate) fn unless_missed_by(mut self, rival_met: bool) -> Self {
        if self.verdict == Verdict::Missed && !rival_met {
            self.verdict = Verdict::Unclear;
        }
        self
    }

    fn cells(&self) -> [&str; 6] {
        [
            &self.what,
            &self.measured,
            &self.beside,
            &self.ratio,
            self.target,
            self.verdict.text(),
        ]
    }
}

/// Rows that were measured in the same way.
pub(crate) struct Section {
    pub(crate) title: &'static str,
    /// How, in one line.
    pub(crate) method: String,
    pub(crate) rows: Vec<Row>,
}

const HEADS: [&str; 6] = ["what", "measured", "beside", "ratio", "target", "verdict"];

impl Section {
    /// Columns for a terminal.
    pub(crate) fn as_text(&self) -> String {
        let lines: Vec<[&str; 6]> = std::iter::once(HEADS)
            .chain(self.rows.iter().map(Row::cells))
            .collect();
        let width = |column: usize| {
            let lengths = lines.iter().map(|line| line[column].chars().count());
            lengths.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..HEADS.len()).map(width).collect();
        let mut text = format!("\n{}\n  {}\n", self.title, self.method);
        for line in lines {
            let mut out = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                write!(out, "  {cell:width$}").expect("a string takes everything");
            }
            text += out.trim_end();
            text.push('\n');
        }
        text
    }

    fn as_markdown(&self) -> String {
        let mut text = format!("\n## {}\n\n{}\n\n", self.title, self.method);
        text += &markdown_line(HEADS);
        text += "|---|---|---|---|---|---|\n";
        for row in &self.rows {
            text += &markdown_line(row.cells());
        }
        text
    }
}

fn markdown_line(cells: [&str; 6]) -> String {
    let cells = cells.map(|cell| cell.replace('|', "\\|"));
    format!("| {} |\n", cells.join(" | ").replace("  ", " "))
}

/// The whole document.
pub(crate) fn markdown(sections: &[Section]) -> String {
    let missed = sections
        .iter()
        .flat_map(|section| &section.rows)
        .filter(|row| row.verdict == Verdict::Missed)
        .count();
    let verdict = match missed {
        0 => "Every target is met.".to_owned(),
        1 => "**1 target is missed.**".to_owned(),
        more => format!("**{more} targets are missed.**"),
    };
    let mut text = format!(
        "# Benchmarks\n\nWritten by `cargo xtask bench`. Everything in one run on one machine: {}. Absolute times \
         belong to that machine and to whatever else ran on it; compare the ratios.\n\n{verdict}\n",
        machine()
    );
    for section in sections {
        text += &section.as_markdown();
    }
    text
}

fn machine() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // The local part of `6.18.44-local-name` is not for readers.
    let kernel = release.trim().split('-').next().unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').nth(1).unwrap_or_default().to_owned();
    format!(
        "Linux {kernel} {}, {cpus} CPUs, load average {load} at the end of the run (our own load included)",
        std::env::consts::ARCH
    )
}

/// Nanoseconds in the unit that reads best.
pub(crate) fn time(nanos: f64) -> String {
    match nanos {
        n if n.is_nan() => "-".to_owned(),
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e5 => format!("{:.1} µs", n / 1e3),
        n if n < 1e6 => format!("{:.0} µs", n / 1e3),
        n if n < 1e8 => format!("{:.2} ms", n / 1e6),
        n if n < 1e9 => format!("{:.0} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

/// A factor.
pub(crate) fn times(ratio: f64) -> String {
    match ratio {
        r if r.is_nan() => "-".to_owned(),
        r if r >= 100.0 => format!("{r:.0}x"),
        r if r >= 10.0 => format!("{r:.1}x"),
        r => format!("{r:.2}x"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_fit_the_size() {
        assert_eq!(time(12.3), "12 ns");
        assert_eq!(time(12_300.0), "12.3 µs");
        assert_eq!(time(123_000_000.0), "123 ms");
        assert_eq!(times(1.234), "1.23x");
        assert_eq!(times(5_432.1), "5432x");
    }

    #[test]
    fn a_missed_target_is_counted_in_the_first_lines() {
        let rows = vec![Row::new("a", "1").target("2", false), Row::new("b", "1")];
        let section = Section {
            title: "T",
            method: "m".to_owned(),
            rows,
        };
        let text = markdown(&[section]);
        assert!(text.contains("**1 target is missed.**"));
        assert!(text.contains("| a | 1 | | | 2 | **missed** |"), "{text}");
    }
}
