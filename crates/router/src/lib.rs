//! The data plane: takes HTTP requests from the world and passes each to a dyno.
//!
//! In: connections on the router's listeners, route tables on `DIR/run/router.sock`. Out: requests to dynos,
//! request records and reports about drained dynos back over the socket.
//!
//! ```text
//! client -> worker (accept) -> connection (TLS, parse) -> proxy (find app, choose dyno) -> upstream -> dyno
//!                                                           |              table <- control <- peer
//!                                                           +-> exchange (log line) -> outbox -> peer -> control
//! ```
//!
//! Invariants: the way of a request takes no lock that another thread holds for long, and never waits for the
//! control process; the last table is served when control is away; every request of a known app leaves
//! exactly one record. Heroku's rules: Dev Center, "HTTP Routing" and "Heroku Error Codes".
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod addresses;
mod affinity;
mod app_state;
mod body;
mod choice;
mod client_io;
mod connection;
mod control;
mod disk;
mod exchange;
mod failure;
pub mod handback;
mod headers;
mod intake;
pub mod limits;
mod metrics;
mod outbox;
mod pages;
mod peer;
mod probe;
mod proxy;
mod random;
mod shared;
pub mod socket;
mod ssh;
mod table;
mod target;
mod tls;
mod tunnel;
mod upstream;
mod wake;
mod worker;

use std::collections::HashSet;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use ferroku_core::protocol::router::{Hello, PROTOCOL_VERSION, Role};
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

use crate::control::Control;
use crate::handback::Listeners;
use crate::limits::{ConnectionLimits, Timeouts};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::peer::Host;
use crate::probe::Probes;
use crate::shared::Shared;
use crate::table::Compiler;
use crate::worker::Door;

/// Messages from peers that wait for the main task; more make the peer wait.
const HEARD_QUEUE: usize = 64;

/// What a router needs.
#[derive(Debug)]
pub struct RouterConfig {
    /// Where clients connect, in clear text or by TLS alike; at least one. When there are two, the second is
    /// where clients are sent for https. Shared with the router before and after this one.
    pub listeners: Vec<Listener>,
    /// Kept only to be given back to a new supervisor.
    pub api_listener: Option<OwnedFd>,
    /// Where control and the supervisor connect; made by [`socket::bind`].
    pub control: UnixListener,
    /// For the last table and for records that nobody acknowledged. Must exist and be writable.
    pub state_folder: PathBuf,
    /// SHA-256 of the executable, for the hello.
    pub binary_digest: String,
    /// How many threads serve requests: one a core.
    pub workers: usize,
    /// The only uid that may connect to `control`: root.
    pub trusted_uid: u32,
    pub timeouts: Timeouts,
    pub connection_limits: ConnectionLimits,
    /// Where control takes SSH clients that come to a listener; `None`: they are turned away.
    pub ssh_socket: Option<PathBuf>,
}

/// A socket that clients connect to.
#[derive(Debug)]
pub struct Listener {
    pub listener: TcpListener,
    /// What X-Forwarded-Port says; the listener's own port when `None`.
    pub public_port: Option<u16>,
}

