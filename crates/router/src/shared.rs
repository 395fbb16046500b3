//! What all threads of one router share.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use crate::addresses::Addresses;
use crate::exchange::PendingRecord;
use crate::headers::ClientHeaders;
use crate::limits::{ConnectionLimits, Timeouts};
use crate::table::Table;
use crate::tls::{self, Handshake};

/// How far a router is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Serving,
    /// Accepts no more; every answer closes its connection.
    Leaving,
    /// Idle connections are closed.
    ClosingIdle,
    /// Everything is closed.
    Forced,
}

/// The state of a router.
#[derive(Debug)]
pub struct Shared {
    /// `None` until the first table.
    pub table: Arc<ArcSwapOption<Table>>,
    /// Whether the table has come from control, with its certificates.
    certificates_known: watch::Sender<bool>,
    pub tls: Arc<rustls::ServerConfig>,
    /// The version of the table, for those who wait for the next one.
    pub table_changed: watch::Sender<u64>,
    pub timeouts: Timeouts,
    /// Most client connections of all workers.
    pub connections_limit: usize,
    pub addresses: Addresses,
    /// Where control takes SSH clients; `None`: they are turned away.
    pub ssh_socket: Option<PathBuf>,
    pub phase: watch::Sender<Phase>,
    /// The same as `phase >= Leaving`, readable at no cost.
    pub leaving: AtomicBool,
    /// The same as `phase == Forced`.
    pub forced: AtomicBool,
    /// Connections and tunnels.
    pub tasks: TaskTracker,
    pub workers: Vec<Worker>,
    /// Where clients reach TLS.
    pub https_port: u16,
    /// Says that a request waits for a sleeping app.
    pub wake_needed: Notify,
    /// Says that a worker has records; taken back when they are gathered.
    pub records_ready: Notify,
    records_flag: AtomicBool,
}

/// What one worker thread owns and others may look at.
#[derive(Debug, Default)]
pub struct Worker {
    records: Mutex<Vec<PendingRecord>>,
    pub connections: AtomicUsize,
    /// Connections since the start.
    pub accepted: AtomicU64,
}

/// One client connection.
#[derive(Debug)]
pub struct Client {
    pub headers: ClientHeaders,
    pub worker: usize,
    /// `None` in clear text.
    pub tls: Option<Handshake>,
    /// It took no byte for too long.
    pub stalled: AtomicBool,
    /// Requests that are served now: several only in HTTP/2.
    open: AtomicUsize,
    /// Milliseconds on the clock of `connected` since when no request is served.
    waiting_since_ms: AtomicU64,
    connected: Instant,
    /// In HTTP/2, when each response last had something for the client; [`NOT_THE_CLIENT`] while the dyno is slow.
    streams: Mutex<Vec<Weak<AtomicU64>>>,
}

/// A response has nothing that the client could take.
const NOT_THE_CLIENT: u64 = u64::MAX;

/// One response of an HTTP/2 connection, which the client may stop taking without stopping the others.
#[derive(Debug)]
pub struct Stream {
    client: Arc<Client>,
    offered_ms: Arc<AtomicU64>,
}

impl Stream {
    /// Something is there for the client, which must ask for more in time.
    pub fn offered(&self) {
        self.offered_ms.store(self.client.now_ms(), Ordering::Relaxed);
    }

    /// The client has taken everything.
    pub fn taken(&self) {
        self.offered_ms.store(NOT_THE_CLIENT, Ordering::Relaxed);
    }
}

/// A request that is served.
#[derive(Debug)]
pub struct Open(Arc<Client>);

impl Client {
    /// One that has just connected.
    pub fn new(headers: ClientHeaders, worker: usize, tls: Option<Handshake>) -> Self {
        Self {
            headers,
            worker,
            tls,
            stalled: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            waiting_since_ms: AtomicU64::new(0),
            connected: Instant::now(),
            streams: Mutex::default(),
        }
    }

