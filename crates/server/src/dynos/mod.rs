//! Dynos: keeps what runs as the formation wants it.
//!
//! One loop per app ([`app_loop`]) reads what is wanted and what is there, asks the planner
//! (`ferroku_core::planner`) and carries its actions out through the driver; it takes no input but pokes and
//! what dynos report. Handlers change rows and [`DynoManager::poke`].
//!
//! In: rows (app, release, formation, dyno), events of dynos, what the router says of drained dynos. Out: dynos
//! started and stopped, their rows kept true, their log lines, the route table.
//!
//! Invariants:
//! - A row is written before its process is started, and ended only after the process is gone.
//! - A log line is acknowledged to dyno-init, and a request record to the router, only when written.
//! - All changes of one app's dynos happen in its loop, one after the other.
//! - A restart of this process leaves dynos alone: [`DynoManager::start`] finds them again by their rows.

mod actions;
mod app_loop;
mod attach;
mod certificates;
mod eco_hours;
mod environment;
mod events;
mod inside;
mod log_text;
mod memory;
mod one_off;
mod pump;
mod room;
mod router_feed;
mod routes;
mod sleep;

pub use actions::terminal_size;
pub use environment::substitute;
pub use inside::{InsideError, InsideRequest, check_up};
pub use one_off::{RunError, RunRequest};
pub use room::{Allotment, Claimed, machine_memory_bytes};
pub use sleep::SleepSettings;

use crate::crash_point;
use crate::events::EventFeed;
use crate::node::now_ms;
use crate::rendezvous::AttachedStreams;
use crate::router_link::RouterLink;
use app_loop::{AppLoop, Message};
use ferroku_core::room::{Claim, Shortage};
use ferroku_core::{AppId, DynoId, Millis};
use ferroku_logplex::{LogLine, Logplex};
use ferroku_runtime::{Driver, DynoHandle, RuntimeError, SandboxDriver};
use ferroku_store::{Store, StoreError, dynos};
use room::Room;
use routes::Routes;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

/// Rows of ended dynos are kept this long, in milliseconds: what a support question of the same day needs.
const HISTORY_MS: Millis = 24 * 60 * 60 * 1000;
/// How often new apps are looked for and history is pruned. Pokes make changes visible at once; this is for
/// what was poked before a crash.
const SWEEP: Duration = Duration::from_secs(10);
/// How many web dynos of an app may serve beyond the wanted number during a deploy.
pub(crate) const MAX_SURGE: u32 = 10;

/// At the node's end: how long beyond the grace dynos may take to be gone, for the kills that follow it.
const SHUTDOWN_MARGIN: Duration = Duration::from_secs(10);

/// What the manager works with.
#[derive(Clone)]
pub struct Parts {
    pub store: Store,
    pub logplex: Logplex,
    pub driver: Arc<SandboxDriver>,
    pub router: RouterLink,
    /// Apps are served at `NAME.DOMAIN`.
    pub domain: String,
    /// Told when a release command has ended.
    pub events: Arc<EventFeed>,
    pub settings: DynoSettings,
    /// The data folder.
    pub data: PathBuf,
}

/// What the node's admin chose for all dynos.
#[derive(Debug, Clone, Default)]
pub struct DynoSettings {
    /// How long a dyno lives until it is cycled; `None`: as long as it can.
    pub cycle_after: Option<Duration>,
    /// How many bytes of memory dynos and builds may be promised by their sizes; `None`: any number.
    pub memory_bytes: Option<u64>,
    /// What makes the containers in place of libcontainer.
    pub oci_runtime: Option<PathBuf>,
    pub sleep: SleepSettings,
    /// How many hours a month the eco dynos of an account may be awake, all together; `None`: without end.
    pub eco_hours: Option<u32>,
}

impl DynoSettings {
    /// The quota of eco hours, in milliseconds.
    pub fn eco_quota_ms(&self) -> Option<Millis> {
        self.eco_hours.map(|hours| Millis::from(hours) * 3_600_000)
    }
}

/// Why the manager could not do something.
#[derive(Debug, Error)]
pub enum DynosError {
    #[error("cannot read or write the rows of dynos")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("the dyno {0} is not waiting for a client")]
    NotWaiting(DynoId),
    #[error("the environment of the dyno cannot be put together: {0}")]
    Inside(String),
    #[error("the dynos are being stopped")]
    Closing,
    #[error("there is no room for the dyno: {0}")]
    NoRoom(Shortage),
}

impl DynosError {
    /// Whether the same may succeed later, with nothing changed but the database and its disk.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_disk_full() || error.is_unavailable())
    }
}

type Result<T, E = DynosError> = std::result::Result<T, E>;

/// Starts and stops dynos. Clones share one manager. The default one runs nothing: for tests of handlers.
#[derive(Clone, Default)]
pub struct DynoManager(Option<Arc<Shared>>);

struct Shared {
    parts: Parts,
    routes: Routes,
    room: Arc<Room>,
    apps: Mutex<Loops>,
    requests: sleep::Requests,
    /// Removals of the traces of ended dynos and of destroyed apps' dynos: the node's end waits for them.
    removals: TaskTracker,
}

