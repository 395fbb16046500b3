//! The planner: what to do next so that an app's dynos become what is wanted.
//!
//! In: what is wanted ([`AppDesired`]: formation, current release, restart generation), what there is
//! ([`AppActual`]: dyno rows together with what the driver says of them) and the time, which only ever passes: rows'
//! times are put into it by [`Steady`], so that a jump of the machine's clock neither hurries nor holds up anything.
//! Out: a [`Plan`]:
//! the next actions, none of which waits, and when to ask again though nothing happened. Whoever carries
//! actions out (the dyno manager) asks again after each round until there is nothing to do.
//!
//! Invariants, each a property test in `tests.rs`:
//! - Labels (`web.1`) are unique among dynos that are not retired.
//! - While web dynos are replaced or scaled, no action takes a healthy one away that would leave fewer than
//!   min(wanted, healthy before) healthy ones. `ps:stop` of a dyno is the one exception, being asked for.
//! - A release hands over to the next at once: superseded web dynos stay until all successors serve, unless that
//!   would be more than `max_surge` beyond the wanted number.
//! - Nothing of an older release is created once a dyno of a newer one has been.
//! - Dynos of other types than web never overlap in a slot: the old one ends, then the new one starts.
//! - No dyno is frozen while a request is open or sooner than the policy says, and none but of the formation; what
//!   sleeps is woken as soon as the app is not idle.
//! - Without eco hours no eco dyno is created or started, and none goes on running but a release's command.
//! - Converged means silent: no actions when nothing is to change.
//!
//! When a new release's web dynos crash at boot, those of the release before go on serving until new ones
//! are up. Heroku (without preboot) would answer H10 meanwhile.
//!
//! Source: Heroku's "Dynos and the Dyno Manager", "Preboot"; design.md section 5.

mod back_off;
mod cycle;
mod formation;
mod handover;
mod one_off;
mod sleep;
#[cfg(test)]
mod sleep_tests;
mod steady;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

pub use back_off::{COOL_OFFS_MS, Crash, STABLE_AFTER_MS, START_RETRY_MS, after_crash, after_failed_start};
pub use handover::serving_release;
pub use sleep::{Activity, Rest, SleepPolicy};
pub use steady::Steady;

use crate::dyno::DynoKind;
use crate::{DynoId, Millis, ReleaseId};

/// The process type that gets requests.
pub const WEB: &str = "web";
/// A web dyno must listen on `$PORT` within this, in milliseconds (R10). Heroku's default.
pub const BOOT_TIMEOUT_MS: u64 = 60_000;
/// How long a draining dyno may finish its requests before SIGTERM, in milliseconds: as long as the
/// router waits for a first byte (H12), so that no request that would have been answered is cut.
pub const DRAIN_TIMEOUT_MS: Millis = 30_000;
/// From SIGTERM to SIGKILL, in milliseconds (R12). Heroku's value.
pub const STOP_GRACE_MS: u64 = 30_000;
/// An attached one-off whose client has not come within this many milliseconds is given up (R13). Heroku's value.
pub const ATTACH_TIMEOUT_MS: Millis = 30_000;
/// A dyno that is still there this many milliseconds after SIGTERM is killed as a whole: the grace and some.
const STUCK_AFTER_MS: Millis = 45_000;

/// How often a dyno that waits for room is tried again, in milliseconds. Room that another dyno leaves is told at once;
/// this is for what nobody tells of, such as a disk that was full.
pub const ROOM_RETRY_MS: Millis = 2_000;

/// What should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppDesired {
    /// The current release, if it has code to run; without, nothing of the formation runs.
    pub release: Option<DesiredRelease>,
    /// Dynos started under a lower one are to be replaced.
    pub restart_generation: i64,
    pub formation: Vec<DesiredType>,
    /// How many web dynos may go on serving beyond the wanted number while their successors boot; at least 1.
    pub max_surge: u32,
    /// Dynos are replaced after so many milliseconds and up to 15 % more; `None` never.
    pub cycle_after_ms: Option<Millis>,
    /// None: it never sleeps.
    pub sleep: Option<SleepPolicy>,
    /// The eco hours of its account are used up: dynos of size eco do not run.
    pub out_of_eco_hours: bool,
}

/// The current release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DesiredRelease {
    pub id: ReleaseId,
    pub version: i64,
}

/// One process type and how many dynos of it should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredType {
    pub process_type: String,
    pub command: String,
    pub quantity: u32,
    pub size: String,
}

/// What is: every dyno that has not ended, and those crashed ones that still hold their label.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AppActual {
    pub dynos: Vec<DynoActual>,
    /// Back-off of slots that crashed.
    pub crashes: Vec<Crash>,
    pub activity: Activity,
    /// Since when the app has been watched without a gap; [`Steady`] fills it in.
    pub watched_since: Millis,
}

/// How far a dyno has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Written down; its process is not started.
    Created,
    /// Its process was started; a web dyno does not listen yet.
    Starting,
    Up,
    /// Its process has ended; the row shows that and holds the label until a successor takes it.
    Crashed,
    /// Its process was stopped because nobody asked for the app; the row holds the label until a successor takes it.
    Asleep,
}

/// One dyno: its row, and what the driver says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynoActual {
    pub id: DynoId,
    pub kind: DynoKind,
    pub process_type: String,
    pub ordinal: u32,
    pub release_version: i64,
    pub restart_generation: i64,
    pub size: String,
    pub command: String,
    pub phase: Phase,
    /// The node had no room for it a moment ago.
    pub waits_for_room: bool,
    pub rest: Rest,
    /// When the state that the API shows changed last.
    pub state_since: Millis,
    pub attached: bool,
    pub restart_requested: bool,
    pub stop_requested: bool,
    pub retired: bool,
    pub draining_at: Option<Millis>,
    /// The router has no request in flight to it, or never had any.
    pub drained: bool,
    pub stopping_at: Option<Millis>,
    /// It did not listen in time.
    pub boot_timed_out: bool,
    /// SIGKILL was sent.
    pub killed: bool,
    pub expires_at: Option<Millis>,
    pub created_at: Millis,
}

