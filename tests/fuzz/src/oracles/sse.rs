//! Event streams as the client reads them: where the transport cuts them does not matter, and a frame
//! that is written again is read again.

use reaperd::client::{Deregistered, Frame, Session, SseParser};

/// The first byte chooses the size of the pieces in which the rest arrives.
pub fn sse_client(bytes: &[u8]) {
    let Some((&piece, stream)) = bytes.split_first() else {
        return;
    };
    let whole = frames(stream, stream.len());
    assert_eq!(frames(stream, piece.into()), whole);
    for frame in &whole {
        assert!(!frame.event.is_empty() || !frame.data.is_empty());
        assert!(!frame.id.contains('\n') && !frame.event.contains('\n'));
        assert_eq!(
            frames(written(frame).as_bytes(), 7),
            std::slice::from_ref(frame)
        );
        // The command line parses these; any text may stand there.
        drop(serde_json::from_str::<Session>(&frame.data));
        drop(serde_json::from_str::<Deregistered>(&frame.data));
    }
}

fn frames(stream: &[u8], piece: usize) -> Vec<Frame> {
    let mut parser = SseParser::default();
    let mut frames = Vec::new();
    for part in stream.chunks(piece.max(1)) {
        parser.push(part);
        frames.extend(std::iter::from_fn(|| parser.pop()));
    }
    frames
}

/// With both line ends, since a value may itself end in a carriage return.
fn written(frame: &Frame) -> String {
    let Frame { id, event, data } = frame;
    let lines: Vec<_> = data
        .split('\n')
        .map(|line| format!("data: {line}\r\n"))
        .collect();
    let data = lines.concat();
    format!("id: {id}\r\nevent: {event}\r\n{data}\r\n")
}
