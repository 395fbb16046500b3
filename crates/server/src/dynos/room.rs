//! Room for dynos on this node: the memory that the admin allots to them, and a disk that is not full.
//!
//! In: claims, one for each dyno and build that runs. A claim that is refused is remembered, for `heroku ps` and the
//! log; when a claim ends, the apps that wait are told. The rule is [`ferroku_core::room`].
//!
//! Invariant: a claim lives as long as its [`Claimed`].

use super::memory;
use crate::disk;
use ferroku_core::dyno::{Dyno, DynoKind};
use ferroku_core::planner::ROOM_RETRY_MS;
use ferroku_core::room::{self, Claim, Shortage};
use ferroku_core::{AppId, DynoId};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Kept free on the data folder's disk for the store, logs and dynos that run already: below it none is started. A
/// dyno's own files are some 1 MB at first, its log ring at most 4.
const DISK_RESERVE: disk::Room = disk::Room { bytes: 32 * 1024 * 1024, files: 256 };

/// The node's room.
#[derive(Debug)]
pub struct Room {
    data: PathBuf,
    allotted_bytes: u64,
    state: Mutex<State>,
    /// Told when a claim has ended.
    pub freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    claims: HashMap<DynoId, Claim>,
    waiting: HashMap<DynoId, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    app_id: AppId,
    shortage: Shortage,
    /// Since then nothing has changed that is known of.
    refused: Option<Instant>,
}

/// A dyno's claim; its end is the claim's.
#[derive(Debug)]
pub struct Claimed {
    room: Arc<Room>,
    dyno_id: DynoId,
}

/// What the admin allots, and what is taken of it by dynos beside the formations and by builds.
#[derive(Debug, Clone, Copy)]
pub struct Allotment {
    pub allotted_bytes: u64,
    pub beside_bytes: u64,
}

/// What the kernel tells of the machine's memory.
pub const MEMINFO: &str = "/proc/meminfo";

/// This machine's memory, in bytes.
pub fn machine_memory_bytes() -> Option<u64> {
    Some(meminfo_kilobytes(&std::fs::read_to_string(MEMINFO).ok()?, "MemTotal:")? * 1024)
}

/// One figure of [`MEMINFO`]'s text (proc_meminfo(5)).
pub fn meminfo_kilobytes(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_ascii_whitespace().next()?.parse().ok())
}

/// What a dyno takes.
pub fn claim_of(row: &Dyno) -> Claim {
    let slot = (row.kind == DynoKind::Formation).then(|| (row.app_id, row.process_type.clone(), row.ordinal));
    Claim { slot, memory_bytes: memory::quota(row).unwrap_or(0) }
}

impl Room {
    /// With so many bytes for all dynos and builds, and none but the machine's limits with `None`.
    pub fn new(data: PathBuf, allotted_bytes: Option<u64>) -> Self {
        let allotted_bytes = allotted_bytes.unwrap_or(u64::MAX);
        Self { data, allotted_bytes, state: Mutex::default(), freed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes room for a dyno or build of an app.
    ///
    /// # Errors
    /// There is none.
    pub fn claim(
        self: &Arc<Self>,
        app_id: AppId,
        dyno_id: DynoId,
        claim: Claim,
    ) -> Result<Claimed, Shortage> {
        let mut state = self.lock();
        match self.admits(&state, &claim) {
            Ok(()) => {
                state.waiting.remove(&dyno_id);
                state.claims.insert(dyno_id, claim);
                Ok(Claimed { room: self.clone(), dyno_id })
            }
            Err(shortage) => {
                let waiting = Waiting { app_id, shortage, refused: Some(Instant::now()) };
                state.waiting.insert(dyno_id, waiting);
                Err(shortage)
            }
        }
    }

    /// Takes room for a dyno that runs already, whether or not there is any.
    pub fn keep(self: &Arc<Self>, row: &Dyno) -> Claimed {
        self.lock().claims.insert(row.id, claim_of(row));
        Claimed { room: self.clone(), dyno_id: row.id }
    }

    /// Whether there is room for one more.
    ///
    /// # Errors
    /// There is none.
    pub fn check(&self, claim: &Claim) -> Result<(), Shortage> {
        self.admits(&self.lock(), claim)
    }

    fn admits(&self, state: &State, claim: &Claim) -> Result<(), Shortage> {
        if disk::Room::on(&self.data).is_some_and(|free| !free.holds(DISK_RESERVE)) {
            return Err(Shortage::Disk);
        }
        room::admit(self.allotted_bytes, state.claims.values(), claim)
    }

    /// Why a dyno is not started, if it waits for room.
    pub fn shortage(&self, dyno_id: DynoId) -> Option<Shortage> {
        self.lock().waiting.get(&dyno_id).map(|waiting| waiting.shortage)
    }

    /// Whether it was refused, and nothing is known to have changed since.
    pub fn waits(&self, dyno_id: DynoId) -> bool {
        let pause = Duration::from_millis(ROOM_RETRY_MS.unsigned_abs());
        let state = self.lock();
        let refused = state.waiting.get(&dyno_id).and_then(|waiting| waiting.refused);
        refused.is_some_and(|at| at.elapsed() < pause)
    }

    /// A dyno that waited is not wanted any more.
    pub fn forget(&self, dyno_id: DynoId) {
        self.lock().waiting.remove(&dyno_id);
    }

    /// Nothing of an app waits any more.
    pub fn forget_app(&self, app_id: AppId) {
        self.lock().waiting.retain(|_, waiting| waiting.app_id != app_id);
    }

    /// The apps with dynos that wait; each of these may be tried again at once.
    pub fn waiting_apps(&self) -> BTreeSet<AppId> {
        let mut state = self.lock();
        state.waiting.values_mut().for_each(|waiting| waiting.refused = None);
        state.waiting.values().map(|waiting| waiting.app_id).collect()
    }

    /// What may be promised to formations.
    pub fn allotment(&self) -> Allotment {
        let state = self.lock();
        let beside = state.claims.values().filter(|claim| claim.slot.is_none());
        Allotment { allotted_bytes: self.allotted_bytes, beside_bytes: room::taken_bytes(beside) }
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.room.lock().claims.remove(&self.dyno_id);
        self.room.freed.notify_one();
    }
}
