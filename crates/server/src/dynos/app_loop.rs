//! The loop of one app: reads, plans, acts; then waits for a poke, an event, or the time the planner named.

use super::attach::Client;
use super::certificates::Certificates;
use super::sleep::{self, LiveSleep};
use super::{Adopted, Claimed, DynoSettings, DynosError, MAX_SURGE, Result, Shared, pump, routes, steady_ms};
use crate::node::now_ms;
use crate::rendezvous::AttachedStreams;
use bytes::Bytes;
use ferroku_core::app::App;
use ferroku_core::app_feature::AppFeature;
use ferroku_core::config_var::ConfigVars;
use ferroku_core::domain::{Domain, DomainStatus};
use ferroku_core::dyno::{Dyno, DynoKind, DynoState};
use ferroku_core::eco_hours::Standing;
use ferroku_core::formation::Formation;
use ferroku_core::planner::{
    self, AppActual, AppDesired, DesiredRelease, DesiredType, DynoActual, Phase, Plan, WEB,
};
use ferroku_core::protocol::router::Probed;
use ferroku_core::release::Release;
use ferroku_core::{AppId, DomainId, DynoId, Millis, ReleaseId};
use ferroku_runtime::{DynoControl, DynoEvent, DynoHandle};
use ferroku_store::{StoreError, app_features, apps, domains, dyno_crashes, dynos, formations, releases};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How long the loop sleeps at most. Whatever changes rows pokes, and a restart looks at every app; this is
/// for what was forgotten.
const IDLE: Duration = Duration::from_secs(60);
/// After an error, how long until the next try.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// How often an event that the database refuses is tried to be recorded. While the database is away or its disk full,
/// it is tried without end: nobody would tell it again.
const EVENT_TRIES: usize = 60;
/// The same at the node's end, which must not wait for a disk that is full.
const EVENT_TRIES_AT_THE_END: usize = 3;
/// Of so many tries that fail, one is told.
const COMPLAIN_EVERY: usize = 30;
/// Rounds of planning in one go; more would mean that planner and rows disagree.
const MAX_ROUNDS: usize = 20;

/// What a loop is told.
pub(super) enum Message {
    /// Rows of the app have changed.
    Poke,
    /// Something changed that is no row of the app: the router has drained a dyno, or waits for one.
    Look,
    /// From a dyno's pump; never a log line or attached output. Boxed, as what is large is here: a channel has room for
    /// 32 messages, and every app a channel.
    Event {
        dyno_id: DynoId,
        event: Box<DynoEvent>,
    },
    /// The driver has answered a start.
    Spawned {
        dyno_id: DynoId,
        result: Box<Result<DynoHandle, String>>,
    },
    Attach {
        dyno_id: DynoId,
        answer: oneshot::Sender<Result<AttachedStreams>>,
    },
    /// Who acts on a dyno that runs.
    Control {
        dyno_id: DynoId,
        answer: oneshot::Sender<Option<DynoControl>>,
    },
    /// The router has probed a dyno that is being added.
    Probed(Box<Probed>),
    /// A dyno whose health is probed has had its time.
    ProbeLimit {
        dyno_id: DynoId,
    },
    /// The client of an attached dyno has gone; told again with the step of the hang-up that is due.
    Hangup {
        dyno_id: DynoId,
        step: u32,
    },
    Destroyed(oneshot::Sender<()>),
    /// The node is short of memory: what is frozen is to be stopped.
    MakeRoom,
    /// Do nothing any more.
    Leave,
    Shutdown {
        grace: Duration,
        done: oneshot::Sender<()>,
    },
}

/// What is known of a dyno beyond its row.
#[derive(Default)]
pub(super) struct Live {
    pub control: Option<DynoControl>,
    /// The driver has been asked to start it.
    pub spawning: bool,
    /// SIGTERM was wanted while it was being started.
    pub stop_when_spawned: bool,
    pub boot_timed_out: bool,
    pub loopback_only: bool,
    /// It listens, and the router is to ask whether it is healthy; with what the router said last.
    pub probe: Option<String>,
    pub killed: bool,
    pub client: Option<Client>,
    /// Its share of the node's room.
    pub claimed: Option<Claimed>,
    pub sleep: LiveSleep,
}

