//! Requests over TCP, on the loopback interface. The kernel does not show who listens there, so each connection
//! begins with a proof: the server must know the bearer before it gets it.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, OFlags, open};
use serde::Deserialize;
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::trusted_server::{self, TrustedServer};
use super::{Client, ClientError, whole_body};
use crate::bearer::{self, FILE_NAME, Text};

/// The random bytes of a nonce.
const NONCE: usize = 16;
/// The longest response to the request for a proof.
const MAX_PROOF: usize = 4_096;
/// More than a bearer has.
const MAX_FILE: u64 = 256;

#[derive(Deserialize)]
struct Proof {
    proof: String,
}

impl Client {
    /// Sends requests over TCP to this address of the loopback interface, where the daemon listens with
    /// `--tcp`, instead of to the socket.
    ///
    /// On each connection the server first proves that it knows the bearer, and gets it then. The bearer is in
    /// the file `local-token` beside the path of the socket. The file must be accessible for its owner only:
    /// the caller, root, or the user given to [`Client::with_server_uid`].
    ///
    /// A session cannot be presented over TCP, and the daemon cannot see whether a response has arrived. So
    /// [`Client::get_as`], [`Client::delete_as`] and [`Client::post_if_answered`] fail with
    /// [`ClientError::NotOverTcp`].
    pub fn with_tcp(mut self, address: SocketAddr) -> Self {
        self.tcp = Some(address);
        self
    }
}

/// Sends one request on a connection of its own, once the server is known to be the daemon.
pub(super) async fn exchange(
    client: &Client,
    address: SocketAddr,
    mut request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, ClientError> {
    if request.headers().contains_key(AUTHORIZATION) {
        return Err(ClientError::NotOverTcp);
    }
    client.check_folder()?;
    let bearer = read(&client.socket.with_file_name(FILE_NAME), client.server)?;
    let stream = connect(address)
        .await
        .map_err(|source| ClientError::Tcp { address, source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // As that of the socket: it ends with the exchange.
    tokio::spawn(async move { connection.await.unwrap_or_default() });
    check(&mut sender, address, &bearer).await?;
    request
        .headers_mut()
        .insert(AUTHORIZATION, presenting(&bearer)?);
    sender.ready().await?;
    Ok(sender.send_request(request).await?)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    if !address.ip().is_loopback() {
        let message = "it is not an address of the loopback interface";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    TcpStream::connect(address).await
}

/// Makes the server prove that it knows the bearer. It gets nothing but a nonce.
async fn check(
    sender: &mut SendRequest<Full<Bytes>>,
    address: SocketAddr,
    bearer: &Text,
) -> Result<(), ClientError> {
    let mut nonce = [0; NONCE];
    getrandom::fill(&mut nonce).map_err(|error| ClientError::Tcp {
        address,
        source: error.into(),
    })?;
    let nonce = bearer::as_hex(&nonce);
    let request = Request::get(format!("/v1/proof?nonce={nonce}")).header(HOST, "localhost");
    let request = request.body(Full::default()).map_err(invalid)?;
    let response = sender.send_request(request).await?;
    // An error of a server that proves nothing could be anybody's.
    let is_success = response.status().is_success();
    let body = whole_body(response.into_body(), MAX_PROOF).await?;
    let proof = serde_json::from_slice(&body).map(|Proof { proof }| proof);
    // Of the address that this client has connected to, whatever the response says.
    if is_success && proof.is_ok_and(|proof| proof == bearer::proof(bearer, address, &nonce)) {
        return Ok(());
    }
    Err(ClientError::UnprovenServer { address })
}

fn presenting(bearer: &Text) -> Result<HeaderValue, ClientError> {
    let field = Zeroizing::new([b"Bearer ".as_slice(), bearer.as_slice()].concat());
    let mut value = HeaderValue::from_bytes(&field).map_err(invalid)?;
    value.set_sensitive(true);
    Ok(value)
}

fn invalid(error: impl std::fmt::Display) -> ClientError {
    ClientError::Protocol {
        detail: error.to_string(),
    }
}

/// Reads the bearer. A file that another user could have written may be that of any program.
fn read(path: &Path, rule: TrustedServer) -> Result<Text, ClientError> {
    let failed = |source| ClientError::Bearer {
        path: path.to_owned(),
        source,
    };
    // A link could lead to a secret of the caller that another user knows, and a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = open(path, flags, Mode::empty());
    let file = File::from(opened.map_err(|errno| failed(errno.into()))?);
    let found = file.metadata().map_err(failed)?;
    let refused = |message: &str| failed(io::Error::new(io::ErrorKind::PermissionDenied, message));
    let request = trusted_server::Request::Sensitive;
    if !rule.trusts(found.uid(), trusted_server::own_uid(), request) {
        return Err(refused("it belongs to another user"));
    }
    if !found.is_file() || found.mode() & 0o077 != 0 {
        return Err(refused("other users can access it"));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(512));
    file.take(MAX_FILE)
        .read_to_end(&mut content)
        .map_err(failed)?;
    let malformed = || {
        failed(io::Error::new(
            io::ErrorKind::InvalidData,
            "it has no bearer",
        ))
    };
    bearer::parse(&content).ok_or_else(malformed)
}
