//! The route table as requests read it: host name to app, app to targets.
//!
//! In: [`RouteTable`]s from control. A table is compiled once, then read without locks through `ArcSwap`.
//! Targets outlive tables: the same dyno keeps its counter, its idle connections and its quarantine.
//!
//! Invariant: once `retire` was called and the count of requests in flight was 0 afterwards, no request is
//! ever sent to the target again. `Target::enter` counts first and looks for retirement second; `retire`
//! marks first and the caller reads the count second; both in sequentially consistent order.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferroku_core::protocol::router::{Asleep, RouteApp, RouteTable, TargetState};
use ferroku_core::{AppId, DynoId};
use tokio::sync::mpsc;

use crate::app_state::AppState;
use crate::limits::IDLE_CONNECTIONS_PER_DYNO;
use crate::tls::{Certificates, Keyring};
use crate::upstream::{IdleConnection, Sender};

/// Longest host name, in bytes (RFC 1035 section 2.3.4).
const HOST_LIMIT_BYTES: usize = 255;

/// A compiled table.
#[derive(Debug, Default)]
pub struct Table {
    hosts: HashMap<Box<str>, Arc<App>>,
    apps: Vec<Arc<App>>,
    pub certificates: Certificates,
    /// Token to key authorization.
    pub acme_challenges: BTreeMap<String, String>,
}

/// One app.
#[derive(Debug)]
pub struct App {
    pub route: RouteApp,
    /// Those that get requests.
    pub targets: Vec<Arc<Target>>,
    pub state: Arc<AppState>,
}

/// One web dyno.
#[derive(Debug)]
pub struct Target {
    pub dyno_id: DynoId,
    pub name: String,
    pub address: SocketAddr,
    retired: AtomicBool,
    /// Retired only until its probe succeeds: nothing to be reported as drained.
    adding: AtomicBool,
    in_flight: AtomicUsize,
    /// The same as `sleep.asleep.is_some()`, readable at no cost.
    is_asleep: AtomicBool,
    sleep: Mutex<Sleep>,
    /// Milliseconds on the clock of `started`.
    quarantined_until_ms: AtomicU64,
    started: Instant,
    /// One slot a worker, so that the lock is never contended on the way of a request.
    idle: Box<[Mutex<Vec<IdleConnection>>]>,
    /// The connections of HTTP/2, one a worker.
    shared: Box<[Mutex<Option<IdleConnection>>]>,
    emptied: mpsc::UnboundedSender<DynoId>,
}

/// What is known of a target's sleep.
#[derive(Debug, Default)]
struct Sleep {
    asleep: Option<Asleep>,
    /// The sleep that was ended here, which tables that were made before go on telling of.
    woken: Option<u64>,
}

/// A request in flight to a target.
#[derive(Debug)]
pub struct InFlight(pub Arc<Target>);

/// Compiles tables and remembers targets from one to the next.
#[derive(Debug)]
pub struct Compiler {
    pub keyring: Keyring,
    states: HashMap<AppId, Arc<AppState>>,
    targets: HashMap<DynoId, Arc<Target>>,
    workers: usize,
    emptied: mpsc::UnboundedSender<DynoId>,
}

impl Table {
    /// The app that `host` (as a client sent it, with or without port, in any case) belongs to.
    pub fn find(&self, host: &str) -> Option<&Arc<App>> {
        let host = strip_port(host);
        let host = host.strip_suffix('.').unwrap_or(host);
        if let Some(app) = self.hosts.get(host) {
            return Some(app);
        }
        if host.len() > HOST_LIMIT_BYTES {
            return None;
        }
        let lower = host.to_ascii_lowercase();
        if let Some(app) = self.hosts.get(lower.as_str()) {
            return Some(app);
        }
        let (_, parent) = lower.split_once('.')?;
        self.hosts.get(format!("*.{parent}").as_str())
    }

    /// Every target that gets requests.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.apps.iter().flat_map(|app| &app.targets)
    }

    pub fn apps(&self) -> impl Iterator<Item = &Arc<App>> {
        self.apps.iter()
    }
}

/// The host without `:port`; IPv6 literals keep their brackets.
pub fn strip_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

impl App {
    pub fn id(&self) -> AppId {
        self.route.app_id
    }

    /// Whether no request can pass before something is woken.
    pub fn is_asleep(&self) -> bool {
        self.route.asleep || self.targets.iter().any(|target| target.is_asleep())
    }

    /// Requests in flight to all healthy targets.
    pub fn in_flight(&self) -> usize {
        self.targets.iter().map(|target| target.in_flight()).sum()
    }
}

