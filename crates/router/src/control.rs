//! The router's main task: takes tables, reports drained dynos, sends request records, leaves when told.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferroku_core::DynoId;
use ferroku_core::protocol::router::{Drained, FromRouter, Probed, RouteTable, TableApplied, ToRouter, Wake};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::disk;
use crate::limits::{
    ACKNOWLEDGE_WAIT, METRICS_INTERVAL, REQUEST_RECORDS_PAUSE, SWEEP_INTERVAL, WAKE_INTERVAL,
};
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::peer::{Heard, Peer};
use crate::probe::Probes;
use crate::shared::{Phase, Shared};
use crate::table::Compiler;
use crate::wake;

/// Between two looks whether a leaving router has finished.
const LEAVE_POLL: Duration = Duration::from_millis(20);

/// The main task's state.
pub struct Control {
    pub shared: Arc<Shared>,
    pub folder: PathBuf,
    pub compiler: Compiler,
    pub outbox: Outbox,
    pub heard: mpsc::Receiver<Heard>,
    pub emptied: mpsc::UnboundedReceiver<DynoId>,
    pub metrics: Metrics,
    pub instance: u64,
    pub probes: Probes,
    pub probed: mpsc::UnboundedReceiver<Probed>,
    pub peer: Option<Peer>,
    /// What this peer was told.
    pub reported: HashSet<DynoId>,
    /// When the workers' records are taken in.
    pub gather_at: Option<Instant>,
    /// Accepts on the router's socket.
    pub accepting: JoinHandle<()>,
}

