//! Control's side of the connection to the router.
//!
//! In: whole route tables from the reconciler, with the certificates that they name. Out: which version the router
//! serves, which dynos have no request left, and request records for logplex. The link connects again by itself and
//! sends the last table and its certificates again; nobody who holds it notices a restart of the router except by a
//! late answer.
//!
//! Of several tables that wait for a slow router only the newest is sent. A certificate is sent once a connection,
//! ahead of the first table that names it, so that a table costs only what is new in it.
//!
//! While one router replaces another, both are connected: a dyno counts as drained only when each of them
//! says so. Invariant: a record is acknowledged only by [`RequestBatch::acknowledge`], after it was stored.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferroku_core::protocol::frame::{Decoder, FrameError};
use ferroku_core::protocol::router::{
    Acknowledge, Certificate, FromRouter, Hello, MessageError, MetricsReport, PROTOCOL_VERSION, Probed,
    RequestLog, Role, RouteTable, TargetState, ToRouter, certificate_frame, table_frame,
};
use ferroku_core::{AppId, DynoId};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc, watch};

/// Between two attempts to connect, in milliseconds: short, because new dynos wait for it.
const RECONNECT_PAUSE_MS: u64 = 50;
/// How many batches wait for the one who stores them before the router is made to wait.
const REQUEST_BATCH_QUEUE: usize = 16;
/// How many events a slow subscriber may lag behind; it then reads the state anew.
const EVENT_QUEUE: usize = 1024;
/// How many drained dynos are remembered beyond those in the table.
const DRAINED_MEMORY: usize = 4096;

/// What the router reports about tables and dynos.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouterEvent {
    /// The table of this version, or a later one, is served.
    Applied { version: u64 },
    /// No request is in flight to this dyno, and none will be sent.
    Drained { dyno_id: DynoId },
    /// A request waits for this sleeping app.
    Wake { app_id: AppId },
    /// How the probe of a dyno that is being added ended.
    Probed(Probed),
}

/// Request records to be stored.
#[derive(Debug)]
pub struct RequestBatch {
    pub log: RequestLog,
    reply: mpsc::UnboundedSender<Acknowledge>,
}

impl RequestBatch {
    /// The key under which sequences of these records rise and are unique, for logplex's `append_keyed`.
    pub fn key(&self) -> String {
        format!("router-{}", self.log.instance)
    }

    /// Lets the router forget the records. Call it when they are on disk.
    pub fn acknowledge(self) {
        if let Some(last) = self.log.records.last() {
            let acknowledge = Acknowledge { instance: self.log.instance, sequence: last.sequence };
            let _ = self.reply.send(acknowledge);
        }
    }
}

/// The connection to the router. Clones share it.
#[derive(Debug, Clone)]
pub struct RouterLink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    events: broadcast::Sender<RouterEvent>,
    applied: watch::Sender<u64>,
    batches: mpsc::Sender<RequestBatch>,
    /// What every connected router is to have.
    publication: watch::Sender<Option<Arc<Publication>>>,
}

/// A table with the certificates that it names.
#[derive(Debug)]
struct Publication {
    table: RouteTable,
    certificates: Vec<Arc<Certificate>>,
}

#[derive(Debug)]
struct State {
    last_version: u64,
    next_connection: u64,
    connections: HashMap<u64, Connection>,
    drained: HashSet<DynoId>,
    batches: Option<mpsc::Receiver<RequestBatch>>,
}

#[derive(Debug)]
struct Connection {
    instance: u64,
    acknowledges: mpsc::UnboundedSender<Acknowledge>,
    drained: HashSet<DynoId>,
    metrics: Option<MetricsReport>,
}