/// The loop's state.
pub(super) struct AppLoop {
    pub shared: Arc<Shared>,
    pub app_id: AppId,
    pub sender: mpsc::UnboundedSender<Message>,
    pub live: HashMap<DynoId, Live>,
    /// Set at the node's end: nothing is started any more.
    pub closing: Option<oneshot::Sender<()>>,
    /// Config vars of the release that was current last.
    config_vars: Option<(ReleaseId, ConfigVars)>,
    pub certificates: Certificates,
    steady: planner::Steady,
    /// Set while the node is short of memory, until what was frozen is stopped.
    pub must_make_room: bool,
}

/// What was read of an app.
pub(super) struct Snapshot {
    pub app: App,
    pub release: Option<Release>,
    pub formation: Vec<Formation>,
    pub dynos: Vec<Dyno>,
    pub crashes: Vec<planner::Crash>,
    pub domains: Vec<Domain>,
    pub features: Vec<AppFeature>,
    /// How its account stands, if it has eco dynos and there is a quota.
    pub eco_hours: Option<Standing>,
}

impl Snapshot {
    pub fn is_out_of_eco_hours(&self) -> bool {
        self.eco_hours.is_some_and(|standing| standing.is_used_up())
    }
}

enum Flow {
    Continue,
    /// The app is gone.
    End,
    /// This process is about to be replaced.
    Leave,
}

impl AppLoop {
    pub fn new(shared: Arc<Shared>, app_id: AppId, sender: mpsc::UnboundedSender<Message>) -> Self {
        Self {
            shared,
            app_id,
            sender,
            live: HashMap::new(),
            closing: None,
            config_vars: None,
            certificates: Certificates::default(),
            steady: planner::Steady::default(),
            must_make_room: false,
        }
    }