/// Why a router does not start.
#[derive(Debug, Error)]
pub enum RouterError {
    #[error("cannot use the router's listening socket")]
    Listener(#[source] io::Error),
    #[error("a router needs at least one listening socket")]
    NoListener,
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
    #[error("cannot start a thread or runtime of the router")]
    Thread(#[source] io::Error),
    #[error("cannot use the router's control socket")]
    Control(#[source] io::Error),
}

/// A running router.
#[derive(Debug)]
pub struct Router {
    stop: mpsc::UnboundedSender<()>,
    thread: JoinHandle<()>,
}

impl Router {
    /// Serves from now on, with the last table on disk until control sends one.
    ///
    /// # Errors
    /// A socket or a thread cannot be had.
    pub fn start(config: RouterConfig) -> Result<Self, RouterError> {
        let doors = doors(config.listeners).map_err(RouterError::Listener)?;
        let https_port = doors.last().ok_or(RouterError::NoListener)?.public_port;
        config.control.set_nonblocking(true).map_err(RouterError::Control)?;
        let workers = config.workers.max(1);
        let (timeouts, limits) = (config.timeouts.clone(), &config.connection_limits);
        let shared = Shared::new(timeouts, limits, workers, https_port, config.ssh_socket)
            .map_err(RouterError::Tls)?;
        let (emptied, emptied_queue) = mpsc::unbounded_channel();
        let (probed, probed_queue) = mpsc::unbounded_channel();
        let instance = now_us();
        let last_table = disk::last_table(&config.state_folder);
        let runtime = runtime().map_err(RouterError::Thread)?;
        let (heard, heard_queue) = mpsc::channel(HEARD_QUEUE);
        let accepting = {
            let _inside = runtime.enter();
            let listener =
                tokio::net::UnixListener::from_std(config.control).map_err(RouterError::Control)?;
            let host = host(&doors, config.api_listener, config.binary_digest, instance, config.trusted_uid)?;
            runtime.spawn(peer::listen(listener, Arc::new(host), heard))
        };
        let mut control = Control {
            shared: shared.clone(),
            compiler: Compiler::new(workers, emptied),
            outbox: Outbox::new(config.state_folder.clone(), instance),
            folder: config.state_folder,
            heard: heard_queue,
            emptied: emptied_queue,
            metrics: Metrics::default(),
            instance,
            probes: Probes::new(probed),
            probed: probed_queue,
            peer: None,
            reported: HashSet::new(),
            gather_at: None,
            accepting,
        };
        if let Some(table) = last_table {
            control.apply(table);
        }
        let threads = Threads::start(&shared, &doors, workers)?;
        drop(doors);
        let (stop, mut stopped) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new().name("router-main".into()).spawn(move || {
            runtime.block_on(control.serve(&mut stopped));
            runtime.block_on(control.leave());
            threads.finish();
            runtime.block_on(control.settle());
        });
        Ok(Self { stop, thread: thread.map_err(RouterError::Thread)? })
    }

    /// Stops accepting; requests in flight go on for up to the drain limit. Returns at once.
    pub fn leave(&self) {
        // A router that has ended already needs no telling.
        let _ = self.stop.send(());
    }

    /// Returns when the router has ended, which it does only after [`Self::leave`].
    pub fn wait(self) {
        if self.thread.join().is_err() {
            tracing::error!("the router's main thread panicked");
        }
    }
}

struct Threads {
    running: Vec<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Threads {
    fn start(shared: &Arc<Shared>, doors: &[Door], workers: usize) -> Result<Self, RouterError> {
        let (hands, queues): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::unbounded_channel()).unzip();
        let mut running = Vec::with_capacity(workers);
        for (number, queue) in queues.into_iter().enumerate() {
            let doors = clone(doors).map_err(RouterError::Listener)?;
            let runtime = runtime().map_err(RouterError::Thread)?;
            let (shared, hands) = (shared.clone(), hands.clone());
            let (finish, finished) = oneshot::channel();
            let thread = std::thread::Builder::new().name(format!("router-{number}")).spawn(move || {
                worker::run(&shared, number, doors, hands, queue, &runtime, finished);
            });
            running.push((finish, thread.map_err(RouterError::Thread)?));
        }
        Ok(Self { running })
    }

    /// Ends the threads; what they still serve is dropped, and recorded as such.
    fn finish(self) {
        for (finish, thread) in self.running {
            let _ = finish.send(());
            if thread.join().is_err() {
                tracing::error!("a router thread panicked");
            }
        }
    }
}

fn host(
    doors: &[Door],
    api_listener: Option<OwnedFd>,
    binary_digest: String,
    instance: u64,
    trusted_uid: u32,
) -> Result<Host, RouterError> {
    let mut routers =
        clone(doors).map_err(RouterError::Listener)?.into_iter().map(|door| door.listener.into());
    let listeners = api_listener.zip(routers.next());
    let listeners = listeners.map(|(api, router)| Listeners { router, api, router_tls: routers.next() });
    let hello = Hello { protocol_version: PROTOCOL_VERSION, binary_digest, instance, role: Role::Router };
    Ok(Host { hello, trusted_uid, listeners })
}

fn doors(listeners: Vec<Listener>) -> io::Result<Vec<Door>> {
    let door = |Listener { listener, public_port }: Listener| {
        listener.set_nonblocking(true)?;
        let public_port = match public_port {
            Some(port) => port,
            None => listener.local_addr()?.port(),
        };
        Ok(Door { listener, public_port })
    };
    listeners.into_iter().map(door).collect()
}

fn clone(doors: &[Door]) -> io::Result<Vec<Door>> {
    let clone =
        |door: &Door| Ok(Door { listener: door.listener.try_clone()?, public_port: door.public_port });
    doors.iter().map(clone).collect()
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// Tells one run of a router from the next, and rises.
fn now_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}
