//! Decides who is served, before anything else is done for a connection.
//!
//! A user who is not allowed costs one `accept`, one look at the credentials that the kernel keeps for
//! the socket, and one write of an error that was built at start. No slot of the connection budget is
//! taken, nothing is read from the connection, and no file of `/proc` is opened.

use std::sync::Arc;

use reaper_registry::StartTime;
use tokio::net::UnixStream;

use super::peer_pin::{PeerPin, Pinning};
use super::stream::ClientStream;
use super::{Peer, PidNs, Transport};
use crate::daemon::config::DaemonOptions;
use crate::daemon::handover::message::Pin;
use crate::daemon::http::problem::{Code, Problem};
use crate::daemon::log::refusals;
use crate::daemon::tcp::Door;
use crate::sys::process_table::ProcessTable;

/// The rule for connections.
pub(crate) struct Admission {
    own_uid: u32,
    uids: Vec<u32>,
    group: Option<u32>,
    pinning: Pinning,
    table: Arc<dyn ProcessTable>,
    /// The whole response to users who are not served.
    refusal: Vec<u8>,
}

impl Admission {
    pub(super) fn new(options: &DaemonOptions, table: Arc<dyn ProcessTable>) -> Self {
        let own_uid = rustix::process::geteuid().as_raw();
        Self {
            own_uid,
            uids: options.allow_uids.clone(),
            group: options.socket_group,
            pinning: Pinning::new(table.as_ref()),
            table,
            refusal: refusal(own_uid, options),
        }
    }

    /// Returns the connection and its peer, if the user is served. Otherwise sends the error and
    /// closes the connection.
    pub(super) fn admit(
        &self,
        stream: ClientStream,
        tcp: Option<&Door>,
    ) -> Option<(ClientStream, Peer)> {
        match stream {
            ClientStream::Unix(stream) => {
                let (stream, peer) = self.admit_unix(stream)?;
                Some((ClientStream::Unix(stream), peer))
            }
            ClientStream::Tcp(_) => Some((stream, Peer::over_tcp(tcp?.public_health))),
        }
    }

    fn admit_unix(&self, stream: UnixStream) -> Option<(UnixStream, Peer)> {
        let credentials = stream
            .peer_cred()
            .inspect_err(|error| log::warn!("cannot read the credentials of a peer: {error}"))
            .ok()?;
        let uid = credentials.uid();
        if !self.serves(uid) && !self.serves_group(&stream, credentials.gid()) {
            refusals::note(uid, Code::UserNotAllowed.name());
            // The socket does not block, and its buffer is empty and larger than the error. A peer
            // that has left already needs none.
            rustix::io::write(&stream, &self.refusal).unwrap_or_default();
            return None;
        }
        let pid = credentials.pid();
        let peer = Peer {
            transport: Transport::Unix,
            uid,
            pid,
            pid_ns: PidNs::NotNow,
            pin: self.pinning.take(&stream, pid, self.table.as_ref()),
        };
        Some((stream, peer))
    }

    /// As [`Self::admit`], for a connection that the former daemon has accepted and pinned. It is closed
    /// without a response if its user is not served any more, because it has no request.
    pub(super) fn take(
        &self,
        stream: ClientStream,
        pin: Pin,
        tcp: Option<&Door>,
    ) -> Option<(ClientStream, Peer)> {
        let ClientStream::Unix(stream) = stream else {
            return Some((stream, Peer::over_tcp(tcp?.public_health)));
        };
        let credentials = stream.peer_cred().ok()?;
        let uid = credentials.uid();
        if !self.serves(uid) && !self.serves_group(&stream, credentials.gid()) {
            return None;
        }
        let pid = credentials.pid();
        let pin = match pin {
            Pin::PidfdInode(inode) => PeerPin::PidfdInode(inode),
            Pin::StartTime(ticks) => PeerPin::StartTime(StartTime(ticks)),
            Pin::Ended => PeerPin::Ended,
            Pin::Open => self.pinning.take(&stream, pid, self.table.as_ref()),
        };
        let peer = Peer {
            transport: Transport::Unix,
            uid,
            pid,
            pid_ns: PidNs::NotNow,
            pin,
        };
        Some((ClientStream::Unix(stream), peer))
    }

