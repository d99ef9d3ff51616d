//! Whose sessions a request is about.

use super::Peer;
use crate::daemon::http::problem::Problem;
use crate::daemon::http::query;

impl Peer {
    /// Returns the user of `?uid=`, or else the caller's; `None` for root without `?uid=`, whose requests
    /// are about all users. Only root may name another user.
    pub(super) fn scope(self, query: Option<&str>) -> Result<Option<u32>, Problem> {
        let named = query::value(query, "uid")
            .map(|uid| uid.parse::<u32>())
            .transpose()
            .map_err(|_not_a_number| Problem::query("uid", "uid must be a number"))?;
        match named {
            Some(uid) if !self.sees(uid) => Err(Problem::other_user()),
            Some(uid) => Ok(Some(uid)),
            None if self.is_root() => Ok(None),
            None => Ok(Some(self.uid)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::api::peer_pin::PeerPin;
    use crate::daemon::api::{PidNs, Transport};

    #[test]
    fn only_root_may_name_another_user() {
        let scope = |uid, query| {
            let peer = Peer {
                transport: Transport::Unix,
                uid,
                pid: None,
                pid_ns: PidNs::Same,
                pin: PeerPin::None,
            };
            peer.scope(query).map_err(|refused| refused.code().name())
        };
        assert_eq!(scope(0, None), Ok(None));
        assert_eq!(scope(0, Some("uid=7")), Ok(Some(7)));
        assert_eq!(scope(7, None), Ok(Some(7)));
        assert_eq!(scope(7, Some("uid=7")), Ok(Some(7)));
        assert_eq!(scope(7, Some("uid=0")), Err("other_user"));
        assert_eq!(scope(0, Some("uid=-1")), Err("invalid_query"));
    }
}