#[derive(Debug, Error)]
enum LinkError {
    #[error("the connection to the router broke")]
    Io(#[from] io::Error),
    #[error("the router sent bytes that are no frame")]
    Frame(#[from] FrameError),
    #[error("a message to or from the router is malformed")]
    Message(#[from] MessageError),
    #[error(
        "the router speaks protocol version {0}, this control {PROTOCOL_VERSION}: restart the node's router"
    )]
    Version(u64),
    #[error("the router closed the connection")]
    Closed,
    #[error("this router is already connected")]
    Twice,
}

impl RouterLink {
    /// Starts to connect to the router's socket and goes on for ever. Returns at once.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect(socket: impl Into<PathBuf>) -> Self {
        let (batches, receiver) = mpsc::channel(REQUEST_BATCH_QUEUE);
        let state = State {
            last_version: now_us(),
            next_connection: 0,
            connections: HashMap::new(),
            drained: HashSet::new(),
            batches: Some(receiver),
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            events: broadcast::Sender::new(EVENT_QUEUE),
            applied: watch::Sender::new(0),
            batches,
            publication: watch::Sender::new(None),
        });
        tokio::spawn(keep_connected(Arc::downgrade(&shared), socket.into()));
        Self { shared }
    }

    /// Makes `table` the one that every connected router serves, and returns the version it is stamped with
    /// (`table.version` is overwritten; versions rise over restarts of control). `certificates` are those that the
    /// table names, new ones or not.
    ///
    /// Keep a target in the table as draining until it is reported drained: a router that never knew of a
    /// dyno cannot report it.
    pub fn publish(&self, mut table: RouteTable, certificates: Vec<Arc<Certificate>>) -> u64 {
        let mut state = self.shared.lock();
        state.last_version = now_us().max(state.last_version + 1);
        table.version = state.last_version;
        let targets = || table.apps.iter().flat_map(|app| &app.targets);
        for target in targets().filter(|target| target.state != TargetState::Draining) {
            state.drained.remove(&target.dyno_id);
            for connection in state.connections.values_mut() {
                connection.drained.remove(&target.dyno_id);
            }
        }
        if state.drained.len() > DRAINED_MEMORY {
            let known: HashSet<DynoId> = targets().map(|target| target.dyno_id).collect();
            state.drained.retain(|dyno_id| known.contains(dyno_id));
            for connection in state.connections.values_mut() {
                connection.drained.retain(|dyno_id| known.contains(dyno_id));
            }
        }
        let version = table.version;
        // Under the lock, so that no older table comes after a newer one.
        self.shared.publication.send_replace(Some(Arc::new(Publication { table, certificates })));
        version
    }

    /// Events from now on. A lagged receiver asks [`Self::is_drained`] and [`Self::applied_version`].
    pub fn subscribe(&self) -> broadcast::Receiver<RouterEvent> {
        self.shared.events.subscribe()
    }

    /// Returns once the accepting router serves the table of this version or a later one.
    pub async fn wait_applied(&self, version: u64) {
        let mut applied = self.shared.applied.subscribe();
        // The sender lives as long as self does, so this ends only by the condition.
        let _ = applied.wait_for(|applied| *applied >= version).await;
    }

    /// The version that the accepting router serves; 0 before the first answer.
    pub fn applied_version(&self) -> u64 {
        *self.shared.applied.borrow()
    }

    /// Whether every connected router has reported that no request is in flight to this dyno.
    pub fn is_drained(&self, dyno_id: DynoId) -> bool {
        self.shared.lock().drained.contains(&dyno_id)
    }

    /// The newest report of each connected router: more than one while one replaces another.
    pub fn metrics(&self) -> Vec<MetricsReport> {
        let state = self.shared.lock();
        state.connections.values().filter_map(|connection| connection.metrics.clone()).collect()
    }

    /// How many requests of the app were open when the routers reported last; None while none has.
    pub fn open_requests(&self, app_id: AppId) -> Option<u64> {
        let state = self.shared.lock();
        let reports: Option<Vec<&MetricsReport>> =
            state.connections.values().map(|connection| connection.metrics.as_ref()).collect();
        let apps = reports.filter(|reports| !reports.is_empty())?.into_iter().flat_map(|report| &report.apps);
        Some(apps.filter(|app| app.app_id == app_id).map(|app| app.open_requests).sum())
    }

    /// The request records; the first caller gets them.
    pub fn take_request_batches(&self) -> Option<mpsc::Receiver<RequestBatch>> {
        self.shared.lock().batches.take()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn applied(&self, version: u64) {
        self.applied.send_if_modified(|applied| {
            let newer = version > *applied;
            *applied = version.max(*applied);
            newer
        });
        let _ = self.events.send(RouterEvent::Applied { version });
    }

    fn drained(&self, connection: u64, dyno_id: DynoId) {
        let mut state = self.lock();
        if let Some(connection) = state.connections.get_mut(&connection) {
            connection.drained.insert(dyno_id);
        }
        state.settle(dyno_id, &self.events);
    }

    fn disconnected(&self, connection: u64) {
        let mut state = self.lock();
        state.connections.remove(&connection);
        let reported: HashSet<DynoId> =
            state.connections.values().flat_map(|connection| connection.drained.iter().copied()).collect();
        for dyno_id in reported {
            state.settle(dyno_id, &self.events);
        }
    }
}

