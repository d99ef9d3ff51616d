//! The lists of sessions, which are read in pages.

use hyper::Method;
use hyper::body::Bytes;
use serde::de::DeserializeOwned;

use super::reading::Page;
use super::{Client, ClientError, MAX_PAGE, percent_encode};

/// How many sessions are read at once.
pub(super) const PAGE: usize = 1_000;

impl Client {
    /// Returns the live sessions that the caller may see, in order of registration. `filter` is empty or
    /// a query such as `mesh=dev&uid=1000`, without `limit` and `after`.
    ///
    /// Reads them in pages, so that neither the length of the list nor the time for all of it is limited.
    /// A session that ends or begins meanwhile may be absent.
    pub async fn sessions<T: DeserializeOwned>(&self, filter: &str) -> Result<Vec<T>, ClientError> {
        self.pages("/v1/sessions", filter).await
    }

    /// Returns the sessions that have ended and that the caller may see, the last one first. `filter` is as
    /// in [`Self::sessions`], and may have `since=SEQ`.
    pub async fn ended_sessions<T: DeserializeOwned>(
        &self,
        filter: &str,
    ) -> Result<Vec<T>, ClientError> {
        self.pages("/v1/sessions/ended", filter).await
    }

    async fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        filter: &str,
    ) -> Result<Vec<T>, ClientError> {
        let mut sessions = Vec::new();
        let mut after = String::new();
        loop {
            let target = format!("{path}?{filter}&limit={PAGE}{after}");
            let mut page: Page<T> = self
                .json_within(MAX_PAGE, Method::GET, &target, None, Bytes::new())
                .await?;
            page.check(sessions.len(), PAGE)?;
            sessions.append(&mut page.sessions);
            match page.next {
                Some(next) => after = format!("&after={}", percent_encode(&next)),
                None => return Ok(sessions),
            }
        }
    }
}