    fn serves(&self, uid: u32) -> bool {
        uid == self.own_uid || uid == 0 || self.uids.contains(&uid)
    }

    /// Returns whether the peer was a member of the socket's group when it connected.
    fn serves_group(&self, stream: &UnixStream, primary: u32) -> bool {
        let Some(group) = self.group else {
            return false;
        };
        primary == group || supplementary_groups(stream).contains(&group)
    }
}

/// Returns the supplementary groups of the peer; none where the system does not report them.
#[cfg(target_os = "linux")]
fn supplementary_groups(stream: &UnixStream) -> Vec<u32> {
    crate::sys::peer_socket::groups(stream).unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
fn supplementary_groups(_stream: &UnixStream) -> Vec<u32> {
    Vec::new()
}

fn refusal(own_uid: u32, options: &DaemonOptions) -> Vec<u8> {
    let uids = options
        .allow_uids
        .iter()
        .filter(|uid| ![0, own_uid].contains(uid));
    let mut served: Vec<_> = [own_uid]
        .iter()
        .chain(uids)
        .map(|uid| format!("user {uid}"))
        .collect();
    if own_uid != 0 {
        served.push("root".to_owned());
    }
    served.extend(
        options
            .socket_group
            .map(|group| format!("members of group {group}")),
    );
    let detail = format!(
        "this daemon does not serve this user; it serves {}. To change this, start it with \
         --allow-uid USER or --socket-group GROUP",
        served.join(", ")
    );
    let body = Problem::new(Code::UserNotAllowed, Code::UserNotAllowed, detail).to_json();
    let mut response = format!(
        "HTTP/1.1 403 Forbidden\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    response.extend(body);
    response
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::sys::process_table;

    fn admission(change: impl FnOnce(&mut DaemonOptions)) -> Admission {
        let mut options = DaemonOptions::on("/s");
        change(&mut options);
        Admission::new(&options, process_table::of_this_system())
    }

    /// A connection of this process, and its other end.
    fn connection() -> (UnixStream, std::os::unix::net::UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (UnixStream::from_std(ours).unwrap(), theirs)
    }

    #[tokio::test]
    async fn a_refused_user_gets_one_complete_error_and_the_end_of_the_connection() {
        let mut admission = admission(|options| options.allow_uids = vec![7]);
        // As if this process belonged to a user who is not served.
        let own_uid = std::mem::replace(&mut admission.own_uid, 8);
        if own_uid == 0 {
            crate::testing::skip_without("unprivileged", "root is always served");
            return;
        }
        let (ours, mut theirs) = connection();
        assert!(admission.admit_unix(ours).is_none());
        let mut response = String::new();
        theirs.read_to_string(&mut response).unwrap();
        assert!(response.starts_with("HTTP/1.1 403 "), "{response}");
    }

    #[test]
    fn the_error_names_who_is_served_and_what_to_change() {
        let admission = admission(|options| {
            options.allow_uids = vec![7];
            options.socket_group = Some(9);
        });
        let text = String::from_utf8(admission.refusal).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{head}"
        );
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["code"], "user_not_allowed");
        let detail = body["detail"].as_str().unwrap();
        for part in [
            "user 7",
            "members of group 9",
            "--allow-uid",
            "--socket-group",
        ] {
            assert!(detail.contains(part), "{detail}");
        }
    }

    #[tokio::test]
    async fn members_of_the_group_are_served() {
        let own = rustix::process::getegid().as_raw();
        let (ours, _theirs) = connection();
        let groups = supplementary_groups(&ours);
        for group in groups.into_iter().chain([own]) {
            let admission = admission(|options| options.socket_group = Some(group));
            assert!(admission.serves_group(&ours, own), "{group}");
        }
        let admission = admission(|options| options.socket_group = Some(4_000_000));
        assert!(!admission.serves_group(&ours, own));
    }
}