impl State {
    /// Announces the dyno as drained when every connected router has reported it.
    fn settle(&mut self, dyno_id: DynoId, events: &broadcast::Sender<RouterEvent>) {
        let everywhere = !self.connections.is_empty()
            && self.connections.values().all(|connection| connection.drained.contains(&dyno_id));
        if everywhere && self.drained.insert(dyno_id) {
            let _ = events.send(RouterEvent::Drained { dyno_id });
        }
    }
}

/// Holds one connection to the router that accepts requests; connections to leaving ones run beside it.
async fn keep_connected(shared: std::sync::Weak<Shared>, socket: PathBuf) {
    let mut last_error = String::new();
    while let Some(strong) = shared.upgrade() {
        match open(&strong, &socket).await {
            Ok(opened) => {
                drop(strong);
                last_error.clear();
                let (leaving, left) = tokio::sync::oneshot::channel();
                tokio::spawn(serve(shared.clone(), opened, leaving));
                let _ = left.await;
            }
            Err(error) => {
                let text = error.to_string();
                if text != last_error && !matches!(error, LinkError::Twice) {
                    tracing::debug!(%error, "the router is not reachable yet");
                    last_error = text;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(RECONNECT_PAUSE_MS)).await;
    }
}

/// A connection after the hellos.
struct Opened {
    number: u64,
    stream: UnixStream,
    decoder: Decoder,
    outgoing: Outgoing,
}

/// What a connection's writer sends.
struct Outgoing {
    acknowledges: mpsc::UnboundedReceiver<Acknowledge>,
    publications: watch::Receiver<Option<Arc<Publication>>>,
    /// The digests of the certificates that this router has, by id.
    sent: HashMap<String, String>,
}

/// Connects, exchanges hellos and registers the connection.
async fn open(shared: &Shared, socket: &Path) -> Result<Opened, LinkError> {
    let stream = ferroku_router::socket::connect(socket)?;
    stream.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(stream)?;
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        binary_digest: String::new(),
        instance: 0,
        role: Role::Control,
    };
    stream.write_all(&ToRouter::Hello(hello).encode()?).await?;
    let mut decoder = Decoder::default();
    let instance = loop {
        match next_message(&mut stream, &mut decoder).await? {
            Some(FromRouter::Hello(hello)) if hello.protocol_version == PROTOCOL_VERSION => {
                break hello.instance;
            }
            Some(FromRouter::Hello(hello)) => return Err(LinkError::Version(hello.protocol_version.into())),
            _ => {}
        }
    };
    let mut state = shared.lock();
    if state.connections.values().any(|connection| connection.instance == instance) {
        return Err(LinkError::Twice);
    }
    let (acknowledges, receiver) = mpsc::unbounded_channel();
    let mut publications = shared.publication.subscribe();
    publications.mark_changed();
    let number = state.next_connection;
    state.next_connection += 1;
    state
        .connections
        .insert(number, Connection { instance, acknowledges, drained: HashSet::new(), metrics: None });
    let outgoing = Outgoing { acknowledges: receiver, publications, sent: HashMap::new() };
    Ok(Opened { number, stream, decoder, outgoing })
}

/// Runs one connection to its end.
async fn serve(
    shared: std::sync::Weak<Shared>,
    Opened { number, stream, decoder, outgoing }: Opened,
    leaving: tokio::sync::oneshot::Sender<()>,
) {
    let (reader, writer) = stream.into_split();
    let result = tokio::select! {
        result = read(&shared, number, reader, decoder, leaving) => result,
        result = outgoing.write(writer) => result,
    };
    if let Some(shared) = shared.upgrade() {
        shared.disconnected(number);
    }
    match result {
        Ok(()) | Err(LinkError::Closed) => tracing::debug!("the router closed its connection"),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the connection to the router ended")
        }
    }
}

