//! Requests with secrets, in every way in which they can arrive. The connections stay open, because the
//! buffers of a closed one are freed.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use reaper_tests::canary::{Canary, Form};
use reaper_tests::sys::unread_by_peer;
use reaper_tests::wait::eventually;
use serde_json::{Value, json};

const POST: &str = "POST /v1/sessions/register HTTP/1.1\r\nHost: localhost\r\n";

/// What was sent, and the connections on which it was sent.
pub(super) struct Sent {
    /// The session id or another name, and its secrets.
    pub(super) canaries: Vec<(String, Canary)>,
    connections: Vec<Connection>,
}

impl Sent {
    fn new() -> Self {
        Self {
            canaries: Vec::new(),
            connections: Vec::new(),
        }
    }

    /// These forms of all secrets, each with the name under which it was sent.
    pub(super) fn forms(&self, of: impl Fn(&Canary) -> Vec<Form>) -> Vec<Form> {
        let mut forms = Vec::new();
        for (how, canary) in &self.canaries {
            for Form { name, bytes } in of(canary) {
                let name = format!("{how}, {name}");
                forms.push(Form { name, bytes });
            }
        }
        forms
    }

    /// Sends a new secret on a new connection.
    fn add(&mut self, socket: &Path, name: &str, send: impl FnOnce(&mut Connection, &Canary)) {
        let canary = Canary::new();
        let mut connection = Connection::open(socket);
        send(&mut connection, &canary);
        self.canaries.push((name.to_owned(), canary));
        self.connections.push(connection);
    }
}

