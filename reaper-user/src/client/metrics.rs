//! The metrics of the daemon, which are no JSON.

use hyper::Method;
use hyper::body::Bytes;

use super::{Client, ClientError, MAX_PAGE, problem, whole_body};

impl Client {
    /// Returns the metrics of the daemon in Prometheus's text format (version 0.0.4).
    pub async fn metrics(&self) -> Result<String, ClientError> {
        self.limited(async {
            let sent = self.send(Method::GET, "/metrics", None, Bytes::new());
            let response = sent.await?;
            if !response.status().is_success() {
                return Err(problem(response).await?);
            }
            let body = whole_body(response.into_body(), MAX_PAGE).await?;
            String::from_utf8(body.into()).map_err(|error| ClientError::Protocol {
                detail: format!("unexpected response to /metrics: {error}"),
            })
        })
        .await
    }
}
