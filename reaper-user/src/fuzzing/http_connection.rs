//! A whole connection, as the daemon serves it up to the gate: guard, hyper, gate. Hyper must hand on
//! exactly the requests that a second reader finds up to the first bad one, and every answer must be
//! ours: what hyper refuses by itself has no body that says why.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::http::request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http_head::{SecondOpinion, chunks};
use crate::daemon::api::Transport;
use crate::daemon::http::framing::chunks::Chunks;
use crate::daemon::http::framing::head::{BodyFraming, HEAD_MAX, REFUSAL_FIELD, Refusal};
use crate::daemon::http::framing::{FramingFilter, scan};
use crate::daemon::http::policy::{self, Claim};

/// Far more than any of these connections takes: none of them waits for anybody.
const LONGEST: Duration = Duration::from_secs(20);

/// How often a peer looks for an answer after its last byte. Hyper drops a request whose peer leaves at
/// once, so there must be one turn for it to be answered; the others are for good measure.
const TIMEOUT: u8 = 8;

/// The first byte says in what pieces the rest arrives.
pub fn http_connection(bytes: &[u8]) {
    let Some((&piece, stream)) = bytes.split_first() else {
        return;
    };
    let (seen, written) = serve(stream, usize::from(piece).max(1));
    let expected = expected(stream);
    for (seen, expected) in seen.iter().zip(&expected) {
        assert_eq!(seen, expected);
    }
    assert!(seen.len() <= expected.len(), "hyper sees more: {seen:?}");
    if let Some(missing) = expected.get(seen.len()) {
        let may_end_here = seen
            .last()
            .is_some_and(|last| last.may_close || last.body.is_none());
        assert!(may_end_here, "hyper does not see {missing:?}");
    }
    every_answer_is_ours(&written, seen.len());
}

/// A request, or the mark of a refusal in its place.
#[derive(Debug, PartialEq)]
struct Seen {
    method: String,
    target: String,
    refusal: Option<Refusal>,
    /// `None` where its end never came.
    body: Option<Vec<u8>>,
    /// Whether the connection may end behind it.
    may_close: bool,
}

/// What a second reader finds, up to the first head that the guard refuses.
fn expected(stream: &[u8]) -> Vec<Seen> {
    let mut requests = Vec::new();
    let mut rest = stream;
    loop {
        let window = &rest[..rest.len().min(HEAD_MAX)];
        let refusal = match scan(window, &mut 0) {
            Ok(Some((length, framing))) => {
                let head = SecondOpinion::of(window).expect("the second reader takes it too");
                let (body, behind) = body(framing, &rest[length..]);
                let is_whole = body.is_some();
                requests.push(Seen {
                    target: as_hyper_shows(&head.target),
                    refusal: None,
                    may_close: !head.is_1_1 || head.values("connection").next().is_some(),
                    method: head.method,
                    body,
                });
                if !is_whole {
                    return requests;
                }
                rest = behind;
                continue;
            }
            Ok(None) if window.len() < HEAD_MAX => return requests,
            Ok(None) => Refusal::HeadTooLarge,
            Err(refusal) => refusal,
        };
        requests.push(Seen {
            method: "GET".to_owned(),
            target: "/".to_owned(),
            refusal: Some(refusal),
            body: Some(Vec::new()),
            may_close: true,
        });
        return requests;
    }
}

/// A target in absolute form without a path gets one, and a fragment is cut off.
fn as_hyper_shows(target: &str) -> String {
    let uri = target.parse::<Uri>();
    uri.expect("hyper takes every target that the guard does")
        .to_string()
}

/// The body, and what lies behind it.
fn body(framing: BodyFraming, rest: &[u8]) -> (Option<Vec<u8>>, &[u8]) {
    match framing {
        BodyFraming::Length(length) => {
            let split = usize::try_from(length)
                .ok()
                .and_then(|length| rest.split_at_checked(length));
            split.map_or((None, rest), |(body, behind)| (Some(body.to_vec()), behind))
        }
        BodyFraming::Chunked => match (Chunks::new().walk(rest), chunks(rest)) {
            (Ok((_, true)), Some((data, end))) => {
                let body = data.into_iter().flat_map(|range| &rest[range]).copied();
                (Some(body.collect()), &rest[end..])
            }
            _ => (None, rest),
        },
    }
}