async fn read(
    shared: &std::sync::Weak<Shared>,
    number: u64,
    mut reader: OwnedReadHalf,
    mut decoder: Decoder,
    leaving: tokio::sync::oneshot::Sender<()>,
) -> Result<(), LinkError> {
    let mut leaving = Some(leaving);
    let mut dropped: HashMap<u64, u64> = HashMap::new();
    loop {
        let message = next_message(&mut reader, &mut decoder).await?;
        let Some(shared) = shared.upgrade() else { return Ok(()) };
        match message {
            Some(FromRouter::TableApplied(applied)) if leaving.is_some() => shared.applied(applied.version),
            Some(FromRouter::Drained(drained)) => shared.drained(number, drained.dyno_id),
            Some(FromRouter::RequestLog(log)) => {
                let before = dropped.insert(log.instance, log.dropped).unwrap_or(0);
                if log.dropped > before {
                    tracing::warn!(
                        count = log.dropped - before,
                        "the router dropped request records that waited too long"
                    );
                }
                let reply =
                    shared.lock().connections.get(&number).map(|connection| connection.acknowledges.clone());
                let batches = shared.batches.clone();
                drop(shared);
                if let Some(reply) = reply {
                    let _ = batches.send(RequestBatch { log, reply }).await;
                }
            }
            Some(FromRouter::Leaving) => drop(leaving.take()),
            Some(FromRouter::Wake(wake)) => {
                let _ = shared.events.send(RouterEvent::Wake { app_id: wake.app_id });
            }
            Some(FromRouter::Probed(probed)) => {
                let _ = shared.events.send(RouterEvent::Probed(probed));
            }
            Some(FromRouter::Metrics(report)) => {
                if let Some(connection) = shared.lock().connections.get_mut(&number) {
                    connection.metrics = Some(report);
                }
            }
            _ => {}
        }
    }
}

impl Outgoing {
    /// Writes until the connection breaks.
    async fn write(mut self, mut writer: OwnedWriteHalf) -> Result<(), LinkError> {
        // Neither sender may be left while the other is not: records are stored after the link was let go of.
        let (mut publishing, mut acknowledging) = (true, true);
        while publishing || acknowledging {
            tokio::select! {
                changed = self.publications.changed(), if publishing => match changed {
                    Ok(()) => self.publish(&mut writer).await?,
                    Err(_) => publishing = false,
                },
                acknowledge = self.acknowledges.recv(), if acknowledging => match acknowledge {
                    Some(acknowledge) => {
                        writer.write_all(&ToRouter::Acknowledge(acknowledge).encode()?).await?;
                    }
                    None => acknowledging = false,
                },
            }
        }
        std::future::pending().await
    }

    /// Sends the newest table and, ahead of it, what the router lacks of its certificates.
    async fn publish(&mut self, writer: &mut OwnedWriteHalf) -> Result<(), LinkError> {
        let Some(publication) = self.publications.borrow_and_update().clone() else { return Ok(()) };
        for certificate in &publication.certificates {
            if self.sent.get(&certificate.id) == Some(&certificate.digest) {
                continue;
            }
            match certificate_frame(certificate) {
                Ok(bytes) => writer.write_all(&bytes).await?,
                // The router leaves it out; ending the link would take all the others away as well.
                Err(error) => refused(&error, "a certificate cannot be sent to the router; upload it again"),
            }
            self.sent.insert(certificate.id.clone(), certificate.digest.clone());
        }
        match table_frame(&publication.table) {
            Ok(bytes) => writer.write_all(&bytes).await?,
            // The router goes on with the table it has; ending the link would take its reports away as well.
            Err(error) => {
                refused(
                    &error,
                    "the router keeps the route table before; remove apps or domains from the node",
                );
                return Ok(());
            }
        }
        // The router forgets what its table does not name, and so does this side.
        let named: HashSet<&str> = publication.table.certificates.iter().map(|one| one.id.as_str()).collect();
        self.sent.retain(|id, _| named.contains(id.as_str()));
        Ok(())
    }
}

fn refused(error: &MessageError, consequence: &'static str) {
    tracing::error!(error = error as &dyn std::error::Error, "{consequence}");
}

/// The next message; `None` for one that this version does not know.
async fn next_message(
    reader: &mut (impl tokio::io::AsyncRead + Unpin),
    decoder: &mut Decoder,
) -> Result<Option<FromRouter>, LinkError> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if let Some(frame) = decoder.next_frame()? {
            return Ok(FromRouter::decode(&frame)?);
        }
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return Err(LinkError::Closed);
        }
        decoder.push(&buffer[..count]);
    }
}

fn now_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}
