//! One client connection: what it speaks, told apart by its first bytes, and serving it to its end.
//!
//! ```text
//! accept -> first byte 0x16? -> TLS handshake -> ALPN h2? -+-> HTTP/2
//!                  else preface of HTTP/2? ----------------+
//!                  else preface of SSH? ------------------> handed over to control
//!                  else ----------------------------------> HTTP/1.x
//! ```
//!
//! Invariant: a client that says nothing, or says it slowly, holds its place for a limited time only.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::body::ProxyBody;
use crate::client_io::{ClientIo, Rewound};
use crate::headers::ClientHeaders;
use crate::intake;
use crate::limits;
use crate::shared::{Client, Phase, Shared};
use crate::ssh;
use crate::tls;

/// The first byte of a TLS connection: a record of the type "handshake" (RFC 8446, section 5.1).
const TLS_HANDSHAKE_RECORD: u8 = 0x16;
/// What a client with prior knowledge of HTTP/2 begins with (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What an SSH client begins with (RFC 4253, section 4.2).
const SSH_PREFACE: &[u8] = b"SSH-2.0-";
/// Read at once to find out what a client speaks, in bytes: an ordinary request fits.
const OPENING_BYTES: usize = 2048;

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted {
    pub stream: TcpStream,
    pub address: SocketAddr,
    /// The port that clients know the listener by.
    pub public_port: u16,
    pub worker: usize,
}

enum Opening {
    Tls(Bytes),
    Http2(Bytes),
    Http1(Bytes),
    Ssh(Bytes),
    Nothing,
}

/// Serves the connection to its end.
pub async fn serve(shared: &Arc<Shared>, accepted: Accepted) {
    // Without it an answer's last packet may wait for the client's delayed acknowledgement.
    let _ = accepted.stream.set_nodelay(true);
    let opening = tokio::time::timeout(shared.timeouts.client_keep_alive, opening(&accepted.stream));
    let mut phase = shared.phase.subscribe();
    let opening = tokio::select! {
        biased;
        opening = opening => opening.ok().and_then(Result::ok).unwrap_or(Opening::Nothing),
        _ = phase.wait_for(|phase| *phase >= Phase::ClosingIdle) => Opening::Nothing,
    };
    drop(phase);
    // The rarer ways are boxed, so that a plain connection's task stays small.
    match opening {
        Opening::Nothing => {}
        Opening::Http1(read) => {
            let client = client(&accepted);
            http1(shared, client, Rewound::new(read, accepted.stream)).await;
        }
        Opening::Http2(read) => {
            let client = client(&accepted);
            Box::pin(http2(shared, client, Rewound::new(read, accepted.stream))).await;
        }
        Opening::Tls(read) => Box::pin(tls(shared, accepted, read)).await,
        Opening::Ssh(read) => {
            Box::pin(ssh::hand_over(shared, accepted.stream, accepted.address, read)).await;
        }
    }
}

/// A client in clear text.
fn client(accepted: &Accepted) -> Arc<Client> {
    let headers = ClientHeaders::new(accepted.address.ip(), accepted.public_port, false);
    Arc::new(Client::new(headers, accepted.worker, None))
}

/// Reads until it is clear what the client speaks. Holds no buffer while nothing has come.
async fn opening(stream: &TcpStream) -> io::Result<Opening> {
    let mut read = BytesMut::new();
    loop {
        stream.readable().await?;
        match read_some(stream, &mut read) {
            Ok(0) => return Ok(Opening::Nothing),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        // `None`: another preface. `Some(false)`: this one so far.
        let has_come = |preface: &[u8]| {
            let compared = read.len().min(preface.len());
            (read[..compared] == preface[..compared]).then_some(compared == preface.len())
        };
        match (read[0] == TLS_HANDSHAKE_RECORD, has_come(HTTP2_PREFACE), has_come(SSH_PREFACE)) {
            (true, _, _) => return Ok(Opening::Tls(read.freeze())),
            (false, Some(true), _) => return Ok(Opening::Http2(read.freeze())),
            (false, _, Some(true)) => return Ok(Opening::Ssh(read.freeze())),
            (false, None, None) => return Ok(Opening::Http1(read.freeze())),
            (false, _, _) => {}
        }
    }
}

fn read_some(stream: &TcpStream, read: &mut BytesMut) -> io::Result<usize> {
    let mut buffer = [0; OPENING_BYTES];
    let count = stream.try_read(&mut buffer)?;
    read.extend_from_slice(&buffer[..count]);
    Ok(count)
}

async fn tls(shared: &Arc<Shared>, accepted: Accepted, read: Bytes) {
    let Accepted { stream, address, public_port, worker } = accepted;
    let handshake = async {
        shared.certificates().await;
        TlsAcceptor::from(shared.tls.clone()).accept(Rewound::new(read, stream)).await
    };
    let mut phase = shared.phase.subscribe();
    let stream = tokio::select! {
        biased;
        result = tokio::time::timeout(limits::TLS_HANDSHAKE, handshake) => match result {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "a TLS handshake failed"),
            Err(_) => return,
        },
        _ = phase.wait_for(|phase| *phase >= Phase::ClosingIdle) => return,
    };
    drop(phase);
    let connection = stream.get_ref().1;
    let headers = ClientHeaders::new(address.ip(), public_port, true);
    let client = Arc::new(Client::new(headers, worker, Some(tls::handshake(connection))));
    if tls::is_http2(connection) {
        http2(shared, client, stream).await;
    } else {
        http1(shared, client, stream).await;
    }
}

