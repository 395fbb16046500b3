//! One-off dynos (`heroku run`, the release phase): started once, never again.

use super::cycle::cycle_at;
use super::{ATTACH_TIMEOUT_MS, Action, AppDesired, DynoActual, Phase, Plan, RetireCause, spawn};
use crate::dyno::DynoKind;
use crate::{Millis, dyno_size};

/// The next step of one one-off that is not on its way out.
pub(super) fn plan(
    dyno: &DynoActual,
    desired: &AppDesired,
    watched_since: Millis,
    now: Millis,
    plan: &mut Plan,
) {
    if dyno.draining_at.is_some() {
        return;
    }
    let dyno_id = dyno.id;
    if dyno.stop_requested {
        match dyno.phase {
            Phase::Created | Phase::Crashed | Phase::Asleep => plan.push(Action::End { dyno_id }),
            Phase::Starting | Phase::Up => plan.push(Action::Retire { dyno_id, cause: RetireCause::Stopped }),
        }
        return;
    }
    // A release's command is let be: it is half done, and has an end.
    let out_of_hours =
        desired.out_of_eco_hours && dyno.kind == DynoKind::Run && dyno_size::sleeps(&dyno.size);
    match dyno.phase {
        Phase::Created if out_of_hours => plan.push(Action::End { dyno_id }),
        Phase::Starting | Phase::Up if out_of_hours => {
            plan.push(Action::Retire { dyno_id, cause: RetireCause::OutOfEcoHours });
        }
        // It was told to stop, or its time was over, before it could be started.
        Phase::Created if dyno.stopping_at.is_some() || dyno.expires_at.is_some_and(|at| now >= at) => {
            plan.push(Action::End { dyno_id });
        }
        // An attached one is started by the client that comes.
        Phase::Created if dyno.attached => {
            let until = dyno.created_at + ATTACH_TIMEOUT_MS;
            if now >= until {
                plan.push(Action::GiveUpAttach { dyno_id });
            } else {
                plan.wake(until);
            }
        }
        Phase::Created => spawn(dyno, now, plan),
        Phase::Starting | Phase::Up => {
            // A release's command has a time of its own.
            let cycled = desired.cycle_after_ms.filter(|_| dyno.kind == DynoKind::Run);
            let ends = [
                (dyno.expires_at, RetireCause::Expired),
                (
                    cycled.map(|after| cycle_at(dyno_id, dyno.created_at, after, watched_since)),
                    RetireCause::Cycled,
                ),
            ];
            let next =
                ends.into_iter().filter_map(|(at, cause)| Some((at?, cause))).min_by_key(|(at, _)| *at);
            match next {
                Some((at, cause)) if now >= at => plan.push(Action::Retire { dyno_id, cause }),
                Some((at, _)) => plan.wake(at),
                None => {}
            }
        }
        Phase::Crashed | Phase::Asleep => plan.push(Action::End { dyno_id }),
    }
}
