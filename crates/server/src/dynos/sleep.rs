//! Sleep: carries out the planner's steps into it and out of it, and knows what there is to know of an app's requests.
//!
//! In: request records, the routers' counts, what dynos and the router say of waking. Out: frozen, woken and stopped
//! dynos, and their rows and log lines.
//!
//! A web dyno is frozen only after the router serves a table that says so. A request that was under way then, or comes
//! meanwhile, wakes the dyno under the number of this sleep, and dyno-init does not freeze under it any more. So however
//! the two orders meet, no request waits at a frozen dyno.

use super::app_loop::{AppLoop, Message, Snapshot};
use super::room::{MEMINFO, meminfo_kilobytes};
use super::{Result, Shared, log_text, now_us, steady_ms};
use crate::node::now_ms;
use ferroku_core::app_feature::{SLEEP_WHEN_IDLE, is_enabled};
use ferroku_core::dyno::{Dyno, DynoState};
use ferroku_core::planner::{Activity, Rest, SleepPolicy, WEB};
use ferroku_core::protocol::router::Asleep;
use ferroku_core::{AppId, DynoId, Millis, dyno_size};
use ferroku_runtime::{Driver, DynoEvent};
use ferroku_store::{Store, dynos};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often the machine's memory is looked at while dynos are frozen. Each time one app gives its memory back.
const MEMORY_LOOK: Duration = Duration::from_secs(5);

/// After a freeze that failed, until the next attempt; twice as long after each further one. A busy machine lets a dyno
/// stand still a moment later, and an attempt holds up the dyno's processes for half a second.
const FREEZE_RETRY_MS: Millis = 5_000;
/// The longest of these pauses: what cannot be frozen at all is stopped meanwhile.
const FREEZE_RETRY_LIMIT_MS: Millis = 600_000;

/// When the node's apps sleep. By default none ever does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SleepSettings {
    /// None: no app ever sleeps.
    pub policy: Option<SleepPolicy>,
    /// Frozen dynos are stopped while less of the machine's memory than this is available, in percent.
    pub min_available_percent: u8,
}

/// What is known of an app's requests beyond what routers count, in time that only passes.
pub(super) struct Requests {
    last: Mutex<HashMap<AppId, Millis>>,
    watched_since: Millis,
}

/// What is known of a dyno's sleep beyond its row.
#[derive(Default)]
pub(super) struct LiveSleep {
    /// Where the router wakes it; without, it cannot be frozen.
    pub wake_socket: Option<PathBuf>,
    sleep_id: u64,
    step: Step,
    /// Freezes that failed since the last that did not.
    failures: u32,
    /// It is not frozen before.
    freeze_at: Millis,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Step {
    #[default]
    None,
    FallingAsleep,
    Waking,
}

// === impl Requests ===

impl Requests {
    pub fn new() -> Self {
        Self { last: Mutex::default(), watched_since: steady_ms() }
    }

    /// Somebody asks for the app, or did a moment ago.
    pub fn note(&self, app_id: AppId) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).insert(app_id, steady_ms());
    }

    pub fn forget(&self, app_id: AppId) {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).remove(&app_id);
    }

    fn last(&self, app_id: AppId) -> Option<Millis> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).get(&app_id).copied()
    }
}

// === impl LiveSleep ===

impl LiveSleep {
    pub fn of(wake_socket: Option<PathBuf>) -> Self {
        Self { wake_socket, ..Self::default() }
    }

    fn cannot_freeze(&self, now: Millis) -> bool {
        self.wake_socket.is_none() || now < self.freeze_at
    }

    fn freeze_failed(&mut self, now: Millis) {
        let pause = FREEZE_RETRY_MS.saturating_mul(1 << self.failures.min(30)).min(FREEZE_RETRY_LIMIT_MS);
        (self.step, self.failures, self.freeze_at) = (Step::None, self.failures + 1, now + pause);
    }
}

/// Whether and when an app sleeps.
pub(super) fn policy(snapshot: &Snapshot, settings: &SleepSettings) -> Option<SleepPolicy> {
    let web = snapshot.formation.iter().find(|one| one.process_type == WEB);
    let sleeps = web.is_some_and(|web| dyno_size::sleeps(&web.size))
        || is_enabled(&snapshot.features, SLEEP_WHEN_IDLE);
    settings.policy.filter(|_| sleeps)
}

