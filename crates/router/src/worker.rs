//! Worker threads: one a core, each with a runtime of its own, so that a request and its dyno's connection
//! stay on one core and share nothing with the others.
//!
//! Each worker accepts and gives the connection to the worker that has the fewest.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::client_io::ClientIo;
use crate::headers::ClientHeaders;
use crate::limits::REQUEST_HEAD_LIMIT_BYTES;
use crate::proxy;
use crate::shared::{Client, Phase, Shared};

/// How long accepting pauses when the process is out of descriptors or at its limit of connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Runs worker `number` until `finished`. Blocks the thread that it gets.
pub fn run(
    shared: &Arc<Shared>,
    number: usize,
    listener: TcpListener,
    hands: Vec<Hand>,
    mine: mpsc::UnboundedReceiver<Accepted>,
    runtime: &tokio::runtime::Runtime,
    finished: tokio::sync::oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        let accepting = tokio::spawn(accept(shared.clone(), number, listener, hands));
        let receiving = tokio::spawn(receive(shared.clone(), mine));
        let _ = finished.await;
        accepting.abort();
        receiving.abort();
    });
}

async fn receive(shared: Arc<Shared>, mut mine: mpsc::UnboundedReceiver<Accepted>) {
    while let Some(Accepted { stream, address, place }) = mine.recv().await {
        if let Ok(stream) = TcpStream::from_std(stream) {
            serve(&shared, stream, address, place);
        }
    }
}

async fn accept(shared: Arc<Shared>, number: usize, listener: TcpListener, hands: Vec<Hand>) {
    let mut phase = shared.phase.subscribe();
    tokio::select! {
        biased;
        _ = phase.wait_for(|phase| *phase >= Phase::Leaving) => {}
        () = accept_for_ever(&shared, number, listener, &hands) => {}
    }
}

async fn accept_for_ever(shared: &Arc<Shared>, number: usize, listener: TcpListener, hands: &[Hand]) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the listener cannot be watched; no connection is accepted");
            return;
        }
    };
    let mut last_error = None;
    loop {
        if shared.connections() >= shared.connections_limit {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        }
        match listener.accept().await {
            Ok((stream, address)) => give(shared, number, hands, stream, address),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if last_error != Some(error.kind()) {
                    tracing::error!(%error, "a connection cannot be accepted; raise the limit of open files (LimitNOFILE)");
                    last_error = Some(error.kind());
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Has the connection served by the worker that has the fewest.
fn give(shared: &Arc<Shared>, number: usize, hands: &[Hand], stream: TcpStream, address: SocketAddr) {
    let load = |worker: usize| shared.workers[worker].connections.load(Ordering::Relaxed);
    let least = (0..hands.len()).min_by_key(|worker| (load(*worker), *worker != number)).unwrap_or(number);
    let Some(place) = Place::take(shared.clone(), least, address.ip()) else { return };
    if least == number {
        serve(shared, stream, address, place);
    } else if let Ok(stream) = stream.into_std() {
        // A worker that is gone closes the connection and gives its place back.
        let _ = hands[least].send(Accepted { stream, address, place });
    }
}

/// A connection on its way to the worker that serves it.
#[derive(Debug)]
pub struct Accepted {
    stream: std::net::TcpStream,
    address: SocketAddr,
    place: Place,
}

/// Hands connections to a worker's thread.
pub type Hand = mpsc::UnboundedSender<Accepted>;

/// Gives back a connection's place when it ends, however it ends.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    worker: usize,
    address: IpAddr,
}

impl Place {
    /// `None` when the address has as many as it may.
    fn take(shared: Arc<Shared>, worker: usize, address: IpAddr) -> Option<Self> {
        if !shared.addresses.enter(address) {
            return None;
        }
        shared.workers[worker].connections.fetch_add(1, Ordering::Relaxed);
        Some(Self { shared, worker, address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.workers[self.worker].connections.fetch_sub(1, Ordering::Relaxed);
        self.shared.addresses.leave(self.address);
    }
}

fn serve(shared: &Arc<Shared>, stream: TcpStream, address: SocketAddr, place: Place) {
    // Without it an answer's last packet may wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let headers = ClientHeaders::new(address.ip(), shared.public_port);
    let client = Arc::new(Client::new(headers, place.worker));
    shared.tasks.spawn(async move {
        connection(&place.shared, client, stream).await;
    });
}

async fn connection(shared: &Arc<Shared>, client: Arc<Client>, stream: TcpStream) {
    let io = ClientIo::new(stream, client.clone(), shared.timeouts.idle);
    let watched = client.clone();
    let service = service_fn(|request| {
        let (shared, client) = (shared.clone(), client.clone());
        async move { Ok::<_, Infallible>(proxy::handle(&shared, &client, request).await) }
    });
    let connection = http1::Builder::new()
        // One timer a connection (below) instead of hyper's one a request.
        .header_read_timeout(None)
        .max_header_size(REQUEST_HEAD_LIMIT_BYTES)
        .max_buf_size(REQUEST_HEAD_LIMIT_BYTES)
        .title_case_headers(true)
        .serve_connection(io, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let mut phase = shared.phase.subscribe();
    tokio::select! {
        biased;
        _ = connection.as_mut() => return,
        _ = phase.wait_for(|phase| *phase >= Phase::ClosingIdle) => {}
        () = waited_too_long(&watched, shared.timeouts.client_keep_alive) => {}
    }
    connection.as_mut().graceful_shutdown();
    // Half a request head keeps the connection open, and so does an answer that is not taken yet.
    tokio::select! {
        biased;
        _ = connection => {}
        _ = phase.wait_for(|phase| *phase == Phase::Forced) => {}
        () = waited_too_long(&watched, 2 * shared.timeouts.client_keep_alive) => {}
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
