//! The API listener: plain HTTP, TLS and rendezvous on one port, told apart by the first bytes.
//!
//! ```text
//! accept -> first byte 0x16? -> TLS handshake -+-> starts with "rdv."? -> rendezvous
//!                         else plain ----------+-> else HTTP/1.1 (axum, with upgrades)
//! ```
//!
//! Every request carries a [`ClientConnection`] extension, from which links in answers take their
//! scheme, and axum's `ConnectInfo`.
//!
//! Invariant: a connection that says nothing, or says it slowly, holds its place for a limited time only.

use crate::rendezvous::{self, Attached, Issued, Rendezvous, SECRET_BYTES, SECRET_PREFIX};
use axum::extract::ConnectInfo;
use bytes::{Buf, Bytes, BytesMut};
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections at once; more wait in the backlog. Each costs one file descriptor and some 20 kB.
pub const MAX_CONNECTIONS: usize = 4_096;

/// Size of the head of a request, in bytes; `X-...` headers and cookies together stay far below it.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Pause after an accept that failed for want of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A client that takes nothing of what waits for it for so long is gone, in milliseconds: one that merely does not read
/// answers keep-alive probes for ever. As long as a rendezvous bears it, because somebody may hold an output still.
const UNREAD_LIMIT_MS: u32 = rendezvous::WRITE_LIMIT.as_secs() as u32 * 1_000;

/// The first byte of a TLS connection: a record of the type "handshake".
const TLS_HANDSHAKE_RECORD: u8 = 0x16;

/// What to do about a rendezvous that came to nothing.
const RUN_AGAIN: &str = "Run the command again.";
const USE_TLS: &str = "Set HEROKU_HOST to the node's https address.";

/// How long clients may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A new connection may say nothing for so long: browsers connect ahead of need.
    pub first_bytes: Duration,
    pub handshake: Duration,
    /// The head of a request, from the end of the one before: also the limit of an idle connection.
    pub request_head: Duration,
    /// Requests in flight, once the listener is to stop.
    pub stop: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            first_bytes: Duration::from_secs(30),
            handshake: Duration::from_secs(15),
            request_head: Duration::from_secs(60),
            stop: Duration::from_secs(10),
        }
    }
}

/// Where a request came from; an extension of every request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientConnection {
    pub remote: SocketAddr,
    /// Whether it came by TLS.
    pub tls: bool,
}

impl ClientConnection {
    /// Whether it came from this machine, by its address; through a proxy on it, too.
    pub fn is_local(&self) -> bool {
        self.remote.ip().to_canonical().is_loopback()
    }