impl AppLoop {
    pub fn activity(&self) -> Activity {
        let (requests, router) = (&self.shared.requests, &self.shared.parts.router);
        Activity {
            last_request_at: requests.last(self.app_id),
            watched_since: requests.watched_since,
            // Without a router's word nobody can tell.
            is_open: router.open_requests(self.app_id) != Some(0),
            must_make_room: self.must_make_room,
        }
    }

    pub fn rest(&self, row: &Dyno) -> Rest {
        let sleep = self.live.get(&row.id).map(|live| &live.sleep);
        match sleep.map_or(Step::None, |sleep| sleep.step) {
            Step::FallingAsleep => Rest::FallingAsleep,
            Step::Waking => Rest::Waking,
            Step::None if row.state == DynoState::Idle => Rest::Frozen,
            Step::None if sleep.is_some_and(|sleep| sleep.cannot_freeze(steady_ms())) => Rest::Restless,
            Step::None => Rest::Awake,
        }
    }

    /// When a dyno that could not be frozen may be told again.
    pub fn next_freeze_at(&self) -> Option<Millis> {
        let now = steady_ms();
        self.live.values().map(|live| live.sleep.freeze_at).filter(|at| *at > now).min()
    }

    /// How the router wakes those dynos that sleep or are about to.
    pub fn asleep(&self, rows: &[Dyno]) -> BTreeMap<DynoId, Asleep> {
        let asleep = |row: &Dyno| {
            let sleep = &self.live.get(&row.id)?.sleep;
            let sleeps = row.state == DynoState::Idle || sleep.step == Step::FallingAsleep;
            let wake_socket = sleep.wake_socket.clone().filter(|_| sleeps)?;
            Some((row.id, Asleep { wake_socket, sleep_id: sleep.sleep_id }))
        };
        rows.iter().filter_map(asleep).collect()
    }

    /// Has the router wake it before each request from now on, then freezes it.
    pub async fn freeze(&mut self, snapshot: &Snapshot, row: &Dyno) -> Result<()> {
        let Some(live) = self.live.get_mut(&row.id) else { return Ok(()) };
        let Some(control) = live.control.clone() else { return Ok(()) };
        let sleep_id = u64::try_from(now_us()).unwrap_or(0).max(live.sleep.sleep_id + 1);
        (live.sleep.step, live.sleep.sleep_id) = (Step::FallingAsleep, sleep_id);
        let is_web = row.process_type == WEB;
        if is_web {
            self.publish_route(snapshot).await?;
        }
        let shared = self.shared.clone();
        tokio::spawn(async move {
            if is_web {
                shared.routes.served(&shared.parts.router).await;
            }
            // Of a dyno that is gone its end is reported.
            let _ = control.freeze(sleep_id).await;
        });
        Ok(())
    }

    pub async fn thaw(&mut self, row: &Dyno) {
        let Some(live) = self.live.get_mut(&row.id) else { return };
        live.sleep.step = Step::Waking;
        if let Some(control) = &live.control {
            let _ = control.thaw(live.sleep.sleep_id).await;
        }
    }

    /// It gets no request any more, and is stopped once it has none; asleep it stays.
    pub async fn hibernate(&mut self, snapshot: &Snapshot, row: &Dyno) -> Result<()> {
        if snapshot.is_out_of_eco_hours() && dyno_size::sleeps(&row.size) {
            self.log(row, log_text::OUT_OF_ECO_HOURS);
        }
        if row.state != DynoState::Idle {
            self.record_idle(row).await?;
        }
        write_drain(&self.shared.parts.store, row.id, now_ms()).await?;
        Ok(())
    }

    /// What a dyno says of its sleep.
    pub async fn on_sleep(&mut self, row: &Dyno, event: DynoEvent) -> Result<()> {
        let Some(live) = self.live.get_mut(&row.id) else { return Ok(()) };
        let step = live.sleep.step;
        match event {
            DynoEvent::Frozen { sleep_id } => {
                (live.sleep.sleep_id, live.sleep.failures) = (sleep_id, 0);
                if step == Step::FallingAsleep {
                    live.sleep.step = Step::None;
                }
                if row.state == DynoState::Up {
                    self.record_idle(row).await?;
                }
                self.give_memory_back(row.id);
            }
            DynoEvent::Thawed { .. } => {
                live.sleep.step = Step::None;
                let was_asleep = row.state == DynoState::Idle;
                if was_asleep && row.draining_at.is_none() {
                    self.record_awake(row).await?;
                }
                // Told again to each new control, it is no news.
                if was_asleep || step == Step::FallingAsleep {
                    self.shared.requests.note(self.app_id);
                }
            }
            DynoEvent::FreezeFailed { reason, .. } => {
                live.sleep.freeze_failed(steady_ms());
                let (name, failures) = (row.name(), live.sleep.failures);
                tracing::warn!(app_id = %self.app_id, name, reason, failures, "a dyno was not frozen; trying again later");
            }
            _ => {}
        }
        Ok(())
    }

