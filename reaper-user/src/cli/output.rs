//! How everything is written: results in aligned columns on a terminal and with tabs in a pipe, JSON,
//! messages, and the log. Text from other programs passes [`escape`] on each of these ways, JSON passes
//! [`json_line`].

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use anstream::{AutoStream, ColorChoice};
use reaper_registry::ExitStatus;
use serde_json::Value;

use super::failure::Failure;
use super::terminal::{self, Columns, Tone};
use crate::client::ExitSeen;
use crate::daemon::log;
use crate::text;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// For people: aligned, with a header.
    Columns,
    /// For programs: one row per line, separated by tabs, without a header.
    Tabs,
}

impl Layout {
    /// Returns the layout for standard output.
    pub(super) fn of_stdout() -> Self {
        if io::stdout().is_terminal() {
            Self::Columns
        } else {
            Self::Tabs
        }
    }

    /// The separator between two values of a line that is not part of a table.
    pub(super) fn gap(self) -> &'static str {
        match self {
            Self::Columns => "  ",
            Self::Tabs => "\t",
        }
    }
}

/// Writes a table. On a terminal of this width a row may take more than one line, in a pipe it never does.
pub(super) fn table(
    out: &mut impl Write,
    layout: Layout,
    width: Option<usize>,
    header: &[&str],
    rows: Vec<Vec<String>>,
) -> io::Result<()> {
    let escaped = |row: Vec<String>| row.iter().map(|cell| escape(cell).into_owned()).collect();
    let rows: Vec<Vec<String>> = rows.into_iter().map(escaped).collect();
    match layout {
        Layout::Tabs => rows
            .iter()
            .try_for_each(|row| writeln!(out, "{}", row.join("\t"))),
        Layout::Columns => {
            let header: Vec<_> = header.iter().map(|&name| name.to_owned()).collect();
            let columns = Columns::of(rows.iter().chain([&header]), width);
            for line in columns.lines(&header) {
                writeln!(out, "{}", Tone::Head.paint(&line))?;
            }
            rows.iter()
                .flat_map(|row| columns.lines(row))
                .try_for_each(|line| writeln!(out, "{line}"))
        }
    }
}

/// Returns standard output, with colors where they are wanted.
pub(super) fn stdout() -> AutoStream<io::StdoutLock<'static>> {
    AutoStream::auto(io::stdout().lock())
}

/// Writes the result of a command to standard output.
pub(super) fn print(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    write_to(&mut io::stdout().lock(), text)
}

/// As [`print`], for one line without its end.
pub(super) fn print_line(line: &str) -> Result<(), Failure> {
    print(format!("{line}\n"))
}

/// As [`print`], with colors where they are wanted.
pub(super) fn print_colored(text: impl AsRef<[u8]>) -> Result<(), Failure> {
    write_to(&mut stdout(), text)
}

fn write_to(out: &mut impl Write, text: impl AsRef<[u8]>) -> Result<(), Failure> {
    out.write_all(text.as_ref())
        .and_then(|()| out.flush())
        .map_err(Failure::output)
}

/// Writes a message to standard error, with each of its lines escaped. Write errors are ignored.
pub(super) fn print_message(text: &str) {
    print_styled(&escape_lines(text));
}

/// Writes a message with colors. It must contain no text from other programs.
pub(super) fn print_styled(text: &str) {
    let width = terminal::width_of_stderr();
    for line in text.split('\n') {
        // Behind the indentation of the line and its `try: `.
        let indent = line.len() - line.trim_start().len();
        let behind = indent + if indent > 0 { "try: ".len() } else { 2 };
        writeln!(
            anstream::stderr(),
            "{}",
            terminal::wrap(line, width, behind)
        )
        .unwrap_or_default();
    }
}

/// Starts the log of a command on standard error.
pub(super) fn start_log() {
    let variable = std::env::var("RUST_LOG").ok();
    let filter = variable.filter(|filter| !filter.is_empty());
    log_in_lines(filter.as_deref().unwrap_or("warn")).init();
}

/// Starts the log of the daemon with this filter: in the journal, if that reads standard error.
pub(super) fn start_daemon_log(filter: &log::Filter) {
    if log::start_in_journal(filter) {
        return;
    }
    let mut builder = log_in_lines(filter.directives());
    // Without it, or without a system that shows it, messages wait for their reader.
    if let Ok(stderr) = log::Unblocked::stderr() {
        builder.target(env_logger::Target::Pipe(Box::new(stderr)));
        // The logger would take it for a pipe, which has no colors.
        if log_style().is_none_or(|style| style == "auto") {
            builder.write_style(match AutoStream::choice(&io::stderr()) {
                ColorChoice::Never => env_logger::WriteStyle::Never,
                _ => env_logger::WriteStyle::Always,
            });
        }
    }
    builder.init();
    filter.set_level();
}

/// Returns whether the log has colors, if that is set.
fn log_style() -> Option<String> {
    std::env::var("RUST_LOG_STYLE").ok()
}

/// One escaped line a message, in the form of `env_logger`.
fn log_in_lines(filter: &str) -> env_logger::Builder {
    let mut builder = env_logger::Builder::new();
    builder.parse_write_style(log_style().as_deref().unwrap_or("auto"));
    builder.parse_filters(filter).format(|out, record| {
        let level = record.level();
        let (time, style) = (out.timestamp(), out.default_level_style(level));
        let text = record.args().to_string();
        writeln!(
            out,
            "[{time} {style}{level:<5}{style:#} {}] {}",
            record.target(),
            escape(&text)
        )
    });
    builder
}

