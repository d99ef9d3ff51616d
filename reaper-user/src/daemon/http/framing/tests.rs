//! Tests of the filter between a sender of arbitrary pieces and a reader like hyper.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::daemon::http::secrets::Claim;

#[tokio::test(start_paused = true)]
async fn the_secrets_of_each_message_are_in_the_queue() {
    let secrets = SecretQueue::for_tests();
    let token = "ab".repeat(32);
    let bytes = format!(
        "POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody\
         GET /b HTTP/1.1\r\nHost: localhost\r\n\
         Authorization: ClaudeMesh-Session {token}\r\n\r\n\
         POST /c HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nch\r\n4\r\nunks\r\n0\r\n\r\n"
    );
    let (mut client, server) = tokio::io::duplex(7);
    let mut filter = FramingFilter::new(server, secrets.clone());
    let sender = tokio::spawn(async move {
        client.write_all(bytes.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
    });
    let mut seen = String::new();
    filter.read_to_string(&mut seen).await.unwrap();
    sender.await.unwrap();
    assert!(
        !seen.contains("body") && !seen.contains(&token[..16]),
        "{seen}"
    );
    let [a, b, c] = [(); 3].map(|()| secrets.next());
    assert_eq!(*a.take_body(), b"body");
    assert!(matches!(a.claim, Claim::None) && matches!(b.claim, Claim::Token(_)));
    assert_eq!(*c.take_body(), b"chunks");
}

/// Returns what hyper reads if these bytes arrive in pieces of this size.
async fn filtered(bytes: &[u8], piece: usize) -> io::Result<Vec<u8>> {
    let (mut client, server) = tokio::io::duplex(piece);
    let mut filter = FramingFilter::new(server, SecretQueue::for_tests());
    let bytes = bytes.to_vec();
    let sender = tokio::spawn(async move {
        client.write_all(&bytes).await.unwrap();
        client.shutdown().await.unwrap();
        client
    });
    let mut seen = Vec::new();
    let mut part = [0; 100];
    loop {
        // Hyper ends a refused connection; the filter does not.
        let reading = tokio::time::timeout(Duration::from_millis(50), filter.read(&mut part));
        match reading.await {
            Ok(Ok(0)) | Err(_) => break,
            Ok(Ok(count)) => seen.extend_from_slice(&part[..count]),
            Ok(Err(error)) => return Err(error),
        }
    }
    sender.abort();
    Ok(seen)
}

#[tokio::test(start_paused = true)]
async fn good_messages_are_passed_on_with_blanks_for_bodies_in_pieces_of_any_size() {
    let bytes = b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n\
        POST /b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhe\n\nl\
        POST /c HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\n\n\n\n\r\n0\r\n\r\n\
        GET /d HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for piece in [1, 2, 3, 7, 50, 1_000] {
        let seen = String::from_utf8(filtered(bytes, piece).await.unwrap()).unwrap();
        let expected = str::from_utf8(bytes).unwrap();
        let expected = expected
            .replace("he\n\nl", "     ")
            .replace("\n\n\n\r\n0", "   \r\n0");
        assert_eq!(seen, expected, "{piece}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_head_is_replaced_and_nothing_behind_it_is_passed_on() {
    let good = "GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (bad, code) in [
        ("GET /b HTTP/1.1\nHost: localhost\n\n", "bare_line_feed"),
        ("GET /b HTTP/1.1\r\nHost: localhost\n\r\n", "bare_line_feed"),
        ("GET /b HTTP/1.1\r\nHost: localhost\r\n\n", "bare_line_feed"),
        (
            "\r\nGET /b HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "bad_request_line",
        ),
        (
            "POST /b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\
             Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "both_length_fields",
        ),
    ] {
        let seen = filtered(format!("{good}{bad}{good}").as_bytes(), 64).await;
        let seen = String::from_utf8(seen.unwrap()).unwrap();
        let rest = seen
            .strip_prefix(good)
            .expect("the first request is passed on");
        assert!(
            rest.contains(&format!("{REFUSAL_FIELD}: {code}\r\n\r\n")),
            "{rest}"
        );
        assert!(!rest.contains("/b") && !rest.contains("/a"), "{rest}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_may_fill_the_buffer_but_not_exceed_it() {
    let head = |size: usize| {
        let frame = "GET / HTTP/1.1\r\nHost: localhost\r\nX: \r\n\r\n";
        frame.replace("X: ", &format!("X: {}", "y".repeat(size - frame.len())))
    };
    let fits = head(HEAD_MAX);
    assert_eq!(
        filtered(fits.as_bytes(), 999).await.unwrap(),
        fits.as_bytes()
    );
    let seen = filtered(head(HEAD_MAX + 1).as_bytes(), 999).await.unwrap();
    assert!(String::from_utf8(seen).unwrap().contains("head_too_large"));
}

#[tokio::test(start_paused = true)]
async fn a_malformed_chunk_is_a_read_error() {
    let bytes = b"POST /c HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
        3;x\r\nabc\r\n0\r\n\r\n";
    let error = filtered(bytes, 64).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test(start_paused = true)]
async fn writing_to_a_peer_that_never_reads_times_out() {
    let (_client, server) = tokio::io::duplex(16);
    let mut filter = FramingFilter::new(server, SecretQueue::for_tests());
    let error = filter.write_all(&[0; 64]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_held_connection_ends_the_message_it_is_in_and_begins_no_other() {
    let (mut client, server) = tokio::io::duplex(1_024);
    let hold = Hold::default();
    let mut filter = FramingFilter::new(server, SecretQueue::for_tests()).held_by(hold.clone());
    let mut out = [0; 100];
    let request = b"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody";
    client.write_all(&request[..20]).await.unwrap();
    let waits = Duration::from_millis(50);
    let mut read = async |out: &mut [u8]| {
        let reading = tokio::time::timeout(waits, filter.read(out)).await;
        reading.map_or(0, Result::unwrap)
    };
    assert_eq!(read(&mut out).await, 0, "the head is incomplete");
    hold.set(true);
    client.write_all(&request[20..]).await.unwrap();
    let mut count = 0;
    while count < request.len() {
        assert!(!hold.has_stopped_reading(), "within the message");
        count += read(&mut out).await;
    }
    client.write_all(request).await.unwrap();
    assert_eq!(read(&mut out).await, 0, "another message waits");
    assert!(hold.has_stopped_reading());
    hold.set(false);
    assert!(!hold.has_stopped_reading());
    assert_ne!(read(&mut out).await, 0);
}