    async fn record_idle(&self, row: &Dyno) -> Result<()> {
        self.write_rest(row, DynoState::Idle).await?;
        self.log(row, log_text::IDLING);
        self.log(row, log_text::state_changed(row.state, DynoState::Idle));
        Ok(())
    }

    async fn record_awake(&self, row: &Dyno) -> Result<()> {
        self.write_rest(row, DynoState::Up).await?;
        self.log(row, log_text::UNIDLING);
        self.log(row, log_text::state_changed(row.state, DynoState::Up));
        Ok(())
    }

    async fn write_rest(&self, row: &Dyno, state: DynoState) -> ferroku_store::Result<()> {
        let now = now_ms();
        ferroku_store::write!(&self.shared.parts.store, tx => {
            dynos::set_state(&mut tx, row.id, state, None, now).await
        })
    }

    /// In the background: a request that comes meanwhile does not wait for it.
    fn give_memory_back(&self, dyno_id: DynoId) {
        let shared = self.shared.clone();
        tokio::spawn(async move {
            if let Some(bytes) = shared.parts.driver.swap_out(dyno_id).await {
                tracing::debug!(%dyno_id, bytes, "moved a frozen dyno's memory to swap");
            }
        });
    }
}

async fn write_drain(store: &Store, id: DynoId, now: Millis) -> ferroku_store::Result<()> {
    ferroku_store::write!(store, tx => { dynos::drain(&mut tx, id, now).await })
}

/// Has the app that sleeps longest give its memory back, one after the other, while the machine is short of it.
pub(super) async fn watch_memory(shared: Arc<Shared>) {
    if shared.parts.settings.sleep.policy.is_some() && !ferroku_runtime::has_swap() {
        tracing::info!(
            "this machine has no swap: a frozen dyno keeps its memory until it is stopped; zram or a swap file gives it back"
        );
    }
    loop {
        tokio::time::sleep(MEMORY_LOOK).await;
        let available = available_percent(Path::new(MEMINFO));
        if available
            .is_none_or(|available| available >= u64::from(shared.parts.settings.sleep.min_available_percent))
        {
            continue;
        }
        match dynos::list_living(&shared.parts.store).await {
            Ok(rows) => {
                let frozen =
                    rows.iter().filter(|row| row.state == DynoState::Idle && row.draining_at.is_none());
                if let Some(row) = frozen.min_by_key(|row| row.updated_at) {
                    shared.send(row.app_id, Message::MakeRoom);
                }
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot look for frozen dynos");
            }
        }
    }
}

/// How much memory programs could still get without swapping, of all there is.
fn available_percent(meminfo: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(meminfo).ok()?;
    let figure = |name| meminfo_kilobytes(&text, name);
    (figure("MemAvailable:")? * 100).checked_div(figure("MemTotal:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_that_fails_is_tried_again_after_a_pause_that_grows() {
        let mut sleep = LiveSleep::of(Some("wake".into()));
        assert!(!sleep.cannot_freeze(0));
        let mut now = 0;
        for pause in [5_000, 10_000, 20_000, 40_000] {
            sleep.freeze_failed(now);
            assert!(sleep.cannot_freeze(now + pause - 1) && !sleep.cannot_freeze(now + pause), "{pause}");
            now += pause;
        }
        (0..100).for_each(|_| sleep.freeze_failed(now));
        assert!(!sleep.cannot_freeze(now + FREEZE_RETRY_LIMIT_MS));
    }

    #[test]
    fn available_memory_is_told_in_percent() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "MemTotal:  2000 kB\nMemFree:  10 kB\nMemAvailable:  500 kB\n").unwrap();
        assert_eq!(available_percent(file.path()), Some(25));
        std::fs::write(file.path(), "").unwrap();
        assert_eq!(available_percent(file.path()), None);
    }
}
