//! Query strings, path segments and event ids: what is escaped again is read as before, and a part
//! without escapes is read unchanged.

use std::borrow::Cow;

use reaperd::fuzzing::{decode_segment, event_id, pairs, value};

/// Any text as a query, as a segment and as an event id; and any bytes, escaped.
pub fn query(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    as_a_query(&text);
    as_a_segment(&text);
    if let Some(id) = event_id(&text) {
        assert_eq!(id, text);
    }
    // Escaped bytes are decoded exactly if they are UTF-8.
    assert_eq!(
        decode_segment(&escaped(bytes)).as_deref(),
        str::from_utf8(bytes).ok()
    );
    let pair = format!("{}=1", escaped(bytes));
    assert_eq!(value(Some(&pair), &text).as_deref(), Some("1"));
}

fn as_a_query(text: &str) {
    let read: Vec<_> = pairs(text).collect();
    assert!(read.len() <= text.split('&').count());
    let written: Vec<_> = read
        .iter()
        .map(|(key, value)| format!("{}={}", escaped(key.as_bytes()), escaped(value.as_bytes())))
        .collect();
    assert_eq!(pairs(&written.join("&")).collect::<Vec<_>>(), read);
    if let Some((key, first)) = read.first() {
        assert_eq!(value(Some(text), key).as_ref(), Some(first));
    }
    // The request policy relies on this: an escaped key is that key.
    let has_token_key = read.iter().any(|(key, _)| key == "token");
    assert_eq!(value(Some(text), "token").is_some(), has_token_key);
}

fn as_a_segment(text: &str) {
    let Some(decoded) = decode_segment(text) else {
        assert!(text.contains('%'));
        return;
    };
    assert_eq!(text.contains('%'), matches!(decoded, Cow::Owned(_)));
    assert!(decoded.len() <= text.len());
    assert_eq!(
        decode_segment(&escaped(decoded.as_bytes())),
        Some(decoded.into_owned().into())
    );
}

fn escaped(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("%{byte:02X}")).collect();
    bytes.concat()
}
