//! `GET /v1/sessions`: the sessions that the caller may see, as one text. A reader that takes its time
//! has it wait here, so there is room for so much of it and no more.

use std::sync::Arc;

use hyper::body::Bytes;
use hyper::{Response, StatusCode};
use reaper_registry::Session;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::{Answer, whole};
use super::problem::Problem;
use super::wire::SessionView;
use super::{App, Peer, health, query, sse};

/// Sessions written between two pauses: a list of 100,000 must not hold up a look-up.
const SLICE: usize = 512;
/// Lists that are written at once, which takes milliseconds; others wait for their turn.
const WRITERS: usize = 4;
/// Lists that wait for their readers, all together. A longer one takes all the room there is.
const ROOM_KIB: u32 = 64 * 1_024;

/// What lists may cost at once.
pub(crate) struct Room {
    writers: Semaphore,
    kib: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            writers: Semaphore::new(WRITERS),
            kib: Arc::new(Semaphore::new(ROOM_KIB as usize)),
        }
    }
}

impl Room {
    fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(bytes / 1_024 + 1).unwrap_or(ROOM_KIB);
        let taken = self.kib.clone().try_acquire_many_owned(kib.min(ROOM_KIB));
        taken.ok()
    }
}

/// A list and its place, given back when the last of it is sent or its connection has ended.
struct Placed {
    text: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

pub(super) async fn list(
    app: &App,
    peer: Peer,
    query: Option<&str>,
) -> Result<Response<Answer>, Problem> {
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
    let turn = app.lists.writers.acquire().await;
    let _turn = turn.expect("the semaphore is never closed");
    let text = written(app, is_verbose, shown).await;
    let place = app.lists.take(text.len());
    let body = Bytes::from_owner(Placed {
        text,
        _place: place.ok_or_else(Problem::too_many_lists)?,
    });
    Ok(whole(StatusCode::OK, "application/json", body))
}

async fn written(app: &App, is_verbose: bool, shown: impl Fn(&Arc<Session>) -> bool) -> Vec<u8> {
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