#[derive(Default)]
struct Loops {
    senders: HashMap<AppId, mpsc::UnboundedSender<Message>>,
    closing: bool,
}

impl DynoManager {
    /// A manager that does nothing until [`DynoManager::start`].
    pub fn new(parts: Parts) -> Self {
        let room = Arc::new(Room::new(parts.data.clone(), parts.settings.memory_bytes));
        Self(Some(Arc::new(Shared {
            parts,
            room,
            routes: Routes::new(),
            apps: Mutex::default(),
            requests: sleep::Requests::new(),
            removals: TaskTracker::new(),
        })))
    }

    /// Finds the dynos of an earlier run of this process again, and from then on keeps every app as it is wanted.
    /// To be called once.
    ///
    /// # Errors
    /// Rows or the driver's state cannot be read.
    pub async fn start(&self) -> Result<()> {
        let Some(shared) = &self.0 else { return Ok(()) };
        let store = &shared.parts.store;
        let mut handles: BTreeMap<AppId, Vec<Adopted>> = BTreeMap::new();
        for handle in shared.parts.driver.adopt().await? {
            crash_point::hit("dyno.adopted");
            let row = dynos::find(store, handle.dyno_id).await?;
            match row {
                // All claims are made before any loop starts another dyno.
                Some(row) if row.ended_at.is_none() => {
                    handles.entry(row.app_id).or_default().push((handle, shared.room.keep(&row)));
                }
                // Its row has ended, or its app is gone, or it was no app's: a build whose push is gone.
                _ => shared.remove_later(handle.dyno_id),
            }
        }
        let apps = dynos::list_apps(store).await?;
        shared.routes.expect(apps.iter().copied());
        tokio::spawn({
            let shared = shared.clone();
            async move { shared.routes.publish(&shared.parts.router).await }
        });
        tokio::spawn(router_feed::run(shared.clone()));
        for app_id in apps {
            shared.open(app_id, handles.remove(&app_id).unwrap_or_default());
        }
        tokio::spawn(sweep(shared.clone()));
        tokio::spawn(memory::watch(shared.clone()));
        tokio::spawn(wake_waiting(shared.clone()));
        tokio::spawn(sleep::watch_memory(shared.clone()));
        tokio::spawn(eco_hours::count(shared.clone()));
        Ok(())
    }

    /// Why a dyno that is written down is not started, if there is no room for it.
    pub fn shortage(&self, dyno_id: DynoId) -> Option<Shortage> {
        self.0.as_ref().and_then(|shared| shared.room.shortage(dyno_id))
    }

    /// What memory may be promised; `None` where nothing is ever run.
    pub fn allotment(&self) -> Option<Allotment> {
        self.0.as_ref().map(|shared| shared.room.allotment())
    }

    /// Takes room for a build, for as long as what is returned lives.
    ///
    /// # Errors
    /// There is none.
    pub fn claim_build(
        &self,
        app_id: AppId,
        dyno_id: DynoId,
        memory_bytes: u64,
    ) -> Result<Option<Claimed>, Shortage> {
        let Some(shared) = &self.0 else { return Ok(None) };
        let claim = Claim { slot: None, memory_bytes };
        // Nobody tries it again but who pushes again.
        let claimed = shared.room.claim(app_id, dyno_id, claim).inspect_err(|_| shared.room.forget(dyno_id));
        claimed.map(Some)
    }

    /// Says that something about the app changed that its dynos or its route depend on.
    pub fn poke(&self, app_id: AppId) {
        if let Some(shared) = &self.0 {
            shared.send(app_id, Message::Poke);
        }
    }

    /// Says that somebody asks for the app otherwise than by a request: it wakes, and is not idle from now on.
    pub fn wake(&self, app_id: AppId) {
        if let Some(shared) = &self.0 {
            shared.requests.note(app_id);
            shared.send(app_id, Message::Look);
        }
    }

    /// Stops every dyno of an app that was destroyed and removes its route. Returns once they are gone.
    pub async fn app_destroyed(&self, app_id: AppId) {
        let Some(shared) = &self.0 else { return };
        let _removal = shared.removals.token();
        let (done, wait) = oneshot::channel();
        let sender = shared.lock().senders.remove(&app_id);
        if let Some(sender) = sender
            && sender.send(Message::Destroyed(done)).is_ok()
        {
            let _ = wait.await;
        }
        shared.routes.set(app_id, None);
        shared.requests.forget(app_id);
    }

    /// Lets the router answer an ACME challenge on every host. Returns once it does.
    pub async fn answer_acme_challenge(&self, token: &str, key_authorization: &str) {
        let Some(shared) = &self.0 else { return };
        shared.routes.set_challenge(token, Some(key_authorization));
        shared.routes.served(&shared.parts.router).await;
    }

    /// Lets the router answer a challenge no more, from its next table on.
    pub fn forget_acme_challenge(&self, token: &str) {
        let Some(shared) = &self.0 else { return };
        shared.routes.set_challenge(token, None);
    }

