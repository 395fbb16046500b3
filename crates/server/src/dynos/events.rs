//! What dynos report, put into their rows and logs.

use super::app_loop::{AppLoop, Live, Message, RETRY};
use super::sleep::LiveSleep;
use super::{Result, log_text, memory};
use crate::crash_point;
use crate::node::now_ms;
use ferroku_core::dyno::{Dyno, DynoKind, DynoState};
use ferroku_core::planner::{self, BOOT_TIMEOUT_MS, Crash, WEB};
use ferroku_core::protocol::router::Probed;
use ferroku_core::{AppId, DynoId, Millis};
use ferroku_runtime::{Driver, DynoEvent, DynoHandle};
use ferroku_store::{Store, dyno_crashes, dynos};
use std::net::SocketAddr;
use std::time::Duration;

/// How long a dyno that listens may take until its health check succeeds: as long as it had to begin to listen.
const PROBE_LIMIT: Duration = Duration::from_millis(BOOT_TIMEOUT_MS);

/// How a dyno came to its end.
enum End {
    /// Its last process ended with this status, which may have been the kernel's doing for want of memory.
    Exited { status: i32, oom_killed: bool, at_ms: Millis },
    /// It never ran.
    NotStarted { reason: String },
    /// Its dyno-init died; nobody knows how it ended.
    Lost,
}

impl AppLoop {
    /// The driver has answered a start.
    pub async fn on_spawned(&mut self, dyno_id: DynoId, result: Result<DynoHandle, String>) -> Result<()> {
        let handle = match result {
            Ok(handle) => handle,
            Err(message) => return self.on_event_surely(dyno_id, DynoEvent::StartFailed { message }).await,
        };
        let Some(row) = self.living_surely(dyno_id).await else {
            self.live.remove(&dyno_id);
            self.shared.remove_later(dyno_id);
            return Ok(());
        };
        self.record_start_surely(&row, handle.address).await;
        let live = self.live.entry(dyno_id).or_default();
        live.spawning = false;
        let control = handle.control.clone();
        live.control = Some(control.clone());
        live.sleep = LiveSleep::of(handle.wake_socket.clone());
        let client = live.client.take();
        if live.killed {
            let _ = control.kill().await;
        } else if live.stop_when_spawned {
            let _ = control.stop(planner::STOP_GRACE_MS).await;
        }
        let output = client.map(|client| self.connect(dyno_id, control, client));
        self.pump(&row, handle, output);
        Ok(())
    }

    /// An event of a dyno that runs.
    pub async fn on_event(&mut self, dyno_id: DynoId, event: DynoEvent) -> Result<()> {
        let Some(row) = self.living(dyno_id).await? else {
            let last =
                matches!(event, DynoEvent::Exited { .. } | DynoEvent::Lost | DynoEvent::StartFailed { .. });
            if last {
                self.live.remove(&dyno_id);
                self.shared.remove_later(dyno_id);
            }
            return Ok(());
        };
        let web = row.kind == DynoKind::Formation && row.process_type == WEB;
        match event {
            DynoEvent::Started if !web => self.record_up(&row).await?,
            DynoEvent::Bound if web && self.probes() && row.state == DynoState::Starting => {
                self.start_probe(dyno_id);
            }
            DynoEvent::Bound => self.record_up(&row).await?,
            DynoEvent::BoundLoopbackOnly => {
                self.live_mut(dyno_id).loopback_only = true;
                self.log(&row, log_text::loopback_only(row.port.unwrap_or_default()));
            }
            DynoEvent::BootTimeout => self.live_mut(dyno_id).boot_timed_out = true,
            DynoEvent::StopTimeout => {
                self.log(&row, log_text::EXIT_TIMEOUT);
                self.log(&row, log_text::STOPPING_REMAINING);
            }
            DynoEvent::Exited { status, oom_killed, at_us } => {
                self.record_end(&row, End::Exited { status, oom_killed, at_ms: at_us / 1_000 }).await?;
            }
            DynoEvent::StartFailed { message } => {
                self.record_end(&row, End::NotStarted { reason: message }).await?;
            }
            DynoEvent::Lost => self.record_end(&row, End::Lost).await?,
            event
            @ (DynoEvent::Frozen { .. } | DynoEvent::Thawed { .. } | DynoEvent::FreezeFailed { .. }) => {
                self.on_sleep(&row, event).await?;
            }
            DynoEvent::Started
            | DynoEvent::Log { .. }
            | DynoEvent::LogDropped { .. }
            | DynoEvent::Output(_) => {}
        }
        Ok(())
    }