impl Control {
    /// Serves until told to leave.
    pub async fn serve(&mut self, stop: &mut mpsc::UnboundedReceiver<()>) {
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut report = tokio::time::interval(METRICS_INTERVAL);
        report.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut wake = tokio::time::interval(WAKE_INTERVAL);
        wake.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = stop.recv() => return,
                () = step(self) => {}
                _ = report.tick() => self.report(),
                _ = wake.tick() => self.tell_who_waits(),
                _ = sweep.tick() => {
                    self.sweep();
                    self.outbox.adopt_leftovers();
                }
            }
        }
    }

    /// Leaves: accepts no more, lets requests end, closes what is left when time is over.
    pub async fn leave(&mut self) {
        let begun = Instant::now();
        self.shared.enter(Phase::Leaving);
        self.accepting.abort();
        self.tell(FromRouter::Leaving);
        let timeouts = self.shared.timeouts.clone();
        while !(self.shared.tasks.is_empty() && self.shared.connections() == 0) {
            let elapsed = begun.elapsed();
            let phase = *self.shared.phase.borrow();
            if elapsed >= timeouts.drain && phase < Phase::Forced {
                self.shared.enter(Phase::Forced);
            } else if elapsed >= timeouts.leave_idle && phase < Phase::ClosingIdle {
                self.shared.enter(Phase::ClosingIdle);
            }
            if elapsed >= timeouts.drain + Duration::from_secs(1) {
                break;
            }
            tokio::select! {
                () = step(self) => {}
                () = tokio::time::sleep(LEAVE_POLL) => {}
            }
        }
        self.shared.enter(Phase::Forced);
    }

    /// Sends what the workers recorded last; what is not acknowledged in time stays on disk.
    pub async fn settle(&mut self) {
        self.gather();
        let deadline = Instant::now() + ACKNOWLEDGE_WAIT;
        while self.peer.is_some() && !self.outbox.is_empty() {
            tokio::select! {
                () = step(self) => {}
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        if let Err(error) = self.outbox.leave_behind() {
            tracing::error!(folder = %self.folder.display(), %error, "request records are lost: the folder cannot be written");
        }
    }

    /// Serves `table` from now on.
    pub fn apply(&mut self, table: RouteTable) {
        let version = table.version;
        let compiled = Arc::new(self.compiler.compile(table));
        self.shared.table.store(Some(compiled));
        self.shared.table_changed.send_replace(version);
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Connected(peer) => {
                self.peer = Some(peer);
                self.reported.clear();
                self.compiler.keyring.forget_unplaced();
                self.outbox.start_over();
                for probed in self.probes.results() {
                    self.tell(FromRouter::Probed(probed.clone()));
                }
                self.tell_who_waits();
                self.report();
                if *self.shared.phase.borrow() >= Phase::Leaving {
                    self.tell(FromRouter::Leaving);
                }
            }
            Heard::Gone(number) if self.is_peer(number) => self.peer = None,
            Heard::Said(number, message) if self.is_peer(number) => match message {
                ToRouter::Certificate(certificate) => self.compiler.keyring.take(&certificate),
                ToRouter::Table(table) => self.take_table(table),
                ToRouter::Acknowledge(acknowledge) => self.outbox.acknowledge(acknowledge),
                ToRouter::Hello(_) | ToRouter::TakeListeners => {}
            },
            // From a connection that a newer one has replaced.
            Heard::Gone(_) | Heard::Said(..) => {}
        }
    }

    fn take_table(&mut self, mut table: RouteTable) {
        let version = table.version;
        // The next router has no keys before its control sends them with a table of its own.
        let certificates = std::mem::take(&mut table.certificates);
        // A router on its way out leaves the file to the one that replaces it.
        if *self.shared.phase.borrow() == Phase::Serving
            && let Err(error) = disk::write_table(&self.folder, &table)
        {
            tracing::error!(folder = %self.folder.display(), %error, "the route table cannot be kept on disk");
        }
        table.certificates = certificates;
        self.probes.follow(&table);
        self.apply(table);
        // Handshakes that waited look for their certificates in the table that is in place.
        self.shared.certificates_have_come();
        self.tell_applied(version);
        for dyno_id in self.compiler.drained() {
            self.report_drained(dyno_id);
        }
        let compiler = &self.compiler;
        self.reported.retain(|dyno_id| compiler.is_drained(*dyno_id));
    }

    /// Says that the table is served. Control freezes only after that, so dynos that are put to sleep while they answer
    /// a request are woken before.
    fn tell_applied(&self, version: u64) {
        let applied = FromRouter::TableApplied(TableApplied { version });
        let table = self.shared.table.load();
        let targets = table.as_ref().into_iter().flat_map(|table| table.targets());
        let busy = targets.filter(|target| target.is_asleep() && target.in_flight() > 0);
        let mut wakes = JoinSet::new();
        for target in busy.cloned() {
            let limit = self.shared.timeouts.connect;
            wakes.spawn(async move { wake::wake(&target, limit).await });
        }
        let Some(peer) = self.peer.as_ref().filter(|_| !wakes.is_empty()) else {
            wakes.detach_all();
            return self.tell(applied);
        };
        let messages = peer.messages.clone();
        tokio::spawn(async move {
            wakes.join_all().await;
            // A peer that is gone is heard of as such.
            let _ = messages.send(applied);
        });
    }

    fn report_drained(&mut self, dyno_id: DynoId) {
        if self.peer.is_some() && self.compiler.is_drained(dyno_id) && self.reported.insert(dyno_id) {
            self.tell(FromRouter::Drained(Drained { dyno_id }));
        }
    }

    fn tell(&self, message: FromRouter) {
        if let Some(peer) = &self.peer {
            // A peer that is gone is heard of as such.
            let _ = peer.messages.send(message);
        }
    }

    /// Takes in what the workers recorded.
    fn gather(&mut self) {
        let records = self.shared.gather();
        self.metrics.count(&records);
        self.outbox.push(records);
    }

    fn report(&mut self) {
        if self.peer.is_some() {
            let report = self.metrics.report(self.instance, &self.shared);
            self.tell(FromRouter::Metrics(report));
        }
    }

    /// Tells of sleeping apps that requests wait for.
    fn tell_who_waits(&self) {
        let table = self.shared.table.load();
        let Some(table) = table.as_ref() else { return };
        for app in table.apps().filter(|app| app.is_asleep() && app.state.waiting() > 0) {
            self.tell(FromRouter::Wake(Wake { app_id: app.id() }));
        }
    }

    fn is_peer(&self, number: u64) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.number == number)
    }

    fn sweep(&self) {
        if let Some(table) = self.shared.table.load().as_ref() {
            for target in table.targets() {
                target.sweep(self.shared.timeouts.dyno_keep_alive);
            }
        }
    }
}

/// Waits for the next thing to do, and does it. Dropping it half-way loses nothing.
async fn step(control: &mut Control) {
    let shared = control.shared.clone();
    let batches =
        control.peer.as_ref().filter(|_| control.outbox.has_unsent()).map(|peer| peer.batches.clone());
    let has_batches = batches.is_some();
    let permit = async {
        match batches {
            Some(batches) => batches.reserve_owned().await.ok(),
            None => None,
        }
    };
    let gather_at = control.gather_at;
    tokio::select! {
        Some(heard) = control.heard.recv() => control.hear(heard),
        Some(dyno_id) = control.emptied.recv() => control.report_drained(dyno_id),
        Some(probed) = control.probed.recv() => {
            if let Some(probed) = control.probes.take(probed) {
                control.tell(FromRouter::Probed(probed));
            }
        }
        () = shared.wake_needed.notified() => control.tell_who_waits(),
        Some(permit) = permit, if has_batches => {
            if let Some(batch) = control.outbox.next_batch() {
                permit.send(FromRouter::RequestLog(batch));
            }
        }
        () = shared.records_ready.notified(), if gather_at.is_none() => {
            control.gather_at = Some(Instant::now() + REQUEST_RECORDS_PAUSE);
        }
        () = tokio::time::sleep_until(gather_at.unwrap_or_else(Instant::now)), if gather_at.is_some() => {
            control.gather_at = None;
            control.gather();
        }
    }
}