    /// Starts a waiting attached one-off for the client that has come.
    ///
    /// # Errors
    /// The dyno is not there, or has a client, or has been given up.
    pub async fn attach(&self, dyno_id: DynoId) -> Result<AttachedStreams> {
        let shared = self.0.as_ref().ok_or(DynosError::NotWaiting(dyno_id))?;
        let row = dynos::find(&shared.parts.store, dyno_id).await?;
        let row = row.filter(|row| row.attached && row.ended_at.is_none());
        let row = row.ok_or(DynosError::NotWaiting(dyno_id))?;
        let (answer, wait) = oneshot::channel();
        shared.send(row.app_id, Message::Attach { dyno_id, answer });
        wait.await.map_err(|_| DynosError::NotWaiting(dyno_id))?
    }

    /// Stops every dyno (SIGTERM, SIGKILL after `grace`) and starts none any more. Returns when all are gone.
    ///
    /// For the end of the node; a mere restart of this process just drops the manager.
    pub async fn shutdown(&self, grace: Duration) {
        let Some(shared) = &self.0 else { return };
        let senders: Vec<_> = {
            let mut loops = shared.lock();
            loops.closing = true;
            loops.senders.drain().map(|(_, sender)| sender).collect()
        };
        let mut waits = Vec::new();
        for sender in senders {
            let (done, wait) = oneshot::channel();
            if sender.send(Message::Shutdown { grace, done }).is_ok() {
                waits.push(wait);
            }
        }
        let all = async {
            for wait in waits {
                let _ = wait.await;
            }
            shared.removals.close();
            shared.removals.wait().await;
        };
        if tokio::time::timeout(grace + SHUTDOWN_MARGIN, all).await.is_err() {
            tracing::error!("some dynos could not be stopped in time");
        }
    }
}

impl DynoManager {
    /// Ends the loops and leaves the dynos alone: for a restart of this process.
    pub fn leave(&self) {
        let Some(shared) = &self.0 else { return };
        let mut loops = shared.lock();
        loops.closing = true;
        for (_, sender) in loops.senders.drain() {
            let _ = sender.send(Message::Leave);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Loops> {
        self.apps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the app's loop if it is not open, with dynos found again.
    fn open(self: &Arc<Self>, app_id: AppId, handles: Vec<Adopted>) {
        let mut loops = self.lock();
        if loops.closing || loops.senders.contains_key(&app_id) {
            return;
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        loops.senders.insert(app_id, sender.clone());
        tokio::spawn(AppLoop::new(self.clone(), app_id, sender).run(receiver, handles));
    }

    fn send(self: &Arc<Self>, app_id: AppId, message: Message) {
        self.open(app_id, Vec::new());
        if let Some(sender) = self.lock().senders.get(&app_id) {
            // A loop that has ended knows why: its app is gone.
            let _ = sender.send(message);
        }
    }

    /// Forgets a loop that has ended by itself.
    fn closed(&self, app_id: AppId) {
        self.lock().senders.remove(&app_id);
        self.routes.set(app_id, None);
    }

    /// Removes every trace of a dyno, in the background.
    fn remove_later(self: &Arc<Self>, dyno_id: DynoId) {
        let shared = self.clone();
        self.removals.spawn(async move {
            if let Err(error) = shared.parts.driver.remove(dyno_id).await {
                tracing::error!(%dyno_id, error = &error as &dyn std::error::Error, "cannot remove a dyno's traces");
            }
        });
    }

    /// A line `heroku[web.1]: ...`.
    fn log(&self, app_id: AppId, process: &str, message: impl Into<Vec<u8>>) {
        self.parts.logplex.append(app_id, LogLine::new(now_us(), "heroku", process, message));
    }
}

/// A dyno that was found again, and its claim.
type Adopted = (DynoHandle, Claimed);

/// Has dynos that wait for room tried again when some is left.
async fn wake_waiting(shared: Arc<Shared>) {
    loop {
        shared.room.freed.notified().await;
        for app_id in shared.room.waiting_apps() {
            shared.send(app_id, Message::Look);
        }
    }
}

async fn sweep(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        if shared.lock().closing {
            return;
        }
        if let Err(error) = sweep_once(&shared).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for apps without a loop");
        }
    }
}

async fn sweep_once(shared: &Arc<Shared>) -> Result<()> {
    let store = &shared.parts.store;
    for app_id in dynos::list_apps(store).await? {
        shared.open(app_id, Vec::new());
    }
    prune(store).await?;
    Ok(())
}

async fn prune(store: &Store) -> ferroku_store::Result<u64> {
    let before = now_ms() - HISTORY_MS;
    ferroku_store::write!(store, tx => { dynos::prune(&mut tx, before).await })
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Time that only passes, whatever the machine's clock does; in milliseconds, from this process's first look on.
fn steady_ms() -> Millis {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    Millis::try_from(BEGIN.elapsed().as_millis()).unwrap_or(Millis::MAX)
}