fn with_length(body: &str) -> String {
    format!("{POST}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn chunked(body: &str, size: usize) -> String {
    let chunks = body.as_bytes().chunks(size).map(|chunk| {
        let text = str::from_utf8(chunk).unwrap();
        format!("{:x}\r\n{text}\r\n", chunk.len())
    });
    let chunks: String = chunks.collect();
    format!("{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
}

fn as_session(line: &str, canary: &Canary) -> String {
    format!(
        "{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: ClaudeMesh-Session {}\r\n\r\n",
        canary.token()
    )
}

fn me(canary: &Canary) -> String {
    as_session("GET /v1/sessions/me", canary)
}

/// Registers a session in each way, under the name of the way, and requests each.
pub(super) fn store(socket: &Path, pid: u32) -> Sent {
    let mut sent = Sent::new();
    let body = |name: &str, canary: &Canary| canary.registration(name, pid).to_string();
    sent.add(socket, "at once", |connection, canary| {
        connection.send(with_length(&body("at once", canary)));
        assert_eq!(connection.status(), 200);
        connection.send(me(canary));
        assert_eq!(connection.status(), 200);
    });
    sent.add(socket, "renewed", |connection, canary| {
        for _ in 0..3 {
            connection.send(with_length(&body("renewed", canary)));
            assert_eq!(connection.status(), 200);
        }
    });
    sent.add(socket, "chunked", |connection, canary| {
        connection.send(chunked(&body("chunked", canary), 37));
        assert_eq!(connection.status(), 200);
    });
    sent.add(socket, "pipelined", |connection, canary| {
        let register = with_length(&body("pipelined", canary));
        let me = me(canary);
        connection.send(format!("{register}{me}{me}{register}{me}"));
        for _ in 0..5 {
            assert_eq!(connection.status(), 200);
        }
    });
    sent.add(socket, "in pieces", |connection, canary| {
        connection.send_in_pieces(with_length(&body("in pieces", canary)), 23);
        assert_eq!(connection.status(), 200);
        connection.send_in_pieces(me(canary), 11);
        assert_eq!(connection.status(), 200);
        connection.send_in_pieces(me(canary) + &me(canary), 150);
        assert_eq!([connection.status(), connection.status()], [200, 200]);
    });
    sent.add(socket, "chunked in pieces", |connection, canary| {
        let request = chunked(&body("chunked in pieces", canary), 50);
        connection.send_in_pieces(request, 31);
        assert_eq!(connection.status(), 200);
    });
    sent
}

/// Removes each session, alternately by its token in the path and in the head.
pub(super) fn remove_each(socket: &Path, stored: &Sent) -> Sent {
    let mut removed = Sent::new();
    for (number, (_, canary)) in stored.canaries.iter().enumerate() {
        let mut connection = Connection::open(socket);
        match number % 3 {
            0 => connection.send(as_session("DELETE /v1/sessions/me", canary)),
            1 => connection.send(format!(
                "DELETE /v1/sessions/{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                canary.token()
            )),
            _ => connection.send_in_pieces(
                format!(
                    "DELETE http://localhost/v1/sessions/{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
                    canary.token().to_uppercase()
                ),
                17,
            ),
        }
        assert_eq!(connection.status(), 200);
        removed.connections.push(connection);
    }
    removed
}

/// Changes a registration so that it is refused, or loses its key.
type Change = fn(Value) -> String;

const REFUSED: &[(&str, u16, Change)] = &[
    ("too many", 429, |body| body.to_string()),
    ("not JSON", 400, |body| format!("{body}x")),
    ("a bad pid", 422, |body| with("pid", json!("x"), body)),
    ("a bad field", 422, |body| with("cwd", json!(1), body)),
    ("a dead process", 422, |body| {
        with("pid", json!(4_194_304), body)
    }),
    ("bad presence", 429, |mut body| {
        body["presence"]["session_pubkey"] = json!(1);
        body.to_string()
    }),
    ("a duplicate", 422, |body| {
        let again = format!("{{\"token\":{},", body["token"]);
        body.to_string().replacen('{', &again, 1)
    }),
    ("a token with escapes", 422, |body| {
        let token = body["token"].as_str().unwrap();
        let escaped = format!("{}\\u{:04x}", &token[..63], token.as_bytes()[63]);
        body.to_string().replace(token, &escaped)
    }),
    ("a key with escapes", 429, |body| {
        let key = body["presence"]["session_secret_key"].as_str().unwrap();
        let escaped = format!("{}\\u{:04x}", &key[..127], key.as_bytes()[127]);
        body.to_string().replace(key, &escaped)
    }),
];

fn with(field: &str, value: Value, mut body: Value) -> String {
    body[field] = value;
    body.to_string()
}

/// Sends requests that are refused, to a daemon whose table is full.
pub(super) fn refuse(socket: &Path, pid: u32) -> Sent {
    let mut sent = Sent::new();
    // Unoptimized code of `memchr` leaves what it has searched on the stack, where serde finds the line of
    // an error. Here that begins with the token.
    let is_checked = |name: &str| !cfg!(debug_assertions) || name != "a duplicate";
    for (name, status, change) in REFUSED.iter().filter(|(name, ..)| is_checked(name)) {
        sent.add(socket, name, |connection, canary| {
            let body = change(canary.registration(name, pid));
            connection.send(with_length(&body));
            assert_eq!(connection.status(), *status, "{name}");
        });
    }
    refuse_heads(socket, &mut sent);
    sent
}

fn refuse_heads(socket: &Path, sent: &mut Sent) {
    let host = "Host: localhost\r\n";
    for (name, status, head) in [
        (
            "unknown",
            401,
            "GET /v1/sessions/me HTTP/1.1\r\nHOSTAuthorization: ClaudeMesh-Session TOKEN\r\n",
        ),
        (
            "another scheme",
            401,
            "GET /v1/sessions/me HTTP/1.1\r\nHOSTAuthorization: Bearer TOKEN\r\n",
        ),
        (
            "malformed",
            401,
            "GET /v1/sessions/me HTTP/1.1\r\nHOSTAuthorization: ClaudeMesh-Session TOKEN0\r\n",
        ),
        (
            "in the query",
            400,
            "GET /v1/sessions/me?token=TOKEN HTTP/1.1\r\nHOST",
        ),
        (
            "unknown in the path",
            404,
            "DELETE /v1/sessions/TOKEN HTTP/1.1\r\nHOST",
        ),
        (
            "another method",
            404,
            "GET /v1/sessions/TOKEN HTTP/1.1\r\nHOST",
        ),
        ("another path", 404, "GET /TOKEN/x HTTP/1.1\r\nHOST"),
        (
            "two",
            400,
            "GET / HTTP/1.1\r\nHOSTAuthorization: a\r\nAuthorization: TOKEN\r\n",
        ),
        (
            "an origin",
            403,
            "GET / HTTP/1.1\r\nHOSTOrigin: null\r\nAuthorization: ClaudeMesh-Session TOKEN\r\n",
        ),
        (
            "a bad field name",
            400,
            "GET / HTTP/1.1\r\nHOSTAuthorization : ClaudeMesh-Session TOKEN\r\n",
        ),
        ("a bad target", 400, "GET x/TOKEN HTTP/1.1\r\nHOST"),
    ] {
        sent.add(socket, name, |connection, canary| {
            let head = head.replace("HOST", host).replace("TOKEN", &canary.token());
            connection.send(head + "\r\n");
            assert_eq!(connection.status(), status, "{name}");
        });
    }
}

/// Closes connections in the middle of a request.
pub(super) fn cut(socket: &Path) -> Sent {
    let mut sent = Sent::new();
    for part in [50, 90] {
        for (name, whole) in [
            ("head", me as fn(&Canary) -> String),
            ("body", |canary| {
                with_length(&canary.registration("cut", 1).to_string())
            }),
            ("chunks", |canary| {
                chunked(&canary.registration("cut", 1).to_string(), 99)
            }),
        ] {
            sent.add(
                socket,
                &format!("{part} % of {name}"),
                |connection, canary| {
                    let whole = whole(canary);
                    connection.send_in_pieces(&whole[..whole.len() * part / 100], 80);
                },
            );
        }
    }
    sent.connections.clear();
    sent
}

struct Connection(UnixStream);

impl Connection {
    fn open(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self(stream)
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    /// Sends in pieces that arrive one by one: each is read before the next one is sent.
    fn send_in_pieces(&mut self, bytes: impl AsRef<[u8]>, size: usize) {
        for piece in bytes.as_ref().chunks(size) {
            self.send(piece);
            eventually("the daemon has read the piece", || {
                unread_by_peer(self.0.as_fd()).unwrap() == 0
            });
        }
    }

    /// Reads one response and returns its status.
    fn status(&mut self) -> u16 {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap();
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        head[9..12].parse().unwrap()
    }
}
