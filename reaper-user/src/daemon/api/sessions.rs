//! `GET /v1/sessions`: the sessions that the caller may see, as one text. Slow readers keep such
//! texts in memory, so their total is limited: 64 MiB, or two lists of more than half of that.

use std::sync::Arc;

use hyper::body::Bytes;
use hyper::{Response, StatusCode};
use reaper_registry::Session;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::wire::SessionView;
use super::{App, Peer, health, sse};
use crate::daemon::http::body::{ResponseBody, whole};
use crate::daemon::http::problem::Problem;
use crate::daemon::http::query;

/// Sessions written between two yields: a list of 100,000 must not delay a look-up.
const SLICE: usize = 512;
/// Lists that are written concurrently; others wait.
const WRITERS: usize = 4;
/// The budget of all lists that wait for their readers.
pub(super) const LIST_BUDGET_KIB: u32 = 64 * 1_024;
/// A longer list is charged no more, so that even the longest can be read, by two readers at once.
const CHARGED_MAX_KIB: u32 = LIST_BUDGET_KIB / 2;
/// Shorter lists are free: as much is buffered for any connection, and a user with few sessions
/// must not wait for one with many.
const FREE_KIB: u32 = 64;

/// The budget of concurrent lists.
pub(crate) struct ListBudget {
    writers: Semaphore,
    kib: Arc<Semaphore>,
}

impl Default for ListBudget {
    fn default() -> Self {
        Self {
            writers: Semaphore::new(WRITERS),
            kib: Arc::new(Semaphore::new(LIST_BUDGET_KIB as usize)),
        }
    }
}

impl ListBudget {
    /// Charges a list. Returns `None` if the budget is used up.
    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes / 1_024).unwrap_or(u32::MAX);
        let charged = match kib {
            ..FREE_KIB => 0,
            kib => kib.min(CHARGED_MAX_KIB),
        };
        self.kib.clone().try_acquire_many_owned(charged).ok()
    }
}

/// A list and its charge, which is released when it is sent or its connection has ended.
struct BudgetedBody {
    text: Vec<u8>,
    _charge: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for BudgetedBody {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

pub(super) async fn list(
    app: &App,
    peer: Peer,
    query: Option<&str>,
) -> Result<Response<ResponseBody>, Problem> {
    let pid = query::value(query, "pid")
        .map(|pid| pid.parse::<u32>())
        .transpose()
        .map_err(|_not_a_number| Problem::query("pid", "pid must be a number"))?;
    let mesh = query::value(query, "mesh");
    let is_verbose = query::value(query, "verbose").as_deref() == Some("1");
    let shown = |session: &Arc<Session>| {
        peer.sees(session.owner)
            && pid.is_none_or(|pid| session.process.pid.get() == pid)
            && mesh
                .as_deref()
                .is_none_or(|mesh| *session.details.mesh == *mesh)
    };
    let writer = app.lists.writers.acquire().await;
    let _writer = writer.expect("the semaphore is never closed");
    let mut text = write_list(app, is_verbose, shown).await;
    // Its capacity may be twice its length.
    text.shrink_to_fit();
    let charge = app.lists.take(text.len());
    let charge = charge.ok_or_else(Problem::too_many_lists)?;
    let body = Bytes::from_owner(BudgetedBody {
        text,
        _charge: charge,
    });
    Ok(whole(StatusCode::OK, "application/json", body))
}

async fn write_list(app: &App, is_verbose: bool, shown: impl Fn(&Arc<Session>) -> bool) -> Vec<u8> {
    let mut text = b"{\"sessions\":[".to_vec();
    let sessions = app.reaper.registry().list();
    let mut any_written = false;
    for slice in sessions.chunks(SLICE) {
        for session in slice.iter().filter(|session| shown(session)) {
            if any_written {
                text.push(b',');
            }
            any_written = true;
            let view = SessionView::new(session, app.reaper.identity_of(session));
            let view = if is_verbose {
                view.verified_at(health::verified_at(app, session))
            } else {
                view
            };
            sse::write_json(&mut text, &view);
        }
        tokio::task::yield_now().await;
    }
    text.extend_from_slice(b"]}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_lists_are_never_refused_and_two_of_the_longest_fit() {
        let budget = ListBudget::default();
        let longest = usize::MAX;
        let first = budget.take(longest);
        let second = budget.take(longest);
        assert!(first.is_some() && second.is_some());
        assert!(budget.take(longest).is_none());
        let free = FREE_KIB as usize * 1_024;
        assert!(budget.take(free).is_none());
        assert!(
            budget.take(free - 1).is_some(),
            "a short list must not be refused"
        );
        drop(first);
        assert!(budget.take(free).is_some(), "the charge must be released");
    }
}