/// Serves the stream to its end; answers with what came through and what was written.
fn serve(stream: &[u8], piece: usize) -> (Vec<Seen>, Vec<u8>) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a timer needs nothing from the system");
    }
    let seen = RefCell::new(Vec::new());
    let mut wire = Wire {
        arriving: stream,
        piece,
        timeout: TIMEOUT,
        written: Vec::new(),
    };
    let service = service_fn(async |request| Ok::<_, Infallible>(answer(request, &seen).await));
    let connection = http1::Builder::new()
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(FramingFilter::new(&mut wire)), service);
    RUNTIME.with(|runtime| {
        let ended = runtime.block_on(async { tokio::time::timeout(LONGEST, connection).await });
        // Most end in an error, because most bytes are no whole request.
        drop(ended.expect("the connection waits for something"));
    });
    (seen.into_inner(), wire.written)
}

/// Notes a request before its body is read, because a broken body may end the connection at once.
async fn answer(request: Request<Incoming>, seen: &RefCell<Vec<Seen>>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let refusal = head.headers.get(REFUSAL_FIELD);
    let refusal = refusal.map(|code| Refusal::from_code(code.as_bytes()).expect("one of ours"));
    if refusal.is_none() {
        check_policy(&head);
    }
    let at = seen.borrow().len();
    seen.borrow_mut().push(Seen {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        may_close: head.version == Version::HTTP_10 || head.headers.contains_key("connection"),
        refusal,
        body: None,
    });
    let body = body.collect().await;
    seen.borrow_mut()[at].body = body.ok().map(|body| body.to_bytes().to_vec());
    let mut answer = Response::new(Full::from("ours"));
    *answer.status_mut() = StatusCode::IM_A_TEAPOT;
    answer
}

/// Who passes the gate has a host of this machine, and claims a token only if it gave that one.
fn check_policy(head: &request::Parts) {
    match policy::check(head, Transport::Unix) {
        Ok(claim) => {
            let host = head
                .headers
                .get("host")
                .map_or(&b""[..], |host| host.as_bytes());
            let name = host.split(|byte| *byte == b':').next().unwrap_or_default();
            assert!(
                host.starts_with(b"[::1]")
                    || matches!(
                        &*name.to_ascii_lowercase(),
                        b"" | b"localhost" | b"127.0.0.1"
                    )
            );
            if let Claim::Token(token) = claim {
                let given: Vec<_> = head.headers.get_all("authorization").iter().collect();
                let given = given[0].as_bytes().to_ascii_lowercase();
                assert!(given.ends_with(token.reveal().as_bytes()));
            }
        }
        Err(problem) => {
            let text = problem.to_json();
            assert!(serde_json::from_slice::<serde_json::Value>(&text).is_ok());
            assert!(problem.status().is_client_error());
        }
    }
}

fn every_answer_is_ours(written: &[u8], requests: usize) {
    let mut ours = 0;
    for at in (0..written.len()).filter(|at| written[*at..].starts_with(b"HTTP/1.")) {
        let status = &written[at..][8..13];
        match status {
            b" 418 " => ours += 1,
            b" 100 " => {}
            _ => panic!("hyper answers by itself: {}", written.escape_ascii()),
        }
    }
    assert!(ours <= requests);
}

/// A peer whose bytes arrive in pieces, who takes everything that is written, and leaves once it has
/// waited for a while.
struct Wire<'a> {
    arriving: &'a [u8],
    piece: usize,
    timeout: u8,
    written: Vec<u8>,
}

impl AsyncRead for &mut Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.arriving.is_empty() && self.timeout > 0 {
            self.timeout -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let piece = self.piece.min(out.remaining()).min(self.arriving.len());
        let (now, later) = self.arriving.split_at(piece);
        out.put_slice(now);
        self.arriving = later;

        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for &mut Wire<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
