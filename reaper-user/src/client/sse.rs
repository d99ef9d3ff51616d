//! A parser for server-sent events. It takes bytes in chunks of any size and returns whole frames.

use std::collections::VecDeque;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The id, `<epoch>.<seq>`; empty if there is none.
    pub id: String,
    /// The name of the event.
    pub event: String,
    /// The data.
    pub data: String,
}

/// An incremental parser. It keeps the current line and the current frame between chunks.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    frame: Frame,
    ready: VecDeque<Frame>,
}

impl SseParser {
    /// Parses the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            self.end_of_line(line.strip_suffix(b"\r").unwrap_or(&line));
        }
        self.line.extend_from_slice(bytes);
    }

    /// Returns the next whole frame.
    pub fn pop(&mut self) -> Option<Frame> {
        self.ready.pop_front()
    }

    /// The name of the current frame, which has not ended yet; empty if it has none so far.
    pub(super) fn event(&self) -> &str {
        &self.frame.event
    }

    /// The length of the current frame so far.
    pub(super) fn unfinished(&self) -> usize {
        let Frame { id, event, data } = &self.frame;
        self.line.len() + id.len() + event.len() + data.len()
    }

    fn end_of_line(&mut self, line: &[u8]) {
        if line.is_empty() {
            let frame = std::mem::take(&mut self.frame);
            // A block with only comments or `retry:` is not an event.
            if !frame.data.is_empty() || !frame.event.is_empty() {
                self.ready.push_back(frame);
            }
            return;
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut self.frame.id),
            "event" => value.clone_into(&mut self.frame.event),
            "data" => {
                if !self.frame.data.is_empty() {
                    self.frame.data.push('\n');
                }
                self.frame.data.push_str(value);
            }
            // Comments (an empty field name), `retry` and unknown fields.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": connected\n\nretry: 1000\n\nid: e.1\nevent: a\ndata: {\"x\":\"é\"}\n\n\
        : keepalive\n\nid: e.2\r\nevent: b\r\ndata: 1\r\ndata: 2\r\n\r\nevent: shutdown\ndata: {}\n\n";

    fn frame(id: &str, event: &str, data: &str) -> Frame {
        Frame {
            id: id.into(),
            event: event.into(),
            data: data.into(),
        }
    }

    fn expected() -> Vec<Frame> {
        vec![
            frame("e.1", "a", "{\"x\":\"é\"}"),
            frame("e.2", "b", "1\n2"),
            frame("", "shutdown", "{}"),
        ]
    }

    #[test]
    fn frames_are_parsed_from_chunks_of_any_size() {
        for size in 1..=STREAM.len() {
            let mut parser = SseParser::default();
            let mut frames = Vec::new();
            for chunk in STREAM.as_bytes().chunks(size) {
                parser.push(chunk);
                frames.extend(std::iter::from_fn(|| parser.pop()));
            }
            assert_eq!(frames, expected(), "in chunks of {size}");
        }
    }

    #[test]
    fn an_unfinished_frame_is_not_an_event() {
        let mut parser = SseParser::default();
        parser.push(b"event: a\ndata: 1\n");
        assert_eq!(parser.pop(), None);
        parser.push(b"\n");
        assert_eq!(parser.pop(), Some(frame("", "a", "1")));
    }
}
