//! `POST /v1/daemon/replace`: another process asks to take this daemon's place. For root and the
//! daemon's own user only, because that process gets everything, secrets included.

use std::sync::Arc;

use hyper::Response;
use hyper::http::request;

use super::{App, Peer};
use crate::daemon::carried::TABLE_FORMAT;
use crate::daemon::handover::Hold;
use crate::daemon::handover::message::FORMAT;
use crate::daemon::handover::take::{Asked, Granted};
use crate::daemon::http::body::{ResponseBody, json};
use crate::daemon::http::problem::{Code, Problem};

/// The path of the route.
pub(super) const PATH: &str = "/v1/daemon/replace";

/// Marks the connection as that of the successor. The hand-over begins once the response is written.
pub(super) fn replace(
    app: &Arc<App>,
    peer: Peer,
    head: &request::Parts,
    body: &[u8],
) -> Result<Response<ResponseBody>, Problem> {
    let own_uid = rustix::process::geteuid().as_raw();
    if !peer.is_root() && peer.uid != own_uid {
        return Err(Problem::new(
            Code::ReplaceNotAllowed,
            Code::ReplaceNotAllowed,
            format!("only user {own_uid} and root may replace this daemon"),
        ));
    }
    let asked: Asked = serde_json::from_slice(body).map_err(|_malformed| {
        Problem::new(
            Code::InvalidJson,
            "Error: invalid_json",
            "the body is not {\"format\": N, \"tableFormat\": N}",
        )
    })?;
    if asked.format != FORMAT || asked.table_format < TABLE_FORMAT {
        return Err(Problem::new(
            Code::OtherFormat,
            Code::OtherFormat,
            format!(
                "this daemon hands over in format {FORMAT} with sessions in format {TABLE_FORMAT}, \
                 and the successor reads formats {} and {}; stop this daemon and start the other",
                asked.format, asked.table_format
            ),
        ));
    }
    // Last: the process that connected must be the one that gets everything.
    peer.check_alive(app.table.as_ref())?;
    let hold = head.extensions.get::<Hold>();
    let ticket = hold.and_then(|hold| Some((hold, app.handovers.begin(peer.pid)?)));
    let Some((hold, ticket)) = ticket else {
        return Err(Problem::new(
            Code::ReplaceInProgress,
            Code::ReplaceInProgress,
            "another process is about to replace this daemon",
        ));
    };
    hold.give_ticket(ticket);
    Ok(json(&Granted { ok: true }))
}