    /// Watches a response of an HTTP/2 connection.
    pub fn stream(self: &Arc<Self>) -> Stream {
        let offered_ms = Arc::new(AtomicU64::new(NOT_THE_CLIENT));
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(&offered_ms));
        Stream { client: self.clone(), offered_ms }
    }

    /// Whether some response was not taken any further for `limit`.
    pub fn has_stalled_stream(&self, limit: Duration) -> bool {
        let now = self.now_ms();
        let is_stalled = |offered: u64| {
            offered != NOT_THE_CLIENT && u128::from(now.saturating_sub(offered)) >= limit.as_millis()
        };
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.iter().filter_map(Weak::upgrade).any(|stream| is_stalled(stream.load(Ordering::Relaxed)))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.connected.elapsed().as_millis()).unwrap_or(NOT_THE_CLIENT - 1)
    }

    /// A request head has come.
    pub fn begin(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }

    /// How long a request head is waited for; zero while a request is served.
    pub fn waiting(&self) -> Duration {
        if self.open.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        let since = Duration::from_millis(self.waiting_since_ms.load(Ordering::Relaxed));
        self.connected.elapsed().saturating_sub(since)
    }
}

impl Drop for Open {
    /// The answer is on the way; the next head is waited for.
    fn drop(&mut self) {
        self.0.waiting_since_ms.store(self.0.now_ms(), Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    /// The state of a router that starts.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(
        timeouts: Timeouts,
        limits: &ConnectionLimits,
        workers: usize,
        https_port: u16,
        ssh_socket: Option<PathBuf>,
    ) -> Result<Arc<Self>, rustls::Error> {
        let table = Arc::new(ArcSwapOption::empty());
        Ok(Arc::new(Self {
            tls: tls::server_config(table.clone())?,
            table,
            certificates_known: watch::Sender::new(false),
            table_changed: watch::Sender::new(0),
            timeouts,
            connections_limit: limits.in_all,
            addresses: Addresses::new(limits.per_address),
            ssh_socket,
            phase: watch::Sender::new(Phase::Serving),
            leaving: AtomicBool::new(false),
            forced: AtomicBool::new(false),
            tasks: TaskTracker::new(),
            workers: (0..workers).map(|_| Worker::default()).collect(),
            https_port,
            wake_needed: Notify::new(),
            records_ready: Notify::new(),
            records_flag: AtomicBool::new(false),
        }))
    }

    /// Returns once the table is one from control: one from the disk has no certificates.
    pub async fn certificates(&self) {
        if !*self.certificates_known.borrow() {
            // The sender lives as long as `self`.
            let _ = self.certificates_known.subscribe().wait_for(|known| *known).await;
        }
    }

    /// The table that is in place has come from control.
    pub fn certificates_have_come(&self) {
        self.certificates_known.send_replace(true);
    }

    /// Moves on to `phase`.
    pub fn enter(&self, phase: Phase) {
        self.leaving.store(phase >= Phase::Leaving, Ordering::SeqCst);
        self.forced.store(phase == Phase::Forced, Ordering::SeqCst);
        self.phase.send_replace(phase);
    }

    /// Takes in a record on a worker's thread.
    pub fn record(&self, worker: usize, record: PendingRecord) {
        self.workers[worker].records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        if !self.records_flag.load(Ordering::Relaxed) && !self.records_flag.swap(true, Ordering::AcqRel) {
            self.records_ready.notify_one();
        }
    }

    /// Takes out what the workers have recorded, oldest first.
    pub fn gather(&self) -> Vec<PendingRecord> {
        self.records_flag.store(false, Ordering::SeqCst);
        let mut all = Vec::new();
        for worker in &self.workers {
            all.append(&mut worker.records.lock().unwrap_or_else(PoisonError::into_inner));
        }
        all.sort_by_key(|record| record.at_us);
        all
    }

    /// Client connections of all workers.
    pub fn connections(&self) -> usize {
        self.workers.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).sum()
    }

    /// Client connections since the start.
    pub fn accepted(&self) -> u64 {
        self.workers.iter().map(|worker| worker.accepted.load(Ordering::Relaxed)).sum()
    }
}