/// Why a dyno is retired; decides what its log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetireCause {
    /// A newer release or a restart; a successor follows.
    Replaced,
    /// Its label has been taken over already by a successor that runs.
    Superseded,
    /// Not wanted any more.
    ScaledDown,
    /// `ps:stop`.
    Stopped,
    /// A one-off's time to live is over.
    Expired,
    /// It has been there for so long that it is cycled.
    Cycled,
    /// It is of size eco, and its account's eco hours are used up.
    OutOfEcoHours,
}

/// Why a dyno is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillCause {
    /// R10.
    BootTimeout,
    /// It outlived SIGTERM and its grace.
    Stuck,
}

/// One step. Carrying one out twice does no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write down a new dyno of the current release; what held its label is retired in the same transaction.
    Create(NewDyno),
    /// Start the process of a dyno that is written down.
    Spawn { dyno_id: DynoId },
    /// No new requests to it from now on; retired if it was not.
    Retire { dyno_id: DynoId, cause: RetireCause },
    /// SIGTERM to all its processes, SIGKILL after the grace.
    Stop { dyno_id: DynoId },
    /// SIGKILL to all its processes.
    Kill { dyno_id: DynoId, cause: KillCause },
    /// It has no process and is not wanted: close its row.
    End { dyno_id: DynoId },
    /// Nobody attached in time (R13): close its row.
    GiveUpAttach { dyno_id: DynoId },
    /// Let none of its processes run until somebody asks for the app.
    Freeze { dyno_id: DynoId },
    /// Let its processes run again.
    Thaw { dyno_id: DynoId },
    /// No new requests to it from now on; it is to be stopped, and its row keeps the label as asleep.
    Hibernate { dyno_id: DynoId },
}

/// A dyno to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDyno {
    pub process_type: String,
    pub ordinal: u32,
    pub release: DesiredRelease,
    pub restart_generation: i64,
    pub size: String,
    pub command: String,
    /// The dyno that held the label until now: a serving web dyno that stays until successors are up, one that is
    /// being stopped for sleep, or a crashed or sleeping one whose row is closed.
    pub supersedes: Option<DynoId>,
    /// What it supersedes is as it should be, and only cycled.
    pub cycles: bool,
}

/// What to do, and when to ask again at the latest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub wake_at: Option<Millis>,
}

impl Plan {
    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wake(&mut self, at: Millis) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

impl DynoActual {
    fn label_is_free(&self) -> bool {
        self.retired
    }

    /// Healthy and open to new requests.
    fn serves(&self) -> bool {
        self.phase == Phase::Up && self.draining_at.is_none()
    }
}

/// The next actions for one app. Pure: the same input gives the same plan.
pub fn plan(desired: &AppDesired, actual: &AppActual, now: Millis) -> Plan {
    let mut plan = Plan::default();
    for dyno in &actual.dynos {
        see_out(dyno, now, &mut plan);
        if dyno.kind != DynoKind::Formation {
            one_off::plan(dyno, desired, actual.watched_since, now, &mut plan);
        }
    }
    // What was read as wanted is older than what already runs: decide nothing on it.
    // A release command runs ahead of its release, which may never come to be.
    let formation = actual.dynos.iter().filter(|dyno| dyno.kind == DynoKind::Formation);
    let newest = formation.map(|dyno| dyno.release_version).max().unwrap_or(0);
    if desired.release.is_some_and(|release| release.version < newest) {
        return plan;
    }
    let idle_since = sleep::idle_since(desired, actual, now, &mut plan);
    formation::plan(desired, actual, idle_since.is_some(), now, &mut plan);
    sleep::plan(desired, actual, idle_since, now, &mut plan);
    plan
}

/// Starts a dyno that is written down, unless there was no room for it a moment ago.
fn spawn(dyno: &DynoActual, now: Millis, plan: &mut Plan) {
    if dyno.waits_for_room {
        plan.wake(now + ROOM_RETRY_MS);
    } else {
        plan.push(Action::Spawn { dyno_id: dyno.id });
    }
}

/// The steps of a dyno on its way out, and of one that did not boot in time.
fn see_out(dyno: &DynoActual, now: Millis, plan: &mut Plan) {
    if matches!(dyno.phase, Phase::Starting | Phase::Up) && !dyno.killed {
        if dyno.boot_timed_out && dyno.phase == Phase::Starting {
            plan.push(Action::Kill { dyno_id: dyno.id, cause: KillCause::BootTimeout });
            return;
        }
        if let Some(stopping_at) = dyno.stopping_at {
            if now >= stopping_at + STUCK_AFTER_MS {
                plan.push(Action::Kill { dyno_id: dyno.id, cause: KillCause::Stuck });
            } else {
                plan.wake(stopping_at + STUCK_AFTER_MS);
            }
            return;
        }
    }
    let Some(draining_at) = dyno.draining_at else { return };
    match dyno.phase {
        Phase::Created | Phase::Crashed | Phase::Asleep => plan.push(Action::End { dyno_id: dyno.id }),
        _ if dyno.stopping_at.is_some() || dyno.killed => {}
        _ if dyno.drained || now >= draining_at + DRAIN_TIMEOUT_MS => {
            plan.push(Action::Stop { dyno_id: dyno.id });
        }
        _ => plan.wake(draining_at + DRAIN_TIMEOUT_MS),
    }
}
