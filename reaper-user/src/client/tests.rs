//! Sockets without a daemon, and responses close to the time limit.

use super::lists::PAGE;
use super::reading::Page;
use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn get_version(socket: &Path) -> Result<Version, ClientError> {
    runtime().block_on(Client::new(socket).get("/v1/version"))
}

#[test]
fn a_missing_socket_and_one_without_a_listener_mean_no_daemon() {
    let is_missing =
        |socket: &Path| matches!(get_version(socket), Err(ClientError::NoDaemon { .. }));
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    assert!(is_missing(&socket));
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(is_missing(&socket));
    assert!(is_missing(&socket.join("x")));
}

/// Sends a request that times out while `then` uses the daemon's end of the connection. The client's
/// thread is blocked meanwhile, so that the timeout and the response arrive together.
fn with_late_client<T: Send>(
    then: impl FnOnce(std::os::unix::net::UnixStream) -> T + Send,
) -> (Result<serde_json::Value, ClientError>, T) {
    use std::io::Read as _;
    use std::sync::mpsc::channel;

    let limit = Duration::from_millis(50);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (received, is_received) = channel();
    let (responded, has_responded) = channel();
    std::thread::scope(|scope| {
        let daemon = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4_096];
            assert!(stream.read(&mut head).unwrap() > 0);
            received.send(()).unwrap();
            let done = then(stream);
            responded.send(()).unwrap_or_default();
            done
        });
        let runtime = runtime();
        let client = Client::new(&socket).with_time_limit(limit);
        let response = runtime.block_on(async {
            // Blocks the thread from the request until after the time limit.
            tokio::spawn(async move {
                let deadline = crate::clock::Deadline::after(limit * 2);
                while is_received.try_recv().is_err() {
                    tokio::task::yield_now().await;
                }
                let result = has_responded.recv_timeout(deadline.left());
                std::thread::sleep(deadline.left());
                result.unwrap_or_default();
            });
            client.post_if_answered("/x", &serde_json::json!({})).await
        });
        drop(runtime);
        (response, daemon.join().unwrap())
    })
}

#[test]
fn a_response_sent_in_time_counts_even_if_it_is_read_later() {
    use std::io::Write as _;
    let (response, sent) = with_late_client(|mut stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue")
    });
    assert!(sent.is_ok());
    assert_eq!(response.unwrap(), true);
}

#[test]
fn no_response_can_be_sent_after_the_client_has_timed_out() {
    use std::io::{Read as _, Write as _};
    let deadline = crate::clock::Deadline::after(FINAL_READ_TIMEOUT);
    let (response, sent) = with_late_client(|mut stream| {
        // The end of the stream or an error: the client has shut down its end.
        let ended = stream.read(&mut [0; 64]);
        assert!(!matches!(ended, Ok(1..)));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue")
    });
    assert!(matches!(response, Err(ClientError::TimedOut { .. })));
    assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert!(!deadline.has_passed(), "the client did not wait for more");
}

#[test]
fn a_path_too_long_for_a_socket_is_not_a_missing_daemon() {
    let long = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
    assert!(matches!(
        get_version(&long),
        Err(ClientError::PathTooLong { length: 205, .. })
    ));
}

#[test]
fn any_text_is_encoded_as_one_path_segment() {
    assert_eq!(percent_encode("a-Z_0.~"), "a-Z_0.~");
    assert_eq!(percent_encode("a/b?c#d %é"), "a%2Fb%3Fc%23d%20%25%C3%A9");
}