    /// Runs until the app is destroyed or the node ends.
    pub async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>, handles: Vec<Adopted>) {
        // Boxed, here and below: a node has many loops, most of which wait, and room for these is only needed meanwhile.
        if let Err(error) = Box::pin(self.adopt(handles)).await {
            self.complain(&error, "cannot match running dynos with their rows");
        }
        let mut due = Instant::now();
        loop {
            tokio::select! {
                message = inbox.recv() => {
                    let Some(message) = message else { return };
                    // Take in all that waits before planning anew.
                    let mut flow = Box::pin(self.take(message)).await;
                    while let (Flow::Continue, Ok(message)) = (&flow, inbox.try_recv()) {
                        flow = Box::pin(self.take(message)).await;
                    }
                    match flow {
                        Flow::Continue => {}
                        Flow::End => break,
                        Flow::Leave => return,
                    }
                }
                () = tokio::time::sleep_until(due) => self.certificates.rows_changed(),
            }
            if self.closing.is_some() {
                if self.live.is_empty() {
                    break;
                }
                due = Instant::now() + IDLE;
                continue;
            }
            due = match Box::pin(self.reconcile()).await {
                Ok(Some(wait)) => Instant::now() + wait,
                Ok(None) => {
                    Box::pin(self.clear()).await;
                    break;
                }
                Err(error) => {
                    self.complain(&error, "cannot reconcile the app's dynos");
                    Instant::now() + RETRY
                }
            };
        }
        if let Some(done) = self.closing.take() {
            let _ = done.send(());
        } else {
            self.shared.closed(self.app_id);
        }
    }

    async fn take(&mut self, message: Message) -> Flow {
        let result = match message {
            Message::Poke => {
                self.certificates.rows_changed();
                Ok(())
            }
            Message::Look => Ok(()),
            Message::Event { dyno_id, event } => self.on_event_surely(dyno_id, *event).await,
            Message::Spawned { dyno_id, result } => self.on_spawned(dyno_id, *result).await,
            Message::Attach { dyno_id, answer } => {
                let streams = self.on_attach(dyno_id).await;
                let _ = answer.send(streams);
                Ok(())
            }
            Message::Control { dyno_id, answer } => {
                let _ = answer.send(self.live.get(&dyno_id).and_then(|live| live.control.clone()));
                Ok(())
            }
            Message::Probed(probed) => self.on_probed(*probed).await,
            Message::ProbeLimit { dyno_id } => self.on_probe_limit(dyno_id).await,
            Message::Hangup { dyno_id, step } => {
                self.on_hangup(dyno_id, step).await;
                Ok(())
            }
            Message::MakeRoom => {
                self.must_make_room = true;
                Ok(())
            }
            Message::Destroyed(done) => {
                self.clear().await;
                let _ = done.send(());
                return Flow::End;
            }
            Message::Leave => return Flow::Leave,
            Message::Shutdown { grace, done } => {
                self.closing = Some(done);
                self.stop_all(grace).await
            }
        };
        if let Err(error) = result {
            self.complain(&error, "cannot record what happened to a dyno");
        }
        Flow::Continue
    }

    /// Events come once: one that cannot be recorded (database away, disk full) is tried again before the next.
    pub async fn on_event_surely(&mut self, dyno_id: DynoId, event: DynoEvent) -> Result<()> {
        for tries in 1.. {
            let Err(error) = self.on_event(dyno_id, event.clone()).await else { return Ok(()) };
            let closing = self.shared.lock().closing;
            let most = if closing { EVENT_TRIES_AT_THE_END } else { EVENT_TRIES };
            if tries >= most && (closing || !error.may_pass()) {
                if closing {
                    // The next start finds how it ended on the disk, or ends its row.
                    self.live.remove(&dyno_id);
                }
                return Err(error);
            }
            if tries % COMPLAIN_EVERY == 1 {
                self.complain(&error, "cannot record what a dyno reports; trying again");
            }
            tokio::time::sleep(RETRY).await;
        }
        Ok(())
    }

    pub fn complain(&self, error: &DynosError, what: &'static str) {
        let app_id = self.app_id;
        tracing::error!(%app_id, error = error as &dyn std::error::Error, "{what}");
    }

    /// Matches dynos found again with rows, and ends the rows of those that are lost.
    async fn adopt(&mut self, handles: Vec<Adopted>) -> Result<()> {
        for (handle, claimed) in handles {
            let dyno_id = handle.dyno_id;
            let Some(row) = self.living_surely(dyno_id).await else {
                self.shared.remove_later(dyno_id);
                continue;
            };
            if row.state == DynoState::Created {
                self.record_start_surely(&row, handle.address).await;
            }
            let control = handle.control.clone();
            if row.stopping_at.is_some() {
                let _ = control.stop(planner::STOP_GRACE_MS).await;
            }
            let sleep = LiveSleep::of(handle.wake_socket.clone());
            let live = Live { control: Some(control), sleep, claimed: Some(claimed), ..Live::default() };
            self.live.insert(dyno_id, live);
            if row.attached {
                // Its client was connected to the process before this one.
                let _ = self.sender.send(Message::Hangup { dyno_id, step: 0 });
            }
            self.pump(&row, handle, None);
        }
        let rows = loop {
            match dynos::list(&self.shared.parts.store, self.app_id).await {
                Ok(rows) => break rows,
                Err(error) => self.complain(&error.into(), "cannot read the app's dynos; trying again"),
            }
            tokio::time::sleep(RETRY).await;
        };
        for row in rows {
            let started = matches!(row.state, DynoState::Starting | DynoState::Up | DynoState::Idle);
            if started && row.ended_at.is_none() && !self.live.contains_key(&row.id) {
                self.on_event_surely(row.id, DynoEvent::Lost).await?;
            }
        }
        Ok(())
    }

    pub fn pump(&self, row: &Dyno, handle: DynoHandle, output: Option<mpsc::Sender<Bytes>>) {
        let pump = pump::Pump {
            app_id: self.app_id,
            name: row.name(),
            logplex: self.shared.parts.logplex.clone(),
            inbox: self.sender.clone(),
            output,
        };
        tokio::spawn(pump.run(handle));
    }

    /// Plans and acts until there is nothing to do. `None`: the app is gone. Else when to look again.
    async fn reconcile(&mut self) -> Result<Option<Duration>> {
        for _ in 0..MAX_ROUNDS {
            let Some(snapshot) = self.read().await? else { return Ok(None) };
            self.publish_route(&snapshot).await?;
            let plan = self.plan(&snapshot);
            if plan.actions.is_empty() {
                self.must_make_room = false;
                let planned =
                    plan.wake_at.into_iter().chain(self.next_freeze_at()).map(|at| at - steady_ms());
                let lasts = snapshot.eco_hours.and_then(|standing| standing.lasts_ms());
                let waits = planned.chain(lasts);
                let waits = waits.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)));
                return Ok(Some(waits.fold(IDLE, Duration::min)));
            }
            for action in plan.actions {
                self.act(&snapshot, action).await?;
            }
        }
        tracing::error!(app_id = %self.app_id, "the planner does not come to rest; trying again later");
        Ok(Some(RETRY))
    }

    /// Reads the app. Formation and release are of one moment: a deploy changes both in one transaction.
    async fn read(&self) -> Result<Option<Snapshot>> {
        let store = &self.shared.parts.store;
        loop {
            let release = releases::current(store, self.app_id).await?;
            let formation = formations::list(store, self.app_id).await?;
            let Some(app) = apps::by_id(store, self.app_id).await? else { return Ok(None) };
            let dynos = dynos::list(store, self.app_id).await?;
            let crashes = dyno_crashes::list(store, self.app_id).await?;
            let domains = domains::list(store, self.app_id).await?;
            let features = app_features::list(store, self.app_id).await?;
            let again = releases::current(store, self.app_id).await?;
            if again.as_ref().map(|release| release.id) == release.as_ref().map(|release| release.id) {
                let eco_hours = self.shared.eco_standing(&app, &formation, &dynos).await?;
                return Ok(Some(Snapshot {
                    app,
                    release,
                    formation,
                    dynos,
                    crashes,
                    domains,
                    features,
                    eco_hours,
                }));
            }
        }
    }

    fn plan(&mut self, snapshot: &Snapshot) -> Plan {
        let mut actual = self.actual(snapshot);
        let now = steady_ms();
        self.steady.translate(&mut actual, now_ms(), now);
        planner::plan(&desired(snapshot, &self.shared.parts.settings), &actual, now)
    }

    fn actual(&self, snapshot: &Snapshot) -> AppActual {
        AppActual {
            dynos: snapshot.dynos.iter().map(|row| self.dyno_actual(row)).collect(),
            crashes: snapshot.crashes.clone(),
            activity: self.activity(),
            watched_since: 0,
        }
    }

    fn dyno_actual(&self, row: &Dyno) -> DynoActual {
        let live = self.live.get(&row.id);
        let phase = match row.state {
            DynoState::Created if live.is_some_and(|live| live.spawning) => Phase::Starting,
            DynoState::Created => Phase::Created,
            DynoState::Starting => Phase::Starting,
            DynoState::Idle if row.ended_at.is_some() => Phase::Asleep,
            DynoState::Up | DynoState::Idle => Phase::Up,
            DynoState::Crashed | DynoState::Down | DynoState::Complete => Phase::Crashed,
        };
        // Only a web dyno that was up has ever been in the route table as a target.
        let was_up = matches!(row.state, DynoState::Up | DynoState::Idle);
        let routed = row.kind == DynoKind::Formation && row.process_type == WEB && was_up;
        let is_out = phase == Phase::Asleep;
        DynoActual {
            id: row.id,
            kind: row.kind,
            process_type: row.process_type.clone(),
            ordinal: row.ordinal,
            release_version: row.release_version,
            restart_generation: row.restart_generation,
            size: row.size.clone(),
            command: row.command.clone(),
            phase,
            waits_for_room: phase == Phase::Created && self.shared.room.waits(row.id),
            rest: self.rest(row),
            state_since: row.updated_at,
            attached: row.attached,
            restart_requested: row.restart_requested_at.is_some(),
            stop_requested: row.stop_requested_at.is_some(),
            retired: row.retired_at.is_some(),
            draining_at: row.draining_at.filter(|_| !is_out),
            drained: !routed || self.shared.parts.router.is_drained(row.id),
            stopping_at: row.stopping_at.filter(|_| !is_out),
            boot_timed_out: live.is_some_and(|live| live.boot_timed_out),
            killed: live.is_some_and(|live| live.killed),
            expires_at: row.expires_at,
            created_at: row.created_at,
        }
    }

    pub async fn publish_route(&mut self, snapshot: &Snapshot) -> Result<(), StoreError> {
        let none = ConfigVars::new();
        if let Some(release) = &snapshot.release
            && self.config_vars.as_ref().is_none_or(|(id, _)| *id != release.id)
        {
            let mut vars = releases::config_vars(&self.shared.parts.store, release).await?;
            vars.retain(|name, _| routes::ROUTER_CONFIG_VARS.contains(&name.as_str()));
            self.config_vars = Some((release.id, vars));
        }
        let vars = self.config_vars.as_ref().map_or(&none, |(_, vars)| vars);
        let live = |dyno: &&Dyno| self.live.get(&dyno.id).is_some_and(|live| live.probe.is_some());
        let route = routes::route(&routes::Facts {
            app: &snapshot.app,
            has_code: snapshot.release.as_ref().is_some_and(|release| release.slug_id.is_some()),
            config_vars: vars,
            formation: &snapshot.formation,
            out_of_eco_hours: snapshot.is_out_of_eco_hours(),
            dynos: &snapshot.dynos,
            probed: &snapshot.dynos.iter().filter(live).map(|dyno| dyno.id).collect(),
            asleep: &self.asleep(&snapshot.dynos),
            domains: &snapshot.domains,
            features: &snapshot.features,
            node_domain: &self.shared.parts.domain,
        });
        let store = &self.shared.parts.store;
        let certificates = self.certificates.read(store, self.app_id, &snapshot.domains).await?;
        self.shared.routes.set(self.app_id, Some(routes::Entry { app: route, certificates }));
        self.announce_domains(&snapshot.domains);
        Ok(())
    }

    /// Whether new dynos are probed before they get requests.
    pub fn probes(&self) -> bool {
        self.config_vars.as_ref().is_some_and(|(_, vars)| routes::health_check_path(vars).is_some())
    }

    /// Notes domains as served once the router has the table that names them.
    fn announce_domains(&mut self, domains: &[Domain]) {
        let pending = domains.iter().filter(|domain| domain.status == DomainStatus::Pending);
        let pending: Vec<DomainId> = pending.map(|domain| domain.id).collect();
        let new = self.certificates.announce(&pending);
        if new.is_empty() {
            return;
        }
        let shared = self.shared.clone();
        tokio::spawn(async move {
            shared.routes.served(&shared.parts.router).await;
            while let Err(error) = domains::served(&shared.parts.store, &new, now_ms()).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot note that a domain is served; trying again"
                );
                tokio::time::sleep(RETRY).await;
            }
        });
    }
}

/// What is wanted of an app.
fn desired(snapshot: &Snapshot, settings: &DynoSettings) -> AppDesired {
    AppDesired {
        release: snapshot
            .release
            .as_ref()
            .filter(|release| release.slug_id.is_some())
            .map(|release| DesiredRelease { id: release.id, version: release.version }),
        restart_generation: snapshot.app.restart_generation,
        formation: snapshot
            .formation
            .iter()
            .map(|one| DesiredType {
                process_type: one.process_type.clone(),
                command: one.command.clone(),
                quantity: one.quantity,
                size: one.size.clone(),
            })
            .collect(),
        max_surge: MAX_SURGE,
        sleep: sleep::policy(snapshot, &settings.sleep),
        out_of_eco_hours: snapshot.is_out_of_eco_hours(),
        cycle_after_ms: settings.cycle_after.and_then(|after| Millis::try_from(after.as_millis()).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// A node of 10,000 apps has as many loops.
    #[test]
    fn a_loop_that_waits_is_small() {
        assert!(size_of_future(AppLoop::run) <= 1_536, "{}", size_of_future(AppLoop::run));
        assert!(size_of::<Message>() <= 48, "{}", size_of::<Message>());
    }
}
