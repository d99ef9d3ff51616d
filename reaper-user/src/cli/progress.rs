//! What a long command shows while it works: its results on standard output as they come, and on a terminal
//! a line on standard error that says what it is doing. That line is gone at the end.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::escape_lines;
use super::terminal;

/// The indentation of what does not fit into a line: that of the first column.
const INDENT: usize = 10;
/// Between two movements of the line: seldom enough not to disturb what is measured.
const TICK: Duration = Duration::from_millis(200);

/// The progress of a command. Silent with `--json`.
#[derive(Debug)]
pub(super) struct Progress {
    /// Whether the command prints JSON at the end instead.
    pub(super) json: bool,
    bar: ProgressBar,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            json: false,
            bar: ProgressBar::hidden(),
        }
    }
}

impl Progress {
    /// Begins. The line is for terminals that may have escape sequences: `--color never` and `NO_COLOR` leave
    /// it out.
    pub(super) fn new(json: bool, steps: usize) -> Self {
        let choice = AutoStream::choice(&io::stderr());
        let is_shown = !json && io::stderr().is_terminal() && choice != ColorChoice::Never;
        if !is_shown {
            return Self {
                json,
                ..Self::default()
            };
        }
        let steps = u64::try_from(steps).ok();
        let bar = ProgressBar::with_draw_target(steps, ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {pos}/{len} {elapsed}  {wide_msg}");
        let bar = bar.with_style(style.unwrap_or_else(|_invalid| ProgressStyle::default_bar()));
        bar.enable_steady_tick(TICK);
        Self { json, bar }
    }

    /// Prints a line of the result at once.
    pub(super) fn line(&self, line: &str) -> io::Result<()> {
        if self.json {
            return Ok(());
        }
        let line = escape_lines(line.trim_end());
        self.bar.suspend(|| {
            let mut out = io::stdout().lock();
            let width = terminal::width_of_stdout();
            writeln!(out, "{}", terminal::wrap(&line, width, INDENT))?;
            out.flush()
        })
    }

    /// Shows what is done now. The text must contain nothing from other programs.
    pub(super) fn doing(&self, what: String) {
        self.bar.set_message(what);
    }

    /// Counts so many steps as done.
    pub(super) fn done(&self, steps: usize) {
        self.bar.inc(steps.try_into().unwrap_or(u64::MAX));
    }

    /// Removes the line.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
