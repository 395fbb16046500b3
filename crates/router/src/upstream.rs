//! Connections to dynos: made with a time limit, kept for the next request.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::body::RequestBody;
use crate::failure::Failure;
use crate::limits::RESPONSE_HEAD_LIMIT_BYTES;

/// Sends requests over one connection.
pub type Sender = http1::SendRequest<RequestBody>;

/// A connection that waits for its next request.
#[derive(Debug)]
pub struct IdleConnection {
    sender: Sender,
    since: Instant,
}

impl IdleConnection {
    pub fn new(sender: Sender) -> Self {
        Self { sender, since: Instant::now() }
    }

    /// Whether it is open and was not idle for longer than `limit`.
    pub fn is_usable(&self, limit: Duration) -> bool {
        !self.sender.is_closed() && self.since.elapsed() < limit
    }

    /// The connection, ready to send; `None` when the dyno has closed it.
    pub async fn ready(mut self) -> Option<Sender> {
        if !self.sender.is_ready() {
            self.sender.ready().await.ok()?;
        }
        Some(self.sender)
    }
}

/// Connects to a dyno.
///
/// # Errors
/// What to answer when no other dyno can be asked.
pub async fn connect(address: SocketAddr, limit: Duration) -> Result<Sender, Failure> {
    let stream = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => return Err(Failure::ConnectTimeout),
        Ok(Err(_)) => return Err(Failure::ConnectRefused),
        Err(_) => return Err(Failure::ConnectTimeout),
    };
    // Without it small writes wait for the dyno's delayed acknowledgement. A failure only costs time.
    let _ = stream.set_nodelay(true);
    let handshake = http1::Builder::new()
        .title_case_headers(true)
        .max_header_size(RESPONSE_HEAD_LIMIT_BYTES)
        .max_buf_size(RESPONSE_HEAD_LIMIT_BYTES)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = handshake.map_err(|_| Failure::ConnectRefused)?;
    tokio::spawn(async move {
        // What goes wrong here is reported to the one who waits for the response.
        let _ = connection.with_upgrades().await;
    });
    Ok(sender)
}

/// What a broken exchange with a dyno is called.
pub fn failure_of(error: &hyper::Error) -> Failure {
    if error.is_parse_too_large() {
        return Failure::OversizedHeader;
    }
    if error.is_parse() {
        let text = format!("{error:?}").to_ascii_lowercase();
        let length = text.contains("contentlength") || text.contains("content-length");
        return if length { Failure::InvalidContentLength } else { Failure::PoorlyFormattedResponse };
    }
    Failure::ClosedWithoutResponse
}
