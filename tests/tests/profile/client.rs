//! The client of the library over TCP: it asks for the proof of the server, and then presents the bearer.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread::{self, JoinHandle};

use reaper_registry::Token;
use reaper_tests::daemon::{TestDaemon, runtime};
use reaper_tests::test_process::TestProcess;
use reaperd::client::{Client, ClientError, Registered, Session, Version};
use serde_json::{Value, json};

use crate::{address, bearer, beside_socket, with_tcp};

fn client(daemon: &TestDaemon) -> Client {
    Client::new(daemon.socket()).with_tcp(address(daemon).parse().unwrap())
}

fn version(client: &Client) -> Result<Version, ClientError> {
    runtime().block_on(client.get("/v1/version"))
}

#[test]
fn sessions_are_registered_listed_followed_and_removed() {
    let daemon = with_tcp(&[]);
    let client = client(&daemon);
    let process = TestProcess::start();
    let body = json!({
        "token": "ab".repeat(32), "session_id": "a", "mesh": "m", "display_name": "a", "pid": process.pid(),
    });
    runtime().block_on(async {
        let mut events = client.events("?session=a").await.unwrap();
        let registered: Registered = client.post("/v1/sessions/register", &body).await.unwrap();
        assert!(registered.sources.contains(&"sweep".to_owned()));
        let listed: Vec<Session> = client.sessions("").await.unwrap();
        assert_eq!((listed.len(), listed[0].pid), (1, process.pid()));
        let _removed: Value = client.delete("/v1/sessions/by-id/a").await.unwrap();
        for expected in ["session_registered", "session_deregistered"] {
            assert_eq!(events.next().await.unwrap().unwrap().event, expected);
        }
        assert!(client.metrics().await.unwrap().contains("reaperd_"));
        let error = client.get::<Value>("/v1/nothing").await.unwrap_err();
        assert!(
            matches!(error, ClientError::Problem { status: 404, .. }),
            "{error}"
        );
    });
    daemon.stop();
}

#[test]
fn what_needs_the_socket_is_refused_before_anything_is_sent() {
    let daemon = with_tcp(&[]);
    let client = client(&daemon);
    let token = Token::from_bytes([7; 32]);
    let errors = runtime().block_on(async {
        [
            client.get_as::<Value>(&token, "/v1/sessions/me").await,
            client.delete_as(&token, "/v1/sessions/me").await,
            client
                .post_if_answered("/v1/sessions/register", &json!({}))
                .await,
        ]
    });
    for error in errors.map(Result::unwrap_err) {
        assert!(matches!(error, ClientError::NotOverTcp), "{error}");
    }
    daemon.stop();
}

/// A program in the place of the daemon, which answers the first request with `respond`. Returns all that it was
/// sent.
fn impostor(
    respond: impl FnOnce(&str) -> Vec<u8> + Send + 'static,
) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = vec![0; 65_536];
        let length = stream.read(&mut received).unwrap();
        let mut received = String::from_utf8(received[..length].to_vec()).unwrap();
        stream.write_all(&respond(&received)).unwrap();
        stream.read_to_string(&mut received).unwrap_or_default();
        received
    });
    (address, thread)
}

fn response(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

#[test]
fn a_program_that_does_not_know_the_bearer_does_not_get_it() {
    let daemon = with_tcp(&[]);
    let right = bearer(&daemon);
    let real = address(&daemon);
    let forged = response(&json!({ "address": real, "proof": "0".repeat(64) }).to_string());
    let passed_on = move |request: &str| {
        // What the daemon says about its own address.
        let mut daemon = TcpStream::connect(real).unwrap();
        let request = request.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        daemon.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        daemon.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200"));
        answer
    };
    let no_proof = response("{}");
    for (address, thread) in [
        impostor(move |_| forged),
        impostor(passed_on),
        impostor(move |_| no_proof),
    ] {
        let client = Client::new(daemon.socket()).with_tcp(address);
        let error = version(&client).unwrap_err();
        assert!(
            matches!(error, ClientError::UnprovenServer { .. }),
            "{error}"
        );
        let received = thread.join().unwrap();
        assert!(received.starts_with("GET /v1/proof?nonce="), "{received}");
        assert!(
            !received.contains(&right) && !received.contains("Authorization"),
            "{received}"
        );
        assert_eq!(received.matches(" HTTP/1.1").count(), 1, "{received}");
    }
    daemon.stop();
}

#[test]
fn a_bearer_that_others_may_know_and_an_address_of_another_machine_are_refused() {
    let daemon = with_tcp(&[]);
    let client = client(&daemon);
    let file = beside_socket(&daemon, "local-token");
    let set_mode = |mode| fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    let refusal = |client: &Client| version(client).unwrap_err().to_string();

    set_mode(0o644);
    assert!(refusal(&client).contains("other users can access it"));
    set_mode(0o400);
    assert_eq!(version(&client).unwrap().ipc_api, "v1");
    let elsewhere =
        Client::new(Path::new("/nonexistent/s.sock")).with_tcp("127.0.0.1:1".parse().unwrap());
    assert!(matches!(
        version(&elsewhere),
        Err(ClientError::Bearer { .. })
    ));
    let remote = Client::new(daemon.socket()).with_tcp("192.0.2.1:47823".parse().unwrap());
    assert!(refusal(&remote).contains("not an address of the loopback interface"));

    // A daemon with another bearer is another daemon.
    set_mode(0o600);
    fs::write(&file, "a".repeat(43)).unwrap();
    assert!(matches!(
        version(&client),
        Err(ClientError::UnprovenServer { .. })
    ));
    daemon.stop();
}