    /// The scheme of links in the answer.
    pub fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

/// Gives the streams of what a rendezvous was made for, unless the access is gone that it was made with.
pub type Attach = Arc<dyn Fn(Issued) -> BoxFuture<'static, anyhow::Result<Attached>> + Send + Sync>;

/// What connections are served with.
#[derive(Clone)]
pub struct Endpoint {
    pub app: axum::Router,
    pub tls: Arc<ServerConfig>,
    pub rendezvous: Rendezvous,
    pub attach: Attach,
    pub limits: Limits,
}

/// Serves until `stop` is cancelled, then lets requests in flight end for a limited time.
///
/// Live streams do not end by themselves: close them when cancelling `stop`.
pub async fn serve(listener: TcpListener, endpoint: Endpoint, stop: CancellationToken) {
    let endpoint = Arc::new(endpoint);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    let abort = CancellationToken::new();
    while let Some(place) = stop.run_until_cancelled(places.clone().acquire_owned()).await {
        let place = place.expect("the semaphore is never closed");
        let (stream, remote) = match stop.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok(accepted)) => accepted,
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = Connection { endpoint: endpoint.clone(), stop: stop.clone() };
        let abort = abort.clone();
        connections.spawn(async move {
            if let Some(Err(error)) = abort.run_until_cancelled(connection.serve(stream, remote)).await {
                tracing::debug!(%remote, error = format!("{error:#}"), "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    if timeout(endpoint.limits.stop, connections.wait()).await.is_err() {
        tracing::info!(connections = connections.len(), "cutting off connections that did not end in time");
        abort.cancel();
        connections.wait().await;
    }
}

struct Connection {
    endpoint: Arc<Endpoint>,
    stop: CancellationToken,
}

impl Connection {
    async fn serve(self, stream: TcpStream, remote: SocketAddr) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        rustix::net::sockopt::set_socket_keepalive(&stream, true)?;
        rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_LIMIT_MS)?;
        let mut first = [0u8; 1];
        if timeout(self.endpoint.limits.first_bytes, stream.peek(&mut first)).await?? == 0 {
            return Ok(());
        }
        let client = ClientConnection { remote, tls: first[0] == TLS_HANDSHAKE_RECORD };
        if client.tls {
            let acceptor = TlsAcceptor::from(self.endpoint.tls.clone());
            let stream = timeout(self.endpoint.limits.handshake, acceptor.accept(stream)).await??;
            self.serve_bytes(stream, client).await
        } else {
            self.serve_bytes(stream, client).await
        }
    }

    /// Serves what is in the connection, once TLS is off.
    async fn serve_bytes<S>(self, mut stream: S, client: ClientConnection) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match timeout(self.endpoint.limits.first_bytes, read_prologue(&mut stream)).await?? {
            Prologue::Nothing => Ok(()),
            Prologue::Http(read) => self.serve_http(Rewound { read, stream }, client).await,
            Prologue::Rendezvous { secret, read } => {
                let stop = self.stop.clone();
                let session = self.serve_rendezvous(&secret, Rewound { read, stream }, client);
                stop.run_until_cancelled(session).await.unwrap_or(Ok(()))
            }
        }
    }

    async fn serve_http<S>(self, stream: S, client: ClientConnection) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let app = self.endpoint.app.clone();
        let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(client);
            request.extensions_mut().insert(ConnectInfo(client.remote));
            app.clone().oneshot(request)
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.endpoint.limits.request_head)
            .max_buf_size(MAX_HEAD_BYTES);
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
        tokio::select! {
            result = connection.as_mut() => return Ok(result?),
            () = self.stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        Ok(connection.await?)
    }

    async fn serve_rendezvous<S>(
        self,
        secret: &str,
        mut stream: S,
        client: ClientConnection,
    ) -> anyhow::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let protected = client.tls || client.is_local();
        let issued = self.endpoint.rendezvous.redeem(secret);
        rendezvous::greet(&mut stream).await?;
        let attached = match issued {
            Some(_) if !protected => {
                Err((anyhow::anyhow!("from another machine it must come by TLS"), USE_TLS))
            }
            Some(issued) => (self.endpoint.attach)(issued).await.map_err(|error| (error, RUN_AGAIN)),
            None => Err((anyhow::anyhow!("this session is unknown, used or expired"), RUN_AGAIN)),
        };
        match attached {
            Ok(attached) => Ok(rendezvous::bridge(stream, attached).await?),
            Err((error, advice)) => {
                tracing::info!(remote = %client.remote, error = format!("{error:#}"), "a rendezvous came to nothing");
                let text = format!("Cannot attach to the dyno: {error:#}. {advice}\r\n");
                Ok(rendezvous::refuse(stream, &text).await?)
            }
        }
    }
}

/// What a connection turned out to be, with the bytes of it that were read to find out.
enum Prologue {
    Nothing,
    Http(Bytes),
    Rendezvous { secret: String, read: Bytes },
}

async fn read_prologue(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Prologue> {
    let prefix = SECRET_PREFIX.as_bytes();
    let mut read = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(if read.is_empty() { Prologue::Nothing } else { Prologue::Http(read.freeze()) });
        }
        let compared = read.len().min(prefix.len());
        if read[..compared] != prefix[..compared] {
            return Ok(Prologue::Http(read.freeze()));
        }
        if read.len() >= SECRET_BYTES {
            let secret = String::from_utf8_lossy(&read.split_to(SECRET_BYTES)).into_owned();
            return Ok(Prologue::Rendezvous { secret, read: read.freeze() });
        }
    }
}

/// A stream whose first bytes were read already.
struct Rewound<S> {
    read: Bytes,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read[..length]);
        self.read.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
