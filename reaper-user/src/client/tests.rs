//! What a client makes of sockets without a daemon, and of answers around the limit of its time.

use super::*;

fn get_version(socket: &Path) -> Result<Version, ClientError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(Client::new(socket).get("/v1/version"))
}

#[test]
fn an_absent_or_abandoned_socket_means_no_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    assert!(matches!(
        get_version(&socket),
        Err(ClientError::NoDaemon { .. })
    ));
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(matches!(
        get_version(&socket),
        Err(ClientError::NoDaemon { .. })
    ));
    assert!(matches!(
        get_version(&socket.join("x")),
        Err(ClientError::NoDaemon { .. })
    ));
}

/// A client whose time is up while `then` does something with the daemon's end of its connection.
/// Its thread does nothing else meanwhile, so that the limit and the answer come at once.
fn late<T: Send>(
    then: impl FnOnce(std::os::unix::net::UnixStream) -> T + Send,
) -> (Result<serde_json::Value, ClientError>, T) {
    use std::io::Read as _;
    use std::sync::mpsc::channel;

    let limit = Duration::from_millis(50);
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let (asked, is_asked) = channel();
    let (answered, is_answered) = channel();
    std::thread::scope(|scope| {
        let daemon = scope.spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4_096];
            assert!(stream.read(&mut head).unwrap() > 0);
            asked.send(()).unwrap();
            let done = then(stream);
            answered.send(()).unwrap_or_default();
            done
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let client = Client::new(&socket).with_time_limit(limit);
        let answer = runtime.block_on(async {
            // Holds up the thread from the moment of the request to past the limit.
            tokio::spawn(async move {
                let deadline = crate::clock::Deadline::after(limit * 2);
                while is_asked.try_recv().is_err() {
                    tokio::task::yield_now().await;
                }
                let answered = is_answered.recv_timeout(deadline.left());
                std::thread::sleep(deadline.left());
                answered.unwrap_or_default();
            });
            client.post_if_answered("/x", &serde_json::json!({})).await
        });
        drop(runtime);
        (answer, daemon.join().unwrap())
    })
}

#[test]
fn an_answer_that_was_sent_in_time_counts_however_late_it_is_read() {
    use std::io::Write as _;
    let (answer, sent) =
        late(|mut stream| stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue"));
    assert!(sent.is_ok());
    assert_eq!(answer.unwrap(), true);
}

#[test]
fn no_answer_can_be_sent_to_a_client_that_has_given_up() {
    use std::io::{Read as _, Write as _};
    let last_look = crate::clock::Deadline::after(LAST_LOOK);
    let (answer, sent) = late(|mut stream| {
        // The end of the stream, or an error: the client has given up.
        let ended = stream.read(&mut [0; 64]);
        assert!(!matches!(ended, Ok(1..)));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue")
    });
    assert!(matches!(answer, Err(ClientError::TimedOut { .. })));
    assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert!(!last_look.has_passed(), "there was nothing to wait for");
}

#[test]
fn a_path_that_no_socket_can_have_is_not_a_missing_daemon() {
    let long = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
    assert!(matches!(
        get_version(&long),
        Err(ClientError::Connect { .. })
    ));
}

#[test]
fn any_text_becomes_one_path_segment() {
    assert_eq!(percent_encode("a-Z_0.~"), "a-Z_0.~");
    assert_eq!(percent_encode("a/b?c#d %é"), "a%2Fb%3Fc%23d%20%25%C3%A9");
}