/// Sends a request to a server that writes `head` once and then `part` without end, and returns the result
/// and the number of bytes that it could write.
fn from_endless<T>(
    head: &[u8],
    part: &[u8],
    ask: impl AsyncFnOnce(Client) -> Result<T, ClientError>,
) -> (Result<T, ClientError>, usize) {
    use std::io::{Read as _, Write as _};

    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let client = Client::new(&socket).with_time_limit(Duration::from_secs(30));
    std::thread::scope(|scope| {
        let server = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            assert!(stream.read(&mut [0; 4_096]).unwrap() > 0);
            let mut written = 0;
            let mut next = head;
            while stream.write_all(next).is_ok() {
                written += next.len();
                next = part;
            }
            written
        });
        let runtime = runtime();
        let result = runtime.block_on(ask(client));
        drop(runtime);
        (result, server.join().unwrap())
    })
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
const STREAM: &str = "HTTP/1.1 200 OK\r\n\r\nevent: a\n";

#[test]
fn what_a_hostile_server_sends_without_end_is_refused_and_bounded() {
    let list = async |client: Client| client.sessions::<serde_json::Value>("").await.map(drop);
    let get = async |client: Client| client.get::<serde_json::Value>("/x").await.map(drop);
    let stream = async |client: Client| client.events("").await?.next().await.map(drop);
    let zeros = [b"0".repeat(64 * 1_024), b"\n".to_vec()].concat();
    let line = [b"data: ".to_vec(), zeros.clone()].concat();
    let longest_page = 48 << 20;
    let buffers = 4 << 20;
    let body = format!("{OK}\r\n{{\"sessions\":[],\"x\":\"");
    let error = "HTTP/1.1 500 No\r\n\r\n{\"x\":\"";
    let cases: [(&str, _, _); 7] = [
        (
            "a page",
            from_endless(body.as_bytes(), &zeros, list),
            longest_page,
        ),
        (
            "an error",
            from_endless(error.as_bytes(), &zeros, get),
            1 << 20,
        ),
        ("a head", from_endless(OK.as_bytes(), b"x: y\r\n", get), 0),
        (
            "a field",
            from_endless(b"HTTP/1.1 200 OK\r\nx: ", &zeros[..1_024], get),
            0,
        ),
        (
            "a line",
            from_endless(STREAM.as_bytes(), &zeros[..1_024], stream),
            1 << 20,
        ),
        (
            "lines of data",
            from_endless(STREAM.as_bytes(), &line, stream),
            1 << 20,
        ),
        (
            "a name",
            from_endless(b"HTTP/1.1 200 OK\r\n\r\nid: ", &zeros[..1_024], stream),
            1 << 20,
        ),
    ];
    for (what, (result, written), bound) in cases {
        println!("{what}: {written} bytes, {result:?}");
        assert!(
            !matches!(result, Ok(()) | Err(ClientError::TimedOut { .. })),
            "{what}"
        );
        assert!(written <= bound + buffers, "{what}: {written}");
    }
}

#[test]
fn a_snapshot_may_be_longer_than_other_events() {
    let long = [b"data: ".to_vec(), b"0".repeat(3 << 20), b"\n\n".to_vec()].concat();
    let read = |event: &str| {
        let head = format!("HTTP/1.1 200 OK\r\n\r\nevent: {event}\n");
        from_endless(head.as_bytes(), &long, async |client| {
            client.events("").await?.next().await
        })
        .0
    };
    assert_eq!(read("snapshot").unwrap().unwrap().data.len(), 3 << 20);
    assert!(matches!(read("a"), Err(ClientError::Protocol { .. })));
}

#[test]
fn a_list_that_does_not_end_is_refused() {
    let page = |count: usize, next: Option<&str>| Page {
        sessions: vec![(); count],
        next: next.map(str::to_owned),
    };
    let is_refused = |page: Page<()>, listed| page.check(listed, PAGE).is_err();
    assert!(!is_refused(page(PAGE, Some("7")), 0));
    assert!(!is_refused(page(0, None), 100_000));
    assert!(
        is_refused(page(0, Some("7")), 0),
        "it would be asked for ever"
    );
    assert!(is_refused(page(PAGE + 1, None), 0));
    assert!(is_refused(page(1, Some(&"7".repeat(65))), 0));
    assert!(is_refused(page(1, Some("7")), 1 << 20));
}