    /// It listens: the next table names it as being added, and the router asks whether it is healthy.
    fn start_probe(&mut self, dyno_id: DynoId) {
        let live = self.live_mut(dyno_id);
        if live.probe.is_some() {
            return;
        }
        live.probe = Some("no answer yet".to_owned());
        let inbox = self.sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(PROBE_LIMIT).await;
            // A loop that has ended has stopped the dyno.
            let _ = inbox.send(Message::ProbeLimit { dyno_id });
        });
    }

    /// The router has asked a dyno that is being added.
    pub async fn on_probed(&mut self, probed: Probed) -> Result<()> {
        let Some(live) = self.live.get_mut(&probed.dyno_id) else { return Ok(()) };
        let Some(detail) = &mut live.probe else { return Ok(()) };
        *detail = probed.detail;
        let Some(row) = self.living(probed.dyno_id).await? else { return Ok(()) };
        if probed.healthy { self.record_up(&row).await } else { Ok(()) }
    }

    /// The time for becoming healthy is over.
    pub async fn on_probe_limit(&mut self, dyno_id: DynoId) -> Result<()> {
        let Some(row) = self.living(dyno_id).await? else { return Ok(()) };
        if row.state == DynoState::Starting {
            self.live_mut(dyno_id).boot_timed_out = true;
        }
        Ok(())
    }

    fn live_mut(&mut self, dyno_id: DynoId) -> &mut Live {
        self.live.entry(dyno_id).or_default()
    }

    pub async fn living(&self, dyno_id: DynoId) -> Result<Option<Dyno>> {
        let row = dynos::find(&self.shared.parts.store, dyno_id).await?;
        Ok(row.filter(|row| row.ended_at.is_none() && row.app_id == self.app_id))
    }

    /// As [`Self::living`], however long the database is away: what is asked for happens once.
    pub async fn living_surely(&self, dyno_id: DynoId) -> Option<Dyno> {
        loop {
            match self.living(dyno_id).await {
                Ok(row) => return row,
                Err(error) => self.complain(&error, "cannot read a dyno's row; trying again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// As [`Self::record_start`], however long the database is away.
    pub async fn record_start_surely(&self, row: &Dyno, address: Option<SocketAddr>) {
        while let Err(error) = self.record_start(row, address).await {
            self.complain(&error, "cannot record that a dyno was started; trying again");
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Its dyno-init runs.
    async fn record_start(&self, row: &Dyno, address: Option<SocketAddr>) -> Result<()> {
        let address = address.map(|address| address.to_string());
        let store = &self.shared.parts.store;
        write_state(store, row.id, DynoState::Starting, address.as_deref(), now_ms()).await?;
        crash_point::hit("dyno.started");
        if row.attached {
            self.log(row, log_text::AWAITING_CLIENT);
        }
        self.log(row, log_text::starting(&row.command));
        Ok(())
    }

    async fn record_up(&self, row: &Dyno) -> Result<()> {
        if !matches!(row.state, DynoState::Created | DynoState::Starting) {
            return Ok(());
        }
        write_state(&self.shared.parts.store, row.id, DynoState::Up, None, now_ms()).await?;
        crash_point::hit("dyno.up");
        self.log(row, log_text::state_changed(row.state, DynoState::Up));
        Ok(())
    }

    /// Ends the row, says so in the log, and removes what is left of the dyno.
    async fn record_end(&mut self, row: &Dyno, end: End) -> Result<()> {
        let now = now_ms();
        let store = self.shared.parts.store.clone();
        let wanted_to_go = row.retired_at.is_some() || self.closing.is_some() || row.stopping_at.is_some();
        let lost = matches!(end, End::Lost);
        let state = match row.kind {
            DynoKind::Run | DynoKind::Release => DynoState::Complete,
            // However it ended: it is started when somebody asks for the app.
            DynoKind::Formation if row.state == DynoState::Idle && row.retired_at.is_none() => {
                DynoState::Idle
            }
            DynoKind::Formation if wanted_to_go || lost => DynoState::Down,
            DynoKind::Formation => DynoState::Crashed,
        };
        let crash = match state {
            DynoState::Crashed => Some(self.count_crash(row, &end, now).await?),
            _ => None,
        };
        let status = match end {
            End::Exited { status, .. } => Some(status),
            End::NotStarted { .. } | End::Lost => None,
        };
        crash_point::hit("dyno.before_end");
        write_end(&store, self.app_id, row.id, state, status, crash.as_ref(), now).await?;
        crash_point::hit("dyno.ended");
        self.log_end(row, &end, state);
        if row.kind == DynoKind::Release {
            // What became of its release is told in the app's log, too.
            self.shared.parts.events.poke();
        }
        if crash.is_some() {
            self.log_who_keeps_serving(row).await?;
        }
        self.live.remove(&row.id);
        if self.closing.is_some() {
            // The node ends when this loop does: nothing of the dyno may be left then.
            self.shared.parts.driver.remove(row.id).await?;
        } else {
            self.shared.remove_later(row.id);
        }
        Ok(())
    }

    fn log_end(&self, row: &Dyno, end: &End, state: DynoState) {
        match end {
            End::Exited { status, oom_killed, .. } => {
                if *oom_killed {
                    if let Some(quota) = memory::quota(row) {
                        // The kernel kills at the limit: that much it had.
                        let limit = quota * memory::HARD_LIMIT_FACTOR;
                        self.log(row, log_text::running_memory(limit, quota));
                    }
                    self.log(row, log_text::MEMORY_VASTLY_EXCEEDED);
                    self.log(row, log_text::STOPPING_KILL);
                }
                self.log(row, log_text::exited(*status));
            }
            End::NotStarted { reason } => self.log(row, log_text::start_failed(reason)),
            End::Lost if state == DynoState::Idle => {}
            End::Lost => self.log(row, log_text::LOST),
        }
        // Of one that was told to go, its retirement has said so already; of one asleep, its sleep.
        if !matches!(state, DynoState::Down | DynoState::Idle) {
            self.log(row, log_text::state_changed(row.state, state));
        }
    }

    /// How often the slot has crashed now, and when it may start again.
    async fn count_crash(&self, row: &Dyno, end: &End, now: Millis) -> Result<Crash> {
        let known = dyno_crashes::list(&self.shared.parts.store, self.app_id).await?;
        let earlier = known
            .iter()
            .find(|crash| {
                crash.process_type == row.process_type
                    && crash.ordinal == row.ordinal
                    && crash.release_version == row.release_version
                    && crash.restart_generation == row.restart_generation
            })
            .map_or(0, |crash| crash.crashes);
        // It may have ended long before this was heard of: while control or the whole node was down.
        let ended_at = if let End::Exited { at_ms, .. } = end { *at_ms } else { now };
        let up_for_ms = (row.state == DynoState::Up).then(|| ended_at - row.updated_at);
        let (crashes, next_start_at) = match end {
            End::NotStarted { .. } => planner::after_failed_start(earlier, now),
            End::Exited { .. } | End::Lost => planner::after_crash(earlier, up_for_ms, now),
        };
        Ok(Crash {
            process_type: row.process_type.clone(),
            ordinal: row.ordinal,
            release_version: row.release_version,
            restart_generation: row.restart_generation,
            crashes,
            next_start_at,
        })
    }

    /// Tells that an older release goes on serving because this one's web dyno crashed.
    async fn log_who_keeps_serving(&self, row: &Dyno) -> Result<()> {
        if row.process_type != WEB {
            return Ok(());
        }
        let others = dynos::list(&self.shared.parts.store, self.app_id).await?;
        let older = others.iter().find(|other| {
            other.process_type == WEB
                && other.state == DynoState::Up
                && other.draining_at.is_none()
                && other.release_version < row.release_version
        });
        if let Some(older) = older {
            self.log(row, log_text::keeps_serving(older.release_version, row.release_version));
        }
        Ok(())
    }
}

async fn write_state(
    store: &Store,
    id: DynoId,
    state: DynoState,
    address: Option<&str>,
    now: Millis,
) -> ferroku_store::Result<()> {
    ferroku_store::write!(store, tx => { dynos::set_state(&mut tx, id, state, address, now).await })
}

async fn write_end(
    store: &Store,
    app_id: AppId,
    id: DynoId,
    state: DynoState,
    status: Option<i32>,
    crash: Option<&Crash>,
    now: Millis,
) -> ferroku_store::Result<()> {
    ferroku_store::write!(store, tx => {
        if let Some(crash) = crash {
            dyno_crashes::record(&mut tx, app_id, crash).await?;
        } else if state == DynoState::Idle {
            dynos::drain(&mut tx, id, now).await?;
        } else {
            // Its label is free: only a crashed one and one asleep keep it.
            dynos::retire(&mut tx, id, true, now).await?;
        }
        dynos::end(&mut tx, id, state, status, now).await
    })
}
