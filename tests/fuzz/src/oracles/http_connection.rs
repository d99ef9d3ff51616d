//! A whole connection as the daemon serves it: framing filter, hyper, request policy. Hyper must hand on
//! exactly the requests that a second parser finds up to the first bad one, and every response must be
//! ours: a refusal of hyper's has no body that gives the reason. Tokens and bodies come beside hyper,
//! which must not see them.

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
use reaperd::fuzzing::{
    BodyFraming, Chunks, HEAD_MAX, REFUSAL_FIELD, Refusal, RequestSecrets, check_policy, filtered,
    scan,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http_head::{SecondOpinion, chunks};

/// Far more than any of these connections takes: none of them waits for a peer.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// How often the peer is polled after its last byte before it closes. Hyper drops a request whose peer
/// closes at once, so at least one is needed for the response; the others are a margin.
const POLLS_BEFORE_CLOSE: u8 = 8;

/// The largest body that is kept.
const BODY_MAX: usize = 64 * 1_024;

/// The first byte chooses the size of the pieces in which the rest arrives.
pub fn http_connection(bytes: &[u8]) {
    let Some((&piece, stream)) = bytes.split_first() else {
        return;
    };
    let (seen, written) = serve(stream, usize::from(piece).max(1));
    let expected = expected(stream);
    for (seen, expected) in seen.iter().zip(&expected) {
        let target = with_blanks_of(&seen.target, &expected.target);
        assert_eq!(
            Seen {
                target,
                ..seen.clone()
            },
            *expected
        );
    }
    assert!(seen.len() <= expected.len(), "hyper sees more: {seen:?}");
    if let Some(missing) = expected.get(seen.len()) {
        let may_end_here = seen
            .last()
            .is_some_and(|last| last.may_close || last.body.is_none());
        assert!(may_end_here, "hyper does not see {missing:?}");
    }
    every_response_is_ours(&written, seen.len());
}

/// The target that was sent, where only its blanks differ from what hyper sees.
fn with_blanks_of(seen: &str, sent: &str) -> String {
    let is_same = |(seen, sent): (u8, u8)| seen == sent || seen == b'*';
    if seen.len() == sent.len() && seen.bytes().zip(sent.bytes()).all(is_same) {
        return sent.to_owned();
    }
    seen.to_owned()
}

/// A request, or the mark of a refusal in its place.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    method: String,
    target: String,
    refusal: Option<Refusal>,
    /// `None` where its end never came.
    body: Option<Vec<u8>>,
    /// Whether the connection may end behind it.
    may_close: bool,
}

/// What a second parser finds, up to the first head that the framing filter refuses.
fn expected(stream: &[u8]) -> Vec<Seen> {
    let mut requests = Vec::new();
    let mut rest = stream;
    loop {
        let window = &rest[..rest.len().min(HEAD_MAX)];
        let refusal = match scan(window, &mut 0) {
            Ok(Some((length, framing))) => {
                let head = SecondOpinion::of(window).expect("the second parser accepts it too");
                let (mut body, behind) = body(framing, &rest[length..]);
                if let Some(too_much) = body.as_mut().and_then(|body| body.get_mut(BODY_MAX..)) {
                    too_much.fill(b' ');
                }
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
    uri.expect("hyper accepts every target that the filter does")
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
        BodyFraming::Chunked => match (
            Chunks::new().walk(&mut rest.to_vec(), |_data| {}),
            chunks(rest),
        ) {
            (Ok((_, true)), Some((data, end))) => {
                let body = data.into_iter().flat_map(|range| &rest[range]).copied();
                (Some(body.collect()), &rest[end..])
            }
            _ => (None, rest),
        },
    }
}

/// Serves the stream to its end; returns the requests that came through and what was written.
fn serve(stream: &[u8], piece: usize) -> (Vec<Seen>, Vec<u8>) {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a timer needs no system resource");
    }
    let seen = RefCell::new(Vec::new());
    let mut wire = Wire {
        arriving: stream,
        piece,
        polls_left: POLLS_BEFORE_CLOSE,
        written: Vec::new(),
    };
    let (filtered, secrets) = filtered(&mut wire);
    let service = service_fn(async |request| {
        Ok::<_, Infallible>(respond(request, secrets.next(), &seen).await)
    });
    let connection = http1::Builder::new()
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(filtered), service);
    RUNTIME.with(|runtime| {
        let ended = runtime.block_on(async { tokio::time::timeout(TIME_LIMIT, connection).await });
        // Most end in an error, because most bytes are no whole request.
        drop(ended.expect("the connection waits for something"));
    });
    (seen.into_inner(), wire.written)
}

/// Records a request before its body is read, because a broken body may end the connection at once.
async fn respond(
    request: Request<Incoming>,
    secrets: RequestSecrets,
    seen: &RefCell<Vec<Seen>>,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let refusal = head.headers.get(REFUSAL_FIELD);
    let refusal = refusal.map(|code| Refusal::from_code(code.as_bytes()).expect("one of ours"));
    if refusal.is_none() {
        policy_holds(&head);
        no_token_is_visible(&head);
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
    seen.borrow_mut()[at].body = body.ok().map(|blanks| {
        let (blanks, body) = (blanks.to_bytes(), secrets.body());
        assert!(blanks.iter().all(|byte| *byte == b' '));
        assert_eq!(blanks.len().min(BODY_MAX), body.len());
        // The rest of a body that is too large is not kept.
        [&body, &blanks[body.len()..]].concat()
    });
    let mut response = Response::new(Full::from("ours"));
    *response.status_mut() = StatusCode::IM_A_TEAPOT;
    response
}

/// A request that the policy accepts has no origin, and its host contains nothing that ends a host.
fn policy_holds(head: &request::Parts) {
    match check_policy(head) {
        Ok(()) => {
            let field = |name| head.headers.get(name).map_or(&b""[..], |it| it.as_bytes());
            assert!(field("origin").is_empty());
            let ends_it = |byte: &u8| byte.is_ascii_whitespace() || b"/?#@\\".contains(byte);
            assert!(!field("host").iter().any(ends_it));
        }
        Err(problem) => {
            assert!(serde_json::from_slice::<serde_json::Value>(&problem.json).is_ok());
            assert!((400..500).contains(&problem.status));
        }
    }
}

/// Only a session id may look like a token.
fn no_token_is_visible(head: &request::Parts) {
    for value in head.headers.get_all("authorization") {
        assert!(value.as_bytes().iter().all(|byte| b"* \t".contains(byte)));
    }
    let path = head.uri.path();
    let mut runs = path.split(|byte: char| !byte.is_ascii_hexdigit());
    assert!(path.starts_with("/v1/sessions/by-id/") || runs.all(|run| run.len() < 64));
}

fn every_response_is_ours(written: &[u8], requests: usize) {
    let mut ours = 0;
    for at in (0..written.len()).filter(|at| written[*at..].starts_with(b"HTTP/1.")) {
        let status = &written[at..][8..13];
        match status {
            b" 418 " => ours += 1,
            b" 100 " => {}
            _ => panic!("hyper responds on its own: {}", written.escape_ascii()),
        }
    }
    assert!(ours <= requests);
}

/// A peer whose bytes arrive in pieces, that reads everything that is written, and closes after some
/// polls.
struct Wire<'a> {
    arriving: &'a [u8],
    piece: usize,
    polls_left: u8,
    written: Vec<u8>,
}

impl AsyncRead for &mut Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.arriving.is_empty() && self.polls_left > 0 {
            self.polls_left -= 1;
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
