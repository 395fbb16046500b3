//! Times that do not jump with the machine's clock.
//!
//! Rows hold wall-clock times. That clock may jump, by days when it was wrong at boot; and then a drain would be over
//! at once, or a back-off would last for days. So the planner is asked in a time that only ever passes: [`Steady`] puts
//! each time of a row into it when it first sees it, and remembers that for as long as the row is there.
//!
//! In: rows with wall-clock times, the wall clock, and a clock that does not jump (both in milliseconds, from any
//! beginning). Out: the same rows in the time of the second clock.
//!
//! Invariants, whatever the wall clock does:
//! - What began while this lives lasts as long as it should, to the millisecond.
//! - What began before (an earlier control process) has an age by the wall clock where that can be, and else begins
//!   anew: nothing waits longer than its whole time from now on, and no drain and no grace after SIGTERM is cut short.

use super::back_off::{COOL_OFFS_MS, START_RETRY_MS};
use super::{AppActual, DRAIN_TIMEOUT_MS, STUCK_AFTER_MS};
use crate::{DynoId, Millis};
use std::collections::HashMap;

/// What of a row is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Of {
    Created(DynoId),
    State(DynoId),
    Draining(DynoId),
    Stopping(DynoId),
    Expires(DynoId),
    Crash(String, u32),
}

/// Remembers the times of one app's rows.
#[derive(Debug, Default)]
pub struct Steady {
    /// The time as the row has it, and as the planner is told.
    known: HashMap<Of, (Millis, Millis)>,
    since: Option<Millis>,
}

impl Steady {
    /// Puts all times of `actual` into the time in which it is now `now`; by the wall clock it is `wall`.
    pub fn translate(&mut self, actual: &mut AppActual, wall: Millis, now: Millis) {
        actual.watched_since = *self.since.get_or_insert(now);
        let earlier = std::mem::take(&mut self.known);
        let known = &mut self.known;
        let mut put = |of: Of, at: &mut Millis, first_sight: &dyn Fn(Millis) -> Millis| {
            let translated = match earlier.get(&of) {
                Some((row, translated)) if *row == *at => *translated,
                _ => first_sight(*at),
            };
            known.insert(of, (*at, translated));
            *at = translated;
        };
        // An age that cannot be is none; one beyond `most` says nothing about what has passed since.
        let age = |most: Millis| {
            move |at: Millis| if (0..most).contains(&(wall - at)) { now - (wall - at) } else { now }
        };
        for dyno in &mut actual.dynos {
            let created = dyno.created_at;
            put(Of::Created(dyno.id), &mut dyno.created_at, &|at| now - (wall - at).max(0));
            put(Of::State(dyno.id), &mut dyno.state_since, &|at| now - (wall - at).max(0));
            if let Some(at) = &mut dyno.draining_at {
                put(Of::Draining(dyno.id), at, &age(DRAIN_TIMEOUT_MS));
            }
            if let Some(at) = &mut dyno.stopping_at {
                put(Of::Stopping(dyno.id), at, &age(STUCK_AFTER_MS));
            }
            if let Some(at) = &mut dyno.expires_at {
                put(Of::Expires(dyno.id), at, &|at| now + (at - wall).min(at - created));
            }
        }
        for crash in &mut actual.crashes {
            let step = (crash.crashes.max(1) as usize - 1).min(COOL_OFFS_MS.len() - 1);
            let longest = COOL_OFFS_MS[step].max(START_RETRY_MS);
            let of = Of::Crash(crash.process_type.clone(), crash.ordinal);
            put(of, &mut crash.next_start_at, &|at| now + (at - wall).min(longest));
        }
    }
}
