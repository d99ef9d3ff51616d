//! Reads what a libtest binary prints when run with `--test-threads=1 --show-output`: which test
//! has started, how each ended, and what it printed. libtest's JSON is not stable, so this reads
//! the text. Running the binary is left to the caller.

use std::collections::BTreeSet;

use crate::expect::SKIP_MARK;

/// How one test ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    Ok,
    Skipped(String),
    Failed(String),
}

/// Something that was read from the output.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Event {
    Started(String),
    /// A later verdict on the same test replaces an earlier one: that a test was skipped is known
    /// only when its output is shown, at the end.
    Finished(String, Verdict),
    /// One line that the test printed.
    Output(String, String),
}

/// Follows the output of one test binary.
#[derive(Debug)]
pub struct Reader {
    /// Tests that the binary listed and that have no verdict yet.
    waiting: BTreeSet<String>,
    passed: BTreeSet<String>,
    /// The test that has started and not ended, if any.
    pending: Option<String>,
    /// The test whose printed lines are being shown.
    section: Option<String>,
    partial: Vec<u8>,
}

impl Reader {
    pub fn new(listed: BTreeSet<String>) -> Self {
        Self {
            waiting: listed,
            passed: BTreeSet::new(),
            pending: None,
            section: None,
            partial: Vec::new(),
        }
    }

    /// Takes the next piece of output, which may end anywhere.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.partial);
                self.line(&String::from_utf8_lossy(&line), &mut events);
            } else {
                self.partial.push(*byte);
            }
        }
        // The name is printed before the test runs and the line ends after it.
        let partial = String::from_utf8_lossy(&self.partial).into_owned();
        if let Some((name, "")) = self.test_line(&partial) {
            self.start(name, &mut events);
        }
        events
    }

    /// The binary has ended in this way: every test without a verdict has failed.
    pub fn finish(mut self, ended: &str) -> Vec<Event> {
        let failed = |when: &str, name: String| {
            let why = format!("the test binary ended {when} this test: {ended}");
            Event::Finished(name, Verdict::Failed(why))
        };
        let pending = self.pending.take();
        self.waiting.retain(|name| Some(name) != pending.as_ref());
        let during = pending.into_iter().map(|name| failed("during", name));
        let before = self.waiting.into_iter().map(|name| failed("before", name));
        during.chain(before).collect()
    }

    fn line(&mut self, line: &str, events: &mut Vec<Event>) {
        if let Some((name, rest)) = self.test_line(line) {
            self.start(name, events);
            self.verdict(rest, events);
        } else if self.pending.is_some() {
            self.verdict(line, events);
        } else if let Some(name) = section_header(line) {
            self.section = Some(name.to_owned());
        } else if matches!(line, "successes:" | "failures:") || line.starts_with("test result: ") {
            self.section = None;
        } else if let Some(name) = &self.section {
            if let Some(reason) = line.strip_prefix(SKIP_MARK)
                && self.passed.contains(name)
            {
                let skipped = Verdict::Skipped(reason.to_owned());
                events.push(Event::Finished(name.clone(), skipped));
            }
            events.push(Event::Output(name.clone(), line.to_owned()));
        }
    }

    /// `test NAME ... REST`, for a name that was listed and has no verdict.
    fn test_line<'line>(&self, line: &'line str) -> Option<(&'line str, &'line str)> {
        let (name, rest) = line.strip_prefix("test ")?.split_once(" ... ")?;
        let name = name.split(" - ").next().unwrap_or(name);
        self.waiting.contains(name).then_some((name, rest))
    }

    fn start(&mut self, name: &str, events: &mut Vec<Event>) {
        if self.pending.as_deref() != Some(name) {
            self.pending = Some(name.to_owned());
            events.push(Event::Started(name.to_owned()));
        }
    }

    /// Ends the pending test if `text` is a verdict. Anything else is noise that a child of the
    /// test wrote between the name and the verdict.
    fn verdict(&mut self, text: &str, events: &mut Vec<Event>) {
        let verdict = match text {
            "ok" => Verdict::Ok,
            "FAILED" => Verdict::Failed("assertion or panic".to_owned()),
            _ if text.starts_with("ignored") => Verdict::Failed("ignored tests hide".to_owned()),
            _ => return,
        };
        if let Some(name) = self.pending.take() {
            self.waiting.remove(&name);
            if verdict == Verdict::Ok {
                self.passed.insert(name.clone());
            }
            events.push(Event::Finished(name, verdict));
        }
    }
}

/// The names that `--list` printed.
pub fn listed(output: &str) -> BTreeSet<String> {
    output
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect()
}

fn section_header(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> Reader {
        Reader::new(listed(
            "a: test\nb::c: test\nd: test\n\n3 tests, 0 benchmarks\n",
        ))
    }

    fn finished(name: &str, verdict: Verdict) -> Event {
        Event::Finished(name.to_owned(), verdict)
    }

    #[test]
    fn a_running_test_is_known_before_its_line_ends() {
        let mut reader = reader();
        assert_eq!(reader.feed(b"\nrunning 3 tests\ntest a .."), []);
        assert_eq!(reader.feed(b". "), [Event::Started("a".to_owned())]);
        assert_eq!(reader.feed(b"ok\n"), [finished("a", Verdict::Ok)]);
    }

    #[test]
    fn output_of_a_child_does_not_hide_a_verdict() {
        let mut reader = reader();
        reader.feed(b"test a ... daemon: listening\nall is well, ok\nFAILED\n");
        let events = reader.finish("exit status: 101");
        assert_eq!(
            events.len(),
            2,
            "a has its verdict, the others are missing: {events:?}"
        );
    }

    #[test]
    fn a_test_that_never_ran_has_failed() {
        let mut reader = reader();
        reader.feed(b"test a ... ok\ntest b::c ... ");
        let events = reader.finish("signal: 9");
        assert!(matches!(&events[..], [
            Event::Finished(during, Verdict::Failed(_)),
            Event::Finished(before, Verdict::Failed(_)),
        ] if during == "b::c" && before == "d"));
    }

    #[test]
    fn a_skip_is_read_from_the_shown_output() {
        let mut reader = reader();
        reader.feed(b"test a ... ok\ntest b::c ... ok\ntest d ... FAILED\n\nsuccesses:\n\n");
        let events = reader.feed(
            b"---- a stdout ----\nskipped: ebpf=down:EPERM\n\n\nsuccesses:\n    a\n    b::c\n",
        );
        assert_eq!(
            events[0],
            finished("a", Verdict::Skipped("ebpf=down:EPERM".to_owned()))
        );
        let events = reader.feed(b"\nfailures:\n\n---- d stdout ----\nskipped: not really\n");
        assert_eq!(
            events,
            [Event::Output(
                "d".to_owned(),
                "skipped: not really".to_owned()
            )]
        );
        assert_eq!(reader.finish("exit status: 101"), []);
    }
}
