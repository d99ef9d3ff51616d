//! Metrics: what the daemon counts of its requests, the page that shows it beside the state of the
//! registry and of the sources, and a TCP listener for that page.
//!
//! Nothing is kept twice: the page reads what the registry, the sources and the accounts have, when it is
//! requested. Only what would otherwise be lost is counted here, by one atomic addition each. A
//! histogram of the crate that writes the page would take a lock for each value, so the durations are
//! the engine's own ([`counters`](crate::watch::counters)).

pub(crate) mod listener;
pub(crate) mod page;
mod process;
mod refusals;

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::{Method, Response, StatusCode};

use crate::daemon::http::body::RefusedWith;
use crate::daemon::http::problem::Code;
use refusals::Refusals;

/// What the daemon counts of its requests and its history.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: [[AtomicU64; STATUSES.len()]; Route::ALL.len()],
    refusals: Refusals,
    /// Gaps that were sent to readers of events.
    pub(crate) gaps: AtomicU64,
    /// How often this process has taken over from one that ended, and the sessions that it got.
    pub(crate) restarts: AtomicU64,
    pub(crate) carried_over: AtomicU64,
}

/// The classes of statuses. The daemon sends no others.
const STATUSES: [&str; 3] = ["2xx", "4xx", "5xx"];

impl Counters {
    /// Counts a response, and why it refuses if it does.
    pub(crate) fn responded<B>(&self, route: Route, response: &Response<B>) {
        let class = class_of(response.status());
        self.requests[route as usize][class].fetch_add(1, Ordering::Relaxed);
        if let Some(RefusedWith(code)) = response.extensions().get() {
            self.refusals.add(*code);
        }
    }

    /// Counts a connection that was refused before a request was read.
    pub(crate) fn refused(&self, code: Code) {
        self.refusals.add(code);
    }

    /// Returns the number of responses by route and class of status.
    fn responses(&self) -> impl Iterator<Item = (Route, &'static str, u64)> {
        Route::ALL.into_iter().flat_map(|route| {
            let counters = STATUSES.into_iter().zip(&self.requests[route as usize]);
            counters.map(move |(class, it)| (route, class, it.load(Ordering::Relaxed)))
        })
    }
}

fn class_of(status: StatusCode) -> usize {
    match status.as_u16() {
        ..400 => 0,
        400..500 => 1,
        500.. => 2,
    }
}

/// Which kind of request it is: a label with few values, whatever clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Register,
    List,
    Ended,
    Resolve,
    Remove,
    Events,
    Limits,
    Sources,
    Health,
    Version,
    Metrics,
    Other,
}

impl Route {
    const ALL: [Self; 12] = [
        Self::Register,
        Self::List,
        Self::Ended,
        Self::Resolve,
        Self::Remove,
        Self::Events,
        Self::Limits,
        Self::Sources,
        Self::Health,
        Self::Version,
        Self::Metrics,
        Self::Other,
    ];

    /// Returns that of a request.
    pub(crate) fn of(method: &Method, path: &str) -> Self {
        match (method.as_str(), path) {
            ("POST", "/v1/sessions/register") => Self::Register,
            ("GET", "/v1/sessions") => Self::List,
            ("GET", "/v1/sessions/ended") => Self::Ended,
            ("GET", "/v1/sessions/me") => Self::Resolve,
            ("GET", "/v1/events") => Self::Events,
            ("GET", "/v1/limits") => Self::Limits,
            ("GET", "/v1/sources") => Self::Sources,
            ("GET", "/v1/health") => Self::Health,
            ("GET", "/v1/version") => Self::Version,
            ("GET", "/metrics") => Self::Metrics,
            ("DELETE", path) if path.starts_with("/v1/sessions/") => Self::Remove,
            _ => Self::Other,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::List => "list",
            Self::Ended => "ended",
            Self::Resolve => "resolve",
            Self::Remove => "remove",
            Self::Events => "events",
            Self::Limits => "limits",
            Self::Sources => "sources",
            Self::Health => "health",
            Self::Version => "version",
            Self::Metrics => "metrics",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_in_the_order_of_their_numbers() {
        for (at, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, at, "{route:?}");
        }
    }

    #[test]
    fn a_response_is_counted_by_route_class_and_reason() {
        let counters = Counters::default();
        let mut refused = Response::new(());
        *refused.status_mut() = StatusCode::NOT_FOUND;
        refused.extensions_mut().insert(RefusedWith(Code::NotFound));
        counters.responded(Route::of(&Method::GET, "/v1/x"), &refused);
        counters.responded(Route::of(&Method::GET, "/v1/health"), &Response::new(()));
        let counted: Vec<_> = counters
            .responses()
            .filter(|(.., count)| *count > 0)
            .collect();
        assert_eq!(
            counted,
            [(Route::Health, "2xx", 1), (Route::Other, "4xx", 1)]
        );
        let refusals: Vec<_> = counters
            .refusals
            .all()
            .filter(|(_, count)| *count > 0)
            .collect();
        assert_eq!(refusals, [("not_found", 1)]);
    }
}
