//! Connections to dynos: made with a time limit, kept for the next request. HTTP/1.1, and HTTP/2 in clear text
//! for apps that ask for it, where one connection of each worker carries all requests.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::body::RequestBody;
use crate::failure::Failure;
use crate::limits::{
    HTTP2_DYNO_WINDOW_BYTES, HTTP2_RESPONSE_HEADER_LIST_BYTES, HTTP2_SEND_BUFFER_BYTES,
    HTTP2_STREAM_WINDOW_BYTES, RESPONSE_HEAD_LIMIT_BYTES, RESPONSE_HEADERS_LIMIT,
};

/// Which protocol a dyno is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    /// In clear text with prior knowledge (RFC 9113, section 3.3).
    Http2,
}

/// Sends requests over one connection.
#[derive(Debug)]
pub enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    /// Shared: many requests are on the way at once.
    Http2(http2::SendRequest<RequestBody>),
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends one request and waits for the head of its response.
    ///
    /// # Errors
    /// The request comes back if nothing of it was sent.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(request).await,
        }
    }
}

/// A connection that waits for its next request; in HTTP/2 it may have others under way.
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

    /// A second handle on the same connection, if it is one of HTTP/2.
    pub fn share(&mut self) -> Option<Sender> {
        let Sender::Http2(sender) = &self.sender else { return None };
        self.since = Instant::now();
        Some(Sender::Http2(sender.clone()))
    }

    /// The connection, ready to send; `None` when the dyno has closed it.
    pub async fn ready(mut self) -> Option<Sender> {
        match &mut self.sender {
            Sender::Http1(sender) if !sender.is_ready() => sender.ready().await.ok()?,
            Sender::Http1(_) | Sender::Http2(_) => {}
        }
        Some(self.sender)
    }
}

/// Connects to a dyno.
///
/// # Errors
/// What to answer when no other dyno can be asked.
pub async fn connect(address: SocketAddr, protocol: Protocol, limit: Duration) -> Result<Sender, Failure> {
    let stream = match tokio::time::timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => return Err(Failure::ConnectTimeout),
        Ok(Err(_)) => return Err(Failure::ConnectRefused),
        Err(_) => return Err(Failure::ConnectTimeout),
    };
    // Without it small writes wait for the dyno's delayed acknowledgement. A failure only costs time.
    let _ = stream.set_nodelay(true);
    match protocol {
        Protocol::Http1 => start_http1(stream).await,
        Protocol::Http2 => start_http2(stream).await,
    }
    .map_err(|_| Failure::ConnectRefused)
}

async fn start_http1(stream: TcpStream) -> hyper::Result<Sender> {
    let (sender, connection) = http1::Builder::new()
        .title_case_headers(true)
        .max_headers(RESPONSE_HEADERS_LIMIT)
        .max_header_size(RESPONSE_HEAD_LIMIT_BYTES)
        .max_buf_size(RESPONSE_HEAD_LIMIT_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        // What goes wrong here is reported to the one who waits for the response.
        let _ = connection.with_upgrades().await;
    });
    Ok(Sender::Http1(sender))
}

async fn start_http2(stream: TcpStream) -> hyper::Result<Sender> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .max_header_list_size(HTTP2_RESPONSE_HEADER_LIST_BYTES)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(HTTP2_DYNO_WINDOW_BYTES)
        .max_send_buf_size(HTTP2_SEND_BUFFER_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        // As above.
        let _ = connection.await;
    });
    Ok(Sender::Http2(sender))
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
