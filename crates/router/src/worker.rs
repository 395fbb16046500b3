//! Worker threads: one a core, each with a runtime of its own, so that a request and its dyno's connection
//! stay on one core and share nothing with the others.
//!
//! Each worker accepts and gives the connection to the worker that has the fewest.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::connection;
use crate::shared::{Phase, Shared};

/// How long accepting pauses when the process is out of descriptors or at its limit of connections.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A worker has a timer that is never further away than this. When a timer is set that is due before all others, tokio
/// wakes its own poll by a write to an eventfd; with this one, which is nearer than any limit of a request, it has not
/// to: one write for each request at one connection, half a one at 32.
const NEAREST_TIMER: Duration = Duration::from_secs(1);

/// A listener, and the port that clients know it by.
#[derive(Debug)]
pub struct Door {
    pub listener: TcpListener,
    pub public_port: u16,
}

/// Runs worker `number` until `finished`. Blocks the thread that it gets.
pub fn run(
    shared: &Arc<Shared>,
    number: usize,
    doors: Vec<Door>,
    hands: Vec<Hand>,
    mine: mpsc::UnboundedReceiver<Accepted>,
    runtime: &tokio::runtime::Runtime,
    finished: tokio::sync::oneshot::Receiver<()>,
) {
    runtime.block_on(async {
        let accepting = doors.into_iter().map(|door| accept(shared.clone(), number, door, hands.clone()));
        let accepting: Vec<_> = accepting.map(tokio::spawn).collect();
        let receiving = tokio::spawn(receive(mine));
        let ticking = tokio::spawn(async {
            loop {
                tokio::time::sleep(NEAREST_TIMER).await;
            }
        });
        let _ = finished.await;
        accepting.iter().for_each(tokio::task::JoinHandle::abort);
        receiving.abort();
        ticking.abort();
    });
}

async fn receive(mut mine: mpsc::UnboundedReceiver<Accepted>) {
    while let Some(Accepted { stream, address, public_port, place }) = mine.recv().await {
        if let Ok(stream) = TcpStream::from_std(stream) {
            serve(connection::Accepted { stream, address, public_port, worker: place.worker }, place);
        }
    }
}

async fn accept(shared: Arc<Shared>, number: usize, door: Door, hands: Vec<Hand>) {
    let mut phase = shared.phase.subscribe();
    tokio::select! {
        biased;
        _ = phase.wait_for(|phase| *phase >= Phase::Leaving) => {}
        () = accept_for_ever(&shared, number, door, &hands) => {}
    }
}

async fn accept_for_ever(shared: &Arc<Shared>, number: usize, door: Door, hands: &[Hand]) {
    let listener = match tokio::net::TcpListener::from_std(door.listener) {
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
            Ok((stream, address)) => give(shared, number, hands, (stream, address, door.public_port)),
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
fn give(
    shared: &Arc<Shared>,
    number: usize,
    hands: &[Hand],
    (stream, address, public_port): (TcpStream, SocketAddr, u16),
) {
    let load = |worker: usize| shared.workers[worker].connections.load(Ordering::Relaxed);
    let least = (0..hands.len()).min_by_key(|worker| (load(*worker), *worker != number)).unwrap_or(number);
    let Some(place) = Place::take(shared.clone(), least, address.ip()) else { return };
    if least == number {
        serve(connection::Accepted { stream, address, public_port, worker: number }, place);
    } else if let Ok(stream) = stream.into_std() {
        // A worker that is gone closes the connection and gives its place back.
        let _ = hands[least].send(Accepted { stream, address, public_port, place });
    }
}

/// A connection on its way to the worker that serves it.
#[derive(Debug)]
pub struct Accepted {
    stream: std::net::TcpStream,
    address: SocketAddr,
    public_port: u16,
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
        shared.workers[worker].accepted.fetch_add(1, Ordering::Relaxed);
        Some(Self { shared, worker, address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.workers[self.worker].connections.fetch_sub(1, Ordering::Relaxed);
        self.shared.addresses.leave(self.address);
    }
}

fn serve(accepted: connection::Accepted, place: Place) {
    let shared = place.shared.clone();
    shared.tasks.spawn(async move {
        connection::serve(&place.shared, accepted).await;
    });
}
