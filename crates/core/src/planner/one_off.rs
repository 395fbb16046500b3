//! One-off dynos (`heroku run`, the release phase): started once, never again.

use super::{ATTACH_TIMEOUT_MS, Action, DynoActual, Phase, Plan, RetireCause};
use crate::Millis;

/// The next step of one one-off that is not on its way out.
pub(super) fn plan(dyno: &DynoActual, now: Millis, plan: &mut Plan) {
    if dyno.draining_at.is_some() {
        return;
    }
    let dyno_id = dyno.id;
    if dyno.stop_requested {
        match dyno.phase {
            Phase::Created | Phase::Crashed => plan.push(Action::End { dyno_id }),
            Phase::Starting | Phase::Up => plan.push(Action::Retire { dyno_id, cause: RetireCause::Stopped }),
        }
        return;
    }
    match dyno.phase {
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
        Phase::Created => plan.push(Action::Spawn { dyno_id }),
        Phase::Starting | Phase::Up => match dyno.expires_at {
            Some(at) if now >= at => plan.push(Action::Retire { dyno_id, cause: RetireCause::Expired }),
            Some(at) => plan.wake(at),
            None => {}
        },
        Phase::Crashed => plan.push(Action::End { dyno_id }),
    }
}
