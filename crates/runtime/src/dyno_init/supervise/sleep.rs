//! The dyno's sleep: freezes its processes when control says so, and lets them run when anybody asks.

use super::Supervisor;
use crate::dyno_init::family::{self, Held};
use crate::dyno_init::sys;
use crate::dyno_init::wake_door::WakeDoor;
use ferroku_core::protocol::dyno::FromDynoInit;
use std::io::Write as _;
use std::time::Duration;

/// The kernel freezes within a millisecond; a process that is deep inside it may take longer, and this program answers
/// nobody meanwhile.
const FREEZE_LIMIT: Duration = Duration::from_millis(500);
/// How long masters stay stopped after the thaw: their workers are to be heard of first.
const HOLD_MS: u64 = 1_000;

/// What is known of the dyno's sleep.
pub(super) struct Sleep {
    pub door: WakeDoor,
    pub frozen: Option<u64>,
    /// The sleep that was ended last.
    pub woken: Option<u64>,
    held: Vec<Held>,
    pub release_at_ms: Option<u64>,
}

impl Sleep {
    pub fn new(door: WakeDoor) -> Self {
        Self { door, frozen: None, woken: None, held: Vec::new(), release_at_ms: None }
    }

    /// Told to each new control.
    pub fn state(&self) -> Option<FromDynoInit> {
        let woken = self.woken.map(|sleep_id| FromDynoInit::Thawed { sleep_id });
        self.frozen.map(|sleep_id| FromDynoInit::Frozen { sleep_id }).or(woken)
    }
}

impl Supervisor {
    pub(super) fn freeze(&mut self, sleep_id: u64) {
        let runs = self.started_at_ms.is_some() && self.stop_at_ms.is_none() && !self.release;
        // Whoever works inside it wants it awake.
        let wanted = self.sleep.woken == Some(sleep_id) || self.guests.are_there();
        let Some(first) = self.init_pid.filter(|_| runs && !wanted) else {
            self.tell(&FromDynoInit::Thawed { sleep_id });
            return;
        };
        self.sleep.release_at_ms = None;
        if self.sleep.frozen.is_none() {
            let held = family::hold_masters(&self.cgroup.processes(), first, self.plan.spec.port);
            self.sleep.held.extend(held);
            if let Err(error) = self.cgroup.freeze(FREEZE_LIMIT) {
                self.let_run();
                self.tell(&FromDynoInit::FreezeFailed { sleep_id, reason: error.to_string() });
                return;
            }
        }
        self.sleep.frozen = Some(sleep_id);
        self.tell(&FromDynoInit::Frozen { sleep_id });
    }

    /// Ends this sleep; masters follow when their workers have been heard of.
    pub(super) fn thaw(&mut self, sleep_id: u64) {
        self.sleep.woken = Some(sleep_id);
        if self.sleep.frozen.take().is_some() {
            self.thaw_group();
            self.sleep.release_at_ms = Some(sys::monotonic_ms() + HOLD_MS);
        }
        self.tell(&FromDynoInit::Thawed { sleep_id });
    }

    /// Somebody wants to work inside it.
    pub(super) fn thaw_for_guest(&mut self) {
        if let Some(sleep_id) = self.sleep.frozen {
            self.thaw(sleep_id);
        }
    }

    /// Everything runs from now on: what it is to hear cannot wait.
    pub(super) fn let_run(&mut self) {
        self.sleep.release_at_ms = None;
        self.sleep.frozen = None;
        self.thaw_group();
        family::release(&mut self.sleep.held);
    }

    /// Wakes whoever asks at the door.
    pub(super) fn answer_door(&mut self) {
        for request in self.sleep.door.requests() {
            self.thaw(request.sleep_id);
            // Of a dyno that has ended, the closed connection says so.
            if self.init_pid.is_some() && !self.release {
                request.answer();
            }
        }
    }

    pub(super) fn release_masters(&mut self, now_ms: u64) {
        if self.sleep.release_at_ms.is_some_and(|at| now_ms >= at) {
            self.sleep.release_at_ms = None;
            family::release(&mut self.sleep.held);
        }
    }

    fn thaw_group(&self) {
        if let Err(error) = self.cgroup.thaw() {
            let _ = writeln!(std::io::stderr(), "thaw the dyno: {error}");
        }
    }
}
