//! Sleep: when nobody asks for an app, its dynos are frozen, later stopped, and woken by the next request.
//!
//! The app sleeps as a whole, its web dynos first: whether it may is decided by its web dynos and their requests alone,
//! so an app without web never sleeps. What is frozen or stopped for sleep stays so while the app is idle, and is
//! brought back as soon as it is not: by a request, a new release, a restart, a change of the formation, or because
//! sleep was switched off.
//!
//! Source: Heroku's "Eco Dyno Hours", dyno sleeping.

use super::{Action, AppActual, AppDesired, DynoActual, Phase, Plan, WEB};
use crate::dyno::DynoKind;
use crate::{DynoId, Millis};

/// While a request stays open, whether it still is is looked at this often at least, in milliseconds.
const OPEN_LOOK_MS: Millis = 60_000;

/// When an app sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SleepPolicy {
    /// Without a request for this many milliseconds it is frozen.
    pub idle_after_ms: Millis,
    /// Frozen for this many milliseconds it is stopped.
    pub stop_after_ms: Millis,
}

/// What is known of an app's requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Activity {
    /// When the last request that was seen ended, or began to wait.
    pub last_request_at: Option<Millis>,
    /// Requests before this were not seen.
    pub watched_since: Millis,
    /// A request is being answered, or nobody can tell.
    pub is_open: bool,
    /// The node is short of memory, and this app is to give back what it has.
    pub must_make_room: bool,
}

/// How far a dyno that is up has fallen asleep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rest {
    #[default]
    Awake,
    /// Told to freeze; it has not answered yet.
    FallingAsleep,
    Frozen,
    /// Told to thaw; it has not answered yet.
    Waking,
    /// It cannot be frozen now, so it runs, at the longest until it is stopped.
    Restless,
}

/// Since when nobody has asked for the app, if it may sleep now.
pub(super) fn idle_since(
    desired: &AppDesired,
    actual: &AppActual,
    now: Millis,
    plan: &mut Plan,
) -> Option<Millis> {
    let policy = desired.sleep?;
    if !is_settled(desired, actual) {
        return None;
    }
    let awake = || web(actual).filter(|dyno| dyno.serves() && dyno.rest != Rest::Frozen);
    let since = awake()
        .map(|dyno| dyno.state_since.max(actual.activity.watched_since))
        .chain(actual.activity.last_request_at)
        .max()
        .unwrap_or(Millis::MIN);
    let idle_at = since.saturating_add(policy.idle_after_ms);
    if now < idle_at {
        plan.wake(idle_at);
        return None;
    }
    // No request is open at what sleeps: it would have woken it.
    if actual.activity.is_open && awake().next().is_some() {
        plan.wake(now.saturating_add(policy.idle_after_ms.clamp(1, OPEN_LOOK_MS)));
        return None;
    }
    Some(since)
}

/// The steps into sleep while the app is idle, and out of it while it is not.
pub(super) fn plan(
    desired: &AppDesired,
    actual: &AppActual,
    idle_since: Option<Millis>,
    now: Millis,
    plan: &mut Plan,
) {
    let leaving: Vec<DynoId> = plan.actions.iter().filter_map(who_leaves).collect();
    let stays = |dyno: &&DynoActual| {
        let runs = dyno.serves() && dyno.stopping_at.is_none() && !dyno.killed;
        dyno.kind == DynoKind::Formation && runs && !leaving.contains(&dyno.id)
    };
    let Some((since, policy)) = idle_since.zip(desired.sleep) else {
        for dyno in actual.dynos.iter().filter(stays).filter(|dyno| dyno.rest == Rest::Frozen) {
            plan.push(Action::Thaw { dyno_id: dyno.id });
        }
        return;
    };
    // A request that comes while web dynos fall asleep finds the others running.
    let web_rests =
        web(actual).all(|dyno| !dyno.serves() || matches!(dyno.rest, Rest::Frozen | Rest::Restless));
    for dyno in actual.dynos.iter().filter(stays) {
        let stop_at = match dyno.rest {
            Rest::Awake if dyno.process_type == WEB || web_rests => {
                plan.push(Action::Freeze { dyno_id: dyno.id });
                continue;
            }
            Rest::Awake | Rest::FallingAsleep | Rest::Waking => continue,
            Rest::Frozen => dyno.state_since.saturating_add(policy.stop_after_ms),
            Rest::Restless => since.saturating_add(policy.idle_after_ms).saturating_add(policy.stop_after_ms),
        };
        if now >= stop_at || actual.activity.must_make_room {
            plan.push(Action::Hibernate { dyno_id: dyno.id });
        } else {
            plan.wake(stop_at);
        }
    }
}

/// The dyno that an action takes away or has replaced.
fn who_leaves(action: &Action) -> Option<DynoId> {
    match action {
        Action::Retire { dyno_id, .. }
        | Action::Stop { dyno_id }
        | Action::Kill { dyno_id, .. }
        | Action::Hibernate { dyno_id } => Some(*dyno_id),
        Action::Create(new) => new.supersedes,
        _ => None,
    }
}

fn web(actual: &AppActual) -> impl Iterator<Item = &DynoActual> {
    actual.dynos.iter().filter(|dyno| dyno.kind == DynoKind::Formation && dyno.process_type == WEB)
}

/// Whether every wanted web dyno is there as it is wanted, one of them up or asleep, and none is on its way in or out.
fn is_settled(desired: &AppDesired, actual: &AppActual) -> bool {
    let Some(release) = desired.release else { return false };
    let quantity = desired.formation.iter().find(|one| one.process_type == WEB).map_or(0, |one| one.quantity);
    let mut rests_or_runs = false;
    for ordinal in 1..=quantity {
        let Some(holder) = web(actual).find(|dyno| dyno.ordinal == ordinal && !dyno.retired) else {
            return false;
        };
        let is_current = holder.release_version == release.version
            && holder.restart_generation == desired.restart_generation
            && !holder.restart_requested
            && !holder.stop_requested;
        match holder.phase {
            Phase::Up | Phase::Asleep if is_current => rests_or_runs = true,
            Phase::Crashed if is_current => {}
            _ => return false,
        }
    }
    let no_others =
        web(actual).all(|dyno| !dyno.retired || matches!(dyno.phase, Phase::Crashed | Phase::Asleep));
    rests_or_runs && no_others
}