impl Target {
    /// Counts a request in. `None` when the target is retired or asleep: look at it again.
    pub fn enter(self: &Arc<Self>) -> Option<InFlight> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let entered = InFlight(self.clone());
        (!self.retired.load(Ordering::SeqCst) && !self.is_asleep()).then_some(entered)
    }

    pub fn is_asleep(&self) -> bool {
        self.is_asleep.load(Ordering::SeqCst)
    }

    /// How to wake it, if it must be.
    pub fn asleep(&self) -> Option<Asleep> {
        self.lock_sleep().asleep.clone()
    }

    /// This sleep is over, whatever tables say.
    pub fn woke(&self, sleep_id: u64) {
        let mut sleep = self.lock_sleep();
        sleep.woken = Some(sleep_id);
        if sleep.asleep.as_ref().is_some_and(|asleep| asleep.sleep_id == sleep_id) {
            sleep.asleep = None;
            self.is_asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Takes over what a table says.
    fn rest(&self, given: Option<Asleep>) {
        let mut sleep = self.lock_sleep();
        let over =
            |asleep: &Asleep| asleep.sleep_id != Asleep::UNKNOWN && sleep.woken == Some(asleep.sleep_id);
        let asleep = given.filter(|asleep| !over(asleep));
        self.is_asleep.store(asleep.is_some(), Ordering::SeqCst);
        if asleep.is_some() && sleep.asleep.is_none() {
            // Those who served them may give up on them as soon as they wake.
            self.close_idle();
        }
        sleep.asleep = asleep;
    }

    fn lock_sleep(&self) -> MutexGuard<'_, Sleep> {
        self.sleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    fn is_drained(&self) -> bool {
        self.is_retired() && !self.adding.load(Ordering::SeqCst) && self.in_flight() == 0
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.close_idle();
    }

    fn close_idle(&self) {
        for slot in &self.idle {
            slot.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        for slot in &self.shared {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Keeps requests away for `duration`.
    pub fn quarantine(&self, duration: Duration) {
        let until = (self.started.elapsed() + duration).as_millis();
        self.quarantined_until_ms.store(u64::try_from(until).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn is_quarantined(&self) -> bool {
        let until = self.quarantined_until_ms.load(Ordering::Relaxed);
        until != 0 && self.started.elapsed().as_millis() < u128::from(until)
    }

    /// The connection of this worker that was used last.
    pub fn take_idle(&self, worker: usize) -> Option<IdleConnection> {
        self.idle[worker].lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Keeps a connection for the next request, unless the target is retired or has enough.
    pub fn put_idle(&self, worker: usize, connection: IdleConnection) {
        let mut slot = self.idle[worker].lock().unwrap_or_else(PoisonError::into_inner);
        if slot.len() < IDLE_CONNECTIONS_PER_DYNO && !self.is_retired() && !self.is_asleep() {
            slot.push(connection);
        }
    }

    /// This worker's connection of HTTP/2, if it is open.
    pub fn share(&self, worker: usize, limit: Duration) -> Option<Sender> {
        let mut slot = self.shared[worker].lock().unwrap_or_else(PoisonError::into_inner);
        let connection = slot.as_mut().filter(|connection| connection.is_usable(limit))?;
        connection.share()
    }

    /// Keeps a connection of HTTP/2 for the requests to come, unless the target is retired.
    pub fn put_shared(&self, worker: usize, mut connection: IdleConnection) -> Option<Sender> {
        let sender = connection.share();
        let mut slot = self.shared[worker].lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_retired() {
            *slot = Some(connection);
        }
        sender
    }

    /// Closes connections that were idle for longer than `limit`, or that the dyno has closed.
    pub fn sweep(&self, limit: Duration) {
        for slot in &self.idle {
            slot.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .retain(|connection| connection.is_usable(limit));
        }
        for slot in &self.shared {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.take_if(|connection| !connection.is_usable(limit));
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let before = self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
        if before == 1 && self.0.is_retired() {
            let _ = self.0.emptied.send(self.0.dyno_id);
        }
    }
}

impl Compiler {
    /// For a router with this many workers. `emptied` gets the id of a retired target whenever its count of
    /// requests falls to 0.
    pub fn new(workers: usize, emptied: mpsc::UnboundedSender<DynoId>) -> Self {
        Self {
            keyring: Keyring::default(),
            states: HashMap::new(),
            targets: HashMap::new(),
            workers,
            emptied,
        }
    }

    /// Compiles `table`; targets that it calls draining, or no longer names, get no request from the moment
    /// on that this returns, even from requests that still read the table before.
    pub fn compile(&mut self, table: RouteTable) -> Table {
        let mut known = HashMap::with_capacity(self.targets.len());
        let mut own_names = Vec::with_capacity(table.apps.len());
        let mut hosts = HashMap::with_capacity(table.apps.len());
        let mut apps = Vec::with_capacity(table.apps.len());
        let mut states = HashMap::with_capacity(table.apps.len());
        for mut route in table.apps {
            let mut targets = Vec::new();
            for given in std::mem::take(&mut route.targets) {
                let target = match self.targets.remove(&given.dyno_id) {
                    Some(target) if target.address == given.address => target,
                    Some(stale) => {
                        stale.retire();
                        self.target(given.dyno_id, given.name, given.address)
                    }
                    None => self.target(given.dyno_id, given.name, given.address),
                };
                target.adding.store(given.state == TargetState::Adding, Ordering::SeqCst);
                match given.state {
                    TargetState::Healthy => {
                        target.rest(given.asleep);
                        target.retired.store(false, Ordering::SeqCst);
                        targets.push(target.clone());
                    }
                    // Nothing was ever sent to it; marked, so that it is not sent anything before it is healthy.
                    TargetState::Adding | TargetState::Draining => {
                        target.retire();
                        target.rest(None);
                    }
                }
                known.insert(given.dyno_id, target);
            }
            let names = std::mem::take(&mut route.hosts);
            let state = self.states.remove(&route.app_id).unwrap_or_default();
            states.insert(route.app_id, state.clone());
            let app = Arc::new(App { route, targets, state });
            apps.push(app.clone());
            let mut names = names.into_iter().map(|name| name.to_ascii_lowercase().into_boxed_str());
            own_names.extend(names.next().map(|own| (own, app.clone())));
            hosts.extend(names.map(|name| (name, app.clone())));
        }
        // An app's own name, the first in its list, counts before any other app's custom domain.
        hosts.extend(own_names);
        for (dyno_id, gone) in self.targets.drain() {
            gone.adding.store(false, Ordering::SeqCst);
            gone.retire();
            // Remembered until its last request has ended, so that this can be reported.
            if gone.in_flight() > 0 {
                known.insert(dyno_id, gone);
            } else {
                let _ = self.emptied.send(dyno_id);
            }
        }
        self.targets = known;
        let certificates = self.keyring.place(table.certificates);
        self.states = states;
        Table { hosts, apps, certificates, acme_challenges: table.acme_challenges }
    }

    fn target(&self, dyno_id: DynoId, name: String, address: SocketAddr) -> Arc<Target> {
        Arc::new(Target {
            dyno_id,
            name,
            address,
            retired: AtomicBool::new(false),
            adding: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            is_asleep: AtomicBool::new(false),
            sleep: Mutex::default(),
            quarantined_until_ms: AtomicU64::new(0),
            started: Instant::now(),
            idle: (0..self.workers).map(|_| Mutex::new(Vec::new())).collect(),
            shared: (0..self.workers).map(|_| Mutex::new(None)).collect(),
            emptied: self.emptied.clone(),
        })
    }

    /// Retired targets without a request in flight.
    pub fn drained(&self) -> Vec<DynoId> {
        self.targets.values().filter(|target| target.is_drained()).map(|target| target.dyno_id).collect()
    }

    /// Whether this dyno is known, retired and without a request; or not known at all.
    pub fn is_drained(&self, dyno_id: DynoId) -> bool {
        self.targets.get(&dyno_id).is_none_or(|target| target.is_drained())
    }
}

#[cfg(test)]
mod tests {
    use ferroku_core::protocol::router::Target as GivenTarget;
    use uuid::Uuid;

    use super::*;

    fn table(hosts: &[&str], targets: &[(u128, TargetState)]) -> RouteTable {
        let target = |(id, state): &(u128, TargetState)| GivenTarget {
            dyno_id: DynoId(Uuid::from_u128(*id)),
            name: format!("web.{id}"),
            address: "127.0.0.1:1".parse().unwrap(),
            state: *state,
            asleep: None,
        };
        RouteTable {
            version: 1,
            apps: vec![RouteApp {
                web_quantity: 1,
                targets: targets.iter().map(target).collect(),
                ..RouteApp::new(AppId(Uuid::nil()), "a", hosts.iter().map(|host| (*host).into()).collect())
            }],
            ..RouteTable::default()
        }
    }

    #[test]
    fn hosts_are_found_in_any_case_with_any_port_and_by_wildcard() {
        let (emptied, _keep) = mpsc::unbounded_channel();
        let table = Compiler::new(1, emptied).compile(table(&["Shop.localhost", "*.example.com"], &[]));
        for host in
            ["shop.localhost", "SHOP.LOCALHOST:8080", "shop.localhost.", "a.example.com:1", "B.Example.Com"]
        {
            assert!(table.find(host).is_some(), "{host}");
        }
        for host in [
            "",
            "localhost",
            "xshop.localhost",
            "example.com",
            "a.b.example.com",
            "[::1]:80",
            "shop.localhost:x",
        ] {
            assert!(table.find(host).is_none(), "{host}");
        }
    }

    #[test]
    fn an_apps_own_name_counts_before_anothers_custom_domain() {
        let app = |id, hosts: &[&str]| {
            let hosts = hosts.iter().map(|host| (*host).into()).collect();
            RouteApp::new(AppId(Uuid::from_u128(id)), "a", hosts)
        };
        let (victim, thief) = (app(1, &["Shop.localhost"]), app(2, &["thief.localhost", "shop.localhost"]));
        for apps in [vec![victim.clone(), thief.clone()], vec![thief, victim]] {
            let (emptied, _keep) = mpsc::unbounded_channel();
            let table = Compiler::new(1, emptied).compile(RouteTable { apps, ..RouteTable::default() });
            assert_eq!(table.find("shop.localhost").unwrap().id(), AppId(Uuid::from_u128(1)));
        }
    }

    #[test]
    fn a_retired_target_takes_no_request_and_is_reported_when_its_last_one_ends() {
        let (emptied, mut reports) = mpsc::unbounded_channel();
        let mut compiler = Compiler::new(1, emptied);
        let first = compiler.compile(table(&["a"], &[(1, TargetState::Healthy), (2, TargetState::Healthy)]));
        let targets: Vec<_> = first.find("a").unwrap().targets.clone();
        let request = targets[0].enter().unwrap();
        compiler.compile(table(&["a"], &[(2, TargetState::Draining)]));
        assert!(targets[0].enter().is_none() && targets[1].enter().is_none());
        assert!(!compiler.is_drained(targets[0].dyno_id));
        assert_eq!(compiler.drained(), [targets[1].dyno_id]);
        while reports.try_recv().is_ok() {}
        drop(request);
        assert_eq!(reports.try_recv().unwrap(), targets[0].dyno_id);
        assert!(compiler.is_drained(targets[0].dyno_id));
    }

    #[test]
    fn a_sleep_that_was_ended_is_over_for_every_table_that_still_tells_of_it() {
        let (emptied, _keep) = mpsc::unbounded_channel();
        let mut compiler = Compiler::new(1, emptied);
        let mut of = |sleep_id: Option<u64>| {
            let mut table = table(&["a"], &[(1, TargetState::Healthy)]);
            table.apps[0].targets[0].asleep =
                sleep_id.map(|sleep_id| Asleep { wake_socket: "/none".into(), sleep_id });
            compiler.compile(table).find("a").unwrap().targets[0].clone()
        };
        let target = of(Some(7));
        assert!(target.is_asleep() && target.enter().is_none());
        target.woke(7);
        assert!(target.enter().is_some());
        assert!(!of(Some(7)).is_asleep(), "control has not heard of it yet");
        assert!(of(Some(8)).is_asleep());
        target.woke(7);
        assert!(target.is_asleep(), "what was woken before is not this sleep");
        assert!(!of(None).is_asleep());
        of(Some(Asleep::UNKNOWN)).woke(Asleep::UNKNOWN);
        assert!(of(Some(Asleep::UNKNOWN)).is_asleep(), "it may be another sleep");
    }

    #[test]
    fn a_target_that_is_being_added_takes_no_request_and_is_not_drained() {
        let (emptied, _keep) = mpsc::unbounded_channel();
        let mut compiler = Compiler::new(1, emptied);
        let first = compiler.compile(table(&["a"], &[(1, TargetState::Adding)]));
        assert!(first.find("a").unwrap().targets.is_empty());
        assert!(compiler.drained().is_empty());
        let second = compiler.compile(table(&["a"], &[(1, TargetState::Healthy)]));
        assert!(second.find("a").unwrap().targets[0].enter().is_some());
        compiler.compile(table(&["a"], &[]));
        assert!(compiler.is_drained(DynoId(Uuid::from_u128(1))));
    }
}
