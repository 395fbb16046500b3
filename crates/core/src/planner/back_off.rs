//! Crash back-off, per slot of the formation.
//!
//! The first crash is answered by a restart at once, each further one by a longer wait; the count starts
//! anew with a new release, a manual restart, scaling the slot away, and after a dyno that ran well.
//! Source: Heroku's dyno crash restart policy (Common Runtime).

use crate::Millis;

const MINUTE_MS: Millis = 60_000;

/// How long to wait before the start that follows the first, second ... crash, in milliseconds; the last
/// one goes for all that follow. Heroku's figures.
pub const COOL_OFFS_MS: [Millis; 6] =
    [0, 20 * MINUTE_MS, 40 * MINUTE_MS, 60 * MINUTE_MS, 180 * MINUTE_MS, 320 * MINUTE_MS];

/// A dyno that was up for this many milliseconds before it crashed counts as one that had started correctly:
/// its crash is the first again. Long enough that a process that dies soon after each start is not
/// restarted without end.
pub const STABLE_AFTER_MS: Millis = 5 * MINUTE_MS;

/// How long to wait after a start that the node itself failed, in milliseconds: it is none of the app's crashes, and
/// each try tells the app's log three lines.
pub const START_RETRY_MS: Millis = MINUTE_MS;

/// What is remembered of a slot that crashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    pub process_type: String,
    pub ordinal: u32,
    /// The crashes counted are of this release and restart generation; others begin anew.
    pub release_version: i64,
    pub restart_generation: i64,
    pub crashes: u32,
    pub next_start_at: Millis,
}

/// How many crashes that makes, and when the slot may start again.
///
/// `earlier` is the count before, 0 when none of the same release and generation; `up_for_ms` how long the
/// dyno was up, `None` when it never was.
pub fn after_crash(earlier: u32, up_for_ms: Option<Millis>, now: Millis) -> (u32, Millis) {
    let stable = up_for_ms.is_some_and(|up_for| up_for >= STABLE_AFTER_MS);
    let crashes = if stable { 1 } else { earlier.saturating_add(1) };
    let step = (crashes as usize - 1).min(COOL_OFFS_MS.len() - 1);
    (crashes, now + COOL_OFFS_MS[step])
}

/// The same after a start that the node failed, which is no crash of the app.
pub fn after_failed_start(earlier: u32, now: Millis) -> (u32, Millis) {
    (earlier, now + START_RETRY_MS)
}
