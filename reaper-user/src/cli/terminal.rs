//! What a terminal shows: its width, whether colors are used, and text that continues on further lines
//! without a break inside a word.

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use anstream::ColorChoice;
use clap::ValueEnum;
use clap::builder::styling::{AnsiColor, Style};
use textwrap::core::display_width;
use textwrap::{Options, WordSeparator, WordSplitter};

/// When colors are used. `auto` obeys `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE` and `TERM`, and uses colors
/// on terminals only.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    /// Applies the option to everything that is written from now on.
    pub(super) fn apply(self) {
        match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::Always,
            Self::Never => ColorChoice::Never,
        }
        .write_global();
    }

    /// Finds the option on a command line that is not parsed yet, because help and usage errors obey it
    /// as well. What follows `--` belongs to another command.
    pub(super) fn on(arguments: impl Iterator<Item = OsString>) -> Option<Self> {
        let mut arguments = arguments.skip(1).take_while(|argument| argument != "--");
        let mut found = None;
        while let Some(argument) = arguments.next() {
            let Some(rest) = argument.to_str().and_then(|it| it.strip_prefix("--color")) else {
                continue;
            };
            let value = match rest.strip_prefix('=') {
                Some(value) => Some(value.to_owned()),
                None if rest.is_empty() => arguments.next().and_then(|it| it.into_string().ok()),
                None => None,
            };
            found = value.and_then(|value| Self::from_str(&value, false).ok());
        }
        found
    }
}

/// A word whose color says how well something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Neutral,
    Doubtful,
    Bad,
    /// The head of a table.
    Head,
}

impl Tone {
    /// Colors the text, which must contain nothing from other programs. The stream that it is written to
    /// removes the colors if there should be none.
    pub(super) fn paint(self, text: &str) -> String {
        let style = match self {
            Self::Good => AnsiColor::Green.on_default(),
            Self::Neutral => return text.to_owned(),
            Self::Doubtful => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Head => Style::new().bold(),
        };
        format!("{style}{text}{style:#}")
    }
}

/// Returns the width of standard output if it is a terminal.
pub(super) fn width_of_stdout() -> Option<usize> {
    width_of(&io::stdout())
}

/// Returns the width of standard error if it is a terminal.
pub(super) fn width_of_stderr() -> Option<usize> {
    width_of(&io::stderr())
}

fn width_of(stream: &(impl AsFd + IsTerminal)) -> Option<usize> {
    let (width, _height) =
        terminal_size::terminal_size_of(stream.is_terminal().then_some(stream)?)?;
    Some(usize::from(width.0)).filter(|width| *width > 0)
}

/// Breaks a line between words so that it fits the width; further lines begin with `indent` spaces. A word
/// that is wider than a line stays whole, so that paths and commands can be copied.
pub(super) fn wrap(line: &str, width: Option<usize>, indent: usize) -> Cow<'_, str> {
    let Some(width) = width.filter(|width| display_width(line) > *width) else {
        return Cow::Borrowed(line);
    };
    // In a very narrow terminal the text needs the room more than the indentation.
    let indent = " ".repeat(indent.min(width / 3));
    let options = Options::new(width)
        .subsequent_indent(&indent)
        .break_words(false)
        .word_separator(WordSeparator::AsciiSpace)
        .word_splitter(WordSplitter::NoHyphenation);
    Cow::Owned(textwrap::fill(line, options))
}

/// The columns of a table, and how they are divided into lines: columns that do not fit the width are
/// continued, indented, on a further line of the same row.
pub(super) struct Columns {
    widths: Vec<usize>,
    /// The number of the first column of each line.
    starts: Vec<usize>,
}

/// Spaces between two columns, and before columns on a further line.
const GAP: usize = 2;

impl Columns {
    /// Lays out the columns of these rows.
    pub(super) fn of<'a>(
        rows: impl Iterator<Item = &'a Vec<String>>,
        width: Option<usize>,
    ) -> Self {
        let mut widths = Vec::new();
        for row in rows {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = display_width(cell).max(*width);
            }
        }
        let mut starts = vec![0];
        let mut end = 0;
        for (number, column) in widths.iter().enumerate() {
            let gap = if end == 0 { 0 } else { GAP };
            end += gap + column;
            if number > 0 && width.is_some_and(|width| end > width) {
                starts.push(number);
                end = GAP + column;
            }
        }
        Self { widths, starts }
    }

    /// Returns the lines of a row.
    pub(super) fn lines(&self, row: &[String]) -> Vec<String> {
        let ends = self.starts.iter().skip(1).copied().chain([row.len()]);
        let lines = self.starts.iter().zip(ends).map(|(start, end)| {
            let indent = if *start == 0 { 0 } else { GAP };
            let mut line = " ".repeat(indent);
            for (cell, width) in row.iter().zip(&self.widths).take(end).skip(*start) {
                line.push_str(cell);
                line.push_str(&" ".repeat(width - display_width(cell) + GAP));
            }
            line.trim_end().to_owned()
        });
        lines.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words_only() {
        let line = "try: use a shorter path than /a/very/long/path/that/fits/nowhere here";
        assert_eq!(
            wrap(line, Some(24), 5),
            "try: use a shorter path\n     than\n     /a/very/long/path/that/fits/nowhere\n     here"
        );
        assert_eq!(wrap(line, None, 5), line);
        assert_eq!(wrap(line, Some(line.len()), 5), line);
    }

    #[test]
    fn columns_that_do_not_fit_are_continued_on_a_further_line() {
        let rows = [["SESSION", "NAME", "PID"], ["s-1", "日本", "7042"]]
            .map(|row| row.map(str::to_owned).to_vec());
        let shown = |width| {
            let columns = Columns::of(rows.iter(), width);
            let lines: Vec<_> = rows.iter().flat_map(|row| columns.lines(row)).collect();
            lines.join("|")
        };
        let whole = "SESSION  NAME  PID|s-1      日本  7042";
        assert_eq!(shown(None), whole);
        assert_eq!(shown(Some(19)), whole);
        assert_eq!(shown(Some(18)), "SESSION  NAME|  PID|s-1      日本|  7042");
        assert_eq!(shown(Some(3)), "SESSION|  NAME|  PID|s-1|  日本|  7042");
    }

    #[test]
    fn the_color_option_is_found_before_the_line_is_parsed() {
        let found = |line: &str| {
            let color = Color::on(line.split(' ').map(OsString::from))?;
            Some(format!("{color:?}"))
        };
        assert_eq!(found("reaperd --color never ls").as_deref(), Some("Never"));
        assert_eq!(
            found("reaperd ls --color=always").as_deref(),
            Some("Always")
        );
        for other in [
            "reaperd ls",
            "reaperd run -- ls --color=always",
            "reaperd --color sometimes",
            "reaperd --color",
            "reaperd --colors=always",
        ] {
            assert_eq!(found(other), None, "{other}");
        }
    }
}
