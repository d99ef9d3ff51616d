//! A request after which its connection is used for something else than HTTP.

use std::os::unix::net::UnixStream as StdUnixStream;

use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::speaks_first::SpeaksFirst;
use super::{Client, ClientError, MAX_RESPONSE, as_json, read_json, trusted_server};

impl Client {
    /// Sends a POST request, and returns the response with the connection. The daemon must send
    /// nothing more before it gets something that is no HTTP.
    pub(crate) async fn post_and_keep<T: DeserializeOwned>(
        &self,
        target: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<(T, StdUnixStream), ClientError> {
        let body = as_json(body)?;
        self.limited(async {
            let stream = self.connect(trusted_server::Request::Sensitive).await?;
            let io = TokioIo::new(SpeaksFirst::new(stream));
            let (mut sender, connection) = http1::handshake(io).await?;
            let request = Request::builder()
                .method(Method::POST)
                .uri(target)
                .header(HOST, "localhost")
                .header(CONTENT_TYPE, "application/json")
                .body(Full::new(body))
                .map_err(|error| ClientError::Protocol {
                    detail: error.to_string(),
                })?;
            let exchange = async move {
                // Dropped with its end, which ends the connection.
                let response = sender.send_request(request).await?;
                read_json(target, response, MAX_RESPONSE).await
            };
            let (response, parts) = tokio::join!(exchange, connection.without_shutdown());
            let response = response?;
            let stream = parts?.io.into_inner().into_inner();
            let stream = stream.into_std().map_err(|source| ClientError::Connect {
                path: self.socket.clone(),
                source,
            })?;
            Ok((response, stream))
        })
        .await
    }
}