/// Escapes the characters that no name may contain ([`text::is_refused`]). The result shows them on a
/// terminal instead of obeying them, and contains no tab and no line end of any kind.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(text::is_refused) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().fold(String::new(), |mut escaped, c| {
        if text::is_refused(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
        escaped
    });
    Cow::Owned(escaped)
}

/// Escapes each line of a text of several lines.
pub(super) fn escape_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(escape).collect();
    lines.join("\n")
}

/// Formats a value as one line of JSON that is safe on a terminal. The characters of [`escape`] can
/// only be inside strings, where their JSON escapes mean the same.
pub(super) fn json_line(value: &Value) -> String {
    let json = value.to_string();
    if !json.contains(text::is_refused) {
        return json;
    }
    json.chars().fold(String::new(), |mut escaped, c| {
        if text::is_refused(c) {
            let mut units = [0; 2];
            let units = c.encode_utf16(&mut units).iter();
            escaped.extend(units.map(|unit| format!("\\u{unit:04x}")));
        } else {
            escaped.push(c);
        }
        escaped
    })
}

/// Describes how a process ended.
pub(super) fn exit_status(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exit {code}"),
        ExitStatus::Signal { signal, .. } => match signal_name(signal) {
            Some(name) => format!("killed by {name}"),
            None => format!("killed by signal {signal}"),
        },
    }
}

/// Describes how a session ended: the exit status if known, else the cause.
pub(super) fn ending(cause: &str, exit: Option<&ExitSeen>) -> String {
    let status = exit.and_then(ExitSeen::status);
    match (cause, status) {
        ("exited", Some(status)) => exit_status(status),
        ("exited", None) => "exited".to_owned(),
        (cause, _) => cause.replace('_', " "),
    }
}

fn signal_name(signal: u8) -> Option<&'static str> {
    let names = [
        (libc::SIGHUP, "SIGHUP"),
        (libc::SIGINT, "SIGINT"),
        (libc::SIGQUIT, "SIGQUIT"),
        (libc::SIGILL, "SIGILL"),
        (libc::SIGTRAP, "SIGTRAP"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGFPE, "SIGFPE"),
        (libc::SIGKILL, "SIGKILL"),
        (libc::SIGUSR1, "SIGUSR1"),
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGUSR2, "SIGUSR2"),
        (libc::SIGPIPE, "SIGPIPE"),
        (libc::SIGALRM, "SIGALRM"),
        (libc::SIGTERM, "SIGTERM"),
        (libc::SIGXCPU, "SIGXCPU"),
        (libc::SIGSYS, "SIGSYS"),
    ];
    names
        .into_iter()
        .find(|(number, _)| *number == i32::from(signal))
        .map(|(_, name)| name)
}

/// Formats a time span in its largest unit.
pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// Formats microseconds as milliseconds: with one decimal below 100 ms, without above.
pub(super) fn milliseconds(us: u64) -> String {
    if us < 100_000 {
        let tenths = (us + 50) / 100;
        format!("{}.{} ms", tenths / 10, tenths % 10)
    } else {
        format!("{} ms", us / 1_000)
    }
}

/// Converts a time span to whole microseconds.
pub(super) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(layout: Layout) -> String {
        let rows = vec![
            vec!["s-1".to_owned(), "\u{1b}[2Japi\tx".to_owned()],
            vec!["longer".to_owned(), "b".to_owned()],
        ];
        let mut out = Vec::new();
        table(&mut out, layout, None, &["SESSION", "NAME"], rows).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_aligned_and_have_a_header() {
        assert_eq!(
            written(Layout::Columns),
            "\u{1b}[1mSESSION  NAME\u{1b}[0m\ns-1      \\u{1b}[2Japi\\tx\nlonger   b\n"
        );
    }

    #[test]
    fn a_pipe_gets_tabs_and_no_header() {
        assert_eq!(written(Layout::Tabs), "s-1\t\\u{1b}[2Japi\\tx\nlonger\tb\n");
    }

    /// Each kind of character that a terminal or a reader of lines would obey, or not show.
    const HOSTILE: &str = "a\u{1b}[2J\u{9b}K\u{202e}b\u{2028}c\u{200b}\u{feff}\u{e0041}\n\t";

    #[test]
    fn text_from_outside_is_shown_and_not_obeyed() {
        assert_eq!(
            escape(HOSTILE),
            r"a\u{1b}[2J\u{9b}K\u{202e}b\u{2028}c\u{200b}\u{feff}\u{e0041}\n\t"
        );
        assert_eq!(escape("Zoë 日本 ❤\u{fe0f}"), "Zoë 日本 ❤\u{fe0f}");
        let lines = escape_lines("one\u{9b}\n  try: two");
        assert_eq!(lines, "one\\u{9b}\n  try: two");
    }

    #[test]
    fn json_keeps_its_value_and_has_no_such_character() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, 1] });
        let line = json_line(&value);
        assert!(!line.contains(text::is_refused), "{line}");
        assert!(
            line.contains(r"\u009b") && line.contains(r"\udb40\udc41"),
            "{line}"
        );
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), value);
    }

    #[test]
    fn exit_statuses_and_times_are_formatted() {
        assert_eq!(exit_status(ExitStatus::Code(7)), "exit 7");
        let killed = |signal| {
            exit_status(ExitStatus::Signal {
                signal,
                core: false,
            })
        };
        assert_eq!(killed(9), "killed by SIGKILL");
        assert_eq!(killed(40), "killed by signal 40");
        assert_eq!(
            [age(59), age(60), age(7_200), age(90_000)],
            ["59s", "1m", "2h", "1d"]
        );
        assert_eq!(milliseconds(312), "0.3 ms");
        assert_eq!(milliseconds(99_960), "100.0 ms");
        assert_eq!(milliseconds(812_345), "812 ms");
    }
}