async fn http1<S>(shared: &Arc<Shared>, client: Arc<Client>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = ClientIo::new(stream, client.clone(), shared.timeouts.idle);
    let connection = http1::Builder::new()
        // One timer a connection (below) instead of hyper's one a request.
        .header_read_timeout(None)
        .max_headers(limits::HEADERS_LIMIT)
        .max_header_size(limits::REQUEST_HEAD_LIMIT_BYTES)
        .max_buf_size(limits::REQUEST_HEAD_LIMIT_BYTES)
        .title_case_headers(true)
        .serve_connection(io, service_fn(|request| answer(shared.clone(), client.clone(), request)))
        .with_upgrades();
    until_over(shared, &client, pin!(connection), |connection| connection.graceful_shutdown()).await;
}

async fn http2<S>(shared: &Arc<Shared>, client: Arc<Client>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = ClientIo::new(stream, client.clone(), shared.timeouts.idle);
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(limits::HTTP2_STREAMS)
        .max_pending_accept_reset_streams(limits::HTTP2_PENDING_RESETS)
        .max_local_error_reset_streams(limits::HTTP2_ERROR_RESETS)
        .max_header_list_size(limits::HTTP2_HEADER_LIST_BYTES)
        .initial_stream_window_size(limits::HTTP2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::HTTP2_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(limits::HTTP2_SEND_BUFFER_BYTES)
        .serve_connection(io, service_fn(|request| answer(shared.clone(), client.clone(), request)));
    let connection = pin!(connection);
    let over = until_over(shared, &client, connection, |connection| connection.graceful_shutdown());
    tokio::select! {
        biased;
        () = over => {}
        () = a_stream_stalls(&client, shared.timeouts.idle) => client.stalled.store(true, Ordering::Relaxed),
    }
}

/// Returns when some response was not taken any further for `limit`. hyper asks a body for more only when the
/// client takes some, so that the body itself cannot notice; the whole connection pays for it.
async fn a_stream_stalls(client: &Client, limit: Duration) {
    while !client.has_stalled_stream(limit) {
        tokio::time::sleep(limit / 4).await;
    }
}

async fn answer(
    shared: Arc<Shared>,
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<ProxyBody>, Infallible> {
    // hyper keeps room for this future as long as the connection lives: an idle one shall not hold kilobytes.
    Ok(Box::pin(intake::handle(&shared, &client, request)).await)
}

/// Drives the connection until it ends, its client has waited too long, or the router leaves.
async fn until_over<C: Future>(
    shared: &Shared,
    client: &Client,
    mut connection: Pin<&mut C>,
    shut_down: impl FnOnce(Pin<&mut C>),
) {
    let limit = shared.timeouts.client_keep_alive;
    let mut phase = shared.phase.subscribe();
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        _ = phase.wait_for(|phase| *phase >= Phase::ClosingIdle) => {}
        () = waited_too_long(client, limit) => {}
    }
    shut_down(connection.as_mut());
    // Half a request head keeps the connection open, and so does an answer that is not taken yet.
    tokio::select! {
        biased;
        _ = connection => {}
        _ = phase.wait_for(|phase| *phase == Phase::Forced) => {}
        () = waited_too_long(client, 2 * limit) => {}
    }
}

/// Returns when the client has sent no whole request head for `limit`.
async fn waited_too_long(client: &Client, limit: Duration) {
    loop {
        let waiting = client.waiting();
        if waiting >= limit {
            return;
        }
        tokio::time::sleep(limit - waiting).await;
    }
}
