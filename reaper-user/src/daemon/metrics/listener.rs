//! The page of metrics over TCP, for a Prometheus that cannot read a Unix socket: `--metrics-listen`.
//!
//! It serves `GET /metrics` and nothing else. It reads no token, knows no user, and takes connections
//! from no budget of the other clients: few at a time, each for one request and a limited time.
//!
//! On an address of the loopback interface, `Host` must name that interface. Otherwise a page in a
//! browser could read the metrics under a name of its own that leads here.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::http::request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Route;
use crate::daemon::api::{App, Transport, metrics};
use crate::daemon::http::body::{ResponseBody, problem};
use crate::daemon::http::framing::{FramingFilter, REFUSAL_FIELD, Refusal};
use crate::daemon::http::policy;
use crate::daemon::http::problem::Problem;
use crate::daemon::http::secrets::{Claim, SecretQueue};
use crate::daemon::tcp::BoundListener;

/// How many connections are served at the same time. `fd_budget.rs` reserves their descriptors.
const AT_ONCE: usize = 2;
/// How long one connection may take, from its begin to its end.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// The pause after a failed accept, for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Prepares the listening socket to be served. Must be called within a tokio runtime.
pub(crate) fn open(bound: BoundListener) -> Option<TcpListener> {
    bound
        .open()
        .inspect_err(|error| log::error!("metrics are not served over TCP: {error}"))
        .ok()
}

/// Serves the listener of the daemon, if it has one, until `stop` turns true.
pub(crate) async fn serve(app: Arc<App>, mut stop: watch::Receiver<bool>) {
    let Some(listener) = &app.metrics_listener else {
        return;
    };
    let served = serve_all(&app, listener);
    let mut served = pin!(served);
    tokio::select! {
        Err(error) = &mut served => log::error!("metrics are not served over TCP: {error}"),
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

async fn serve_all(app: &Arc<App>, listener: &TcpListener) -> io::Result<Infallible> {
    let address = listener.local_addr()?;
    let is_local = address.ip().is_loopback();
    if is_local {
        log::info!("metrics on http://{address}/metrics");
    } else {
        log::warn!(
            "metrics on http://{address}/metrics: every host that reaches this address can read them"
        );
    }
    let transport = Transport::Metrics { is_local };
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= AT_ONCE {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(app.clone(), stream, transport));
            }
            Err(error) => {
                log::debug!("cannot accept a connection for metrics: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one request.
async fn connection(app: Arc<App>, stream: TcpStream, transport: Transport) {
    let secrets = SecretQueue::new(app.reaper.registry().clone());
    let io = FramingFilter::new(stream, secrets.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        // What was presented is dropped: it has no meaning here.
        drop(secrets.next());
        let response = respond(&app, &request.into_parts().0, transport);
        async move { Ok::<_, Infallible>(response) }
    });
    let serving = http1::Builder::new()
        .keep_alive(false)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(io), service);
    match timeout(TIME_LIMIT, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a connection for metrics ended: {error}"),
        Err(_elapsed) => log::debug!("a connection for metrics took too long"),
    }
}

fn respond(app: &Arc<App>, head: &request::Parts, transport: Transport) -> Response<ResponseBody> {
    let route = match Route::of(&head.method, head.uri.path()) {
        Route::Metrics => Route::Metrics,
        _ => Route::Other,
    };
    let refused = head.headers.get(REFUSAL_FIELD);
    let refused = refused.and_then(|code| Refusal::from_code(code.as_bytes()));
    let checked = match refused {
        Some(refusal) => Err(Problem::from(refusal)),
        None => policy::check(head, transport, Claim::None),
    };
    let mut response = match checked {
        Ok(_) if route == Route::Metrics => metrics::metrics(app, head, false),
        Ok(_) => problem(&Problem::not_found()),
        Err(refused) => problem(&refused),
    };
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    app.counters.responded(route, &response);
    response
}
