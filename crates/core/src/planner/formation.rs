//! The formation: which dynos of it to create, to start and to retire.

use super::cycle::cycle_at;
use super::{Action, AppActual, AppDesired, DesiredRelease, DesiredType, DynoActual, NewDyno, Phase, Plan};
use super::{Rest, RetireCause, WEB, spawn};
use crate::dyno::DynoKind;
use crate::{Millis, dyno_size};
use std::collections::BTreeSet;

/// One process type with everything its planning looks at.
struct Scope<'a> {
    desired: &'a AppDesired,
    /// `None` when nothing of the type is wanted.
    wanted: Option<(&'a DesiredType, DesiredRelease)>,
    quantity: u32,
    dynos: Vec<&'a DynoActual>,
    actual: &'a AppActual,
    /// Nobody asks for the app: what sleeps is not woken.
    idle: bool,
    now: Millis,
}

/// Plans every process type that is wanted or there.
pub(super) fn plan(desired: &AppDesired, actual: &AppActual, idle: bool, now: Millis, plan: &mut Plan) {
    let formation_dynos = || actual.dynos.iter().filter(|dyno| dyno.kind == DynoKind::Formation);
    let types: BTreeSet<&str> = desired
        .formation
        .iter()
        .map(|wanted| wanted.process_type.as_str())
        .chain(formation_dynos().map(|dyno| dyno.process_type.as_str()))
        .collect();
    for process_type in types {
        let wanted = desired
            .formation
            .iter()
            .find(|wanted| wanted.process_type == process_type)
            .and_then(|wanted| desired.release.map(|release| (wanted, release)));
        let scope = Scope {
            desired,
            wanted,
            quantity: wanted.map_or(0, |(wanted, _)| wanted.quantity),
            dynos: formation_dynos().filter(|dyno| dyno.process_type == process_type).collect(),
            actual,
            idle,
            now,
        };
        let is_eco = wanted.is_some_and(|(wanted, _)| dyno_size::sleeps(&wanted.size));
        if desired.out_of_eco_hours && is_eco {
            scope.plan_out_of_hours(plan);
        } else if process_type == WEB {
            scope.plan_web(plan);
        } else {
            scope.plan_other(plan);
        }
    }
}

impl Scope<'_> {
    /// Web: a successor is created beside its predecessor, which leaves once enough others serve. One that
    /// `ps:stop` was asked for leaves whatever else serves.
    fn plan_web(&self, plan: &mut Plan) {
        let mut overlap = self.overlap();
        for dyno in self.dynos.iter().filter(|dyno| dyno.draining_at.is_none() && dyno.stop_requested) {
            match dyno.phase {
                Phase::Starting | Phase::Up => self.retire(dyno, RetireCause::Stopped, plan),
                Phase::Created | Phase::Crashed | Phase::Asleep => {}
            }
        }
        for ordinal in 1..=self.quantity {
            let Some(holder) = self.holder(ordinal) else {
                self.create(ordinal, None, plan);
                continue;
            };
            match holder.phase {
                Phase::Crashed => self.create(ordinal, Some(holder), plan),
                _ if self.sleeps_on(holder) => {}
                Phase::Asleep => self.create(ordinal, Some(holder), plan),
                // It is being stopped for sleep, and wanted again: its successor does not wait for that.
                Phase::Up if holder.draining_at.is_some() => self.create(ordinal, Some(holder), plan),
                Phase::Created if self.is_fresh(holder) => spawn(holder, self.now, plan),
                Phase::Created => plan.push(Action::End { dyno_id: holder.id }),
                _ if holder.stop_requested => {}
                Phase::Starting if !self.is_fresh(holder) => self.retire(holder, RetireCause::Replaced, plan),
                Phase::Up if !self.is_fresh(holder) && overlap < self.desired.max_surge.max(1) as usize => {
                    overlap += 1;
                    self.create(ordinal, Some(holder), plan);
                }
                Phase::Starting | Phase::Up => self.wake_for_cycle(holder, plan),
            }
        }
        self.thin_out_web(plan);
    }

    /// Superseded web dynos that still serve.
    fn overlap(&self) -> usize {
        let serves_on =
            |dyno: &&&DynoActual| dyno.retired && dyno.draining_at.is_none() && dyno.phase == Phase::Up;
        self.dynos.iter().filter(serves_on).count()
    }

    /// Whether superseded web dynos stay until all their successors serve, so that one release hands over to the
    /// next at once. A formation too large for that is replaced one after the other.
    fn hands_over_together(&self) -> bool {
        let fresh = self.dynos.iter().filter(|dyno| dyno.serves() && !dyno.retired && self.is_fresh(dyno));
        self.overlap() < self.desired.max_surge as usize && fresh.count() < self.quantity as usize
    }

    /// Retires web dynos that are superseded or too many, as far as enough others serve.
    fn thin_out_web(&self, plan: &mut Plan) {
        let waits = self.hands_over_together();
        let mut serving = self.dynos.iter().filter(|dyno| dyno.serves() && !dyno.stop_requested).count();
        let mut surplus: Vec<&&DynoActual> = self
            .dynos
            .iter()
            .filter(|dyno| dyno.draining_at.is_none() && (dyno.retired || dyno.ordinal > self.quantity))
            .filter(|dyno| !(dyno.stop_requested && matches!(dyno.phase, Phase::Starting | Phase::Up)))
            .collect();
        // Those beyond the quantity first, then those whose successor serves; highest numbers first.
        surplus.sort_by_key(|dyno| {
            let beyond = dyno.ordinal > self.quantity;
            let succeeded = self.holder(dyno.ordinal).is_some_and(DynoActual::serves);
            (!beyond, !succeeded, u32::MAX - dyno.ordinal, dyno.release_version, dyno.id)
        });
        for dyno in surplus {
            let cause = if dyno.retired { RetireCause::Superseded } else { RetireCause::ScaledDown };
            match dyno.phase {
                Phase::Created | Phase::Crashed | Phase::Asleep => {
                    plan.push(Action::End { dyno_id: dyno.id });
                }
                Phase::Starting => self.retire(dyno, cause, plan),
                // Of the same release it has nobody to wait for: another slot that is down would keep it for ever.
                Phase::Up
                    if waits && dyno.retired && !self.is_current(dyno) && dyno.ordinal <= self.quantity => {}
                Phase::Up if serving > self.quantity as usize => {
                    serving -= 1;
                    self.retire(dyno, cause, plan);
                }
                Phase::Up => {}
            }
        }
    }

    /// Other types: the old one ends, then the new one starts.
    fn plan_other(&self, plan: &mut Plan) {
        let runs =
            |dyno: &&&DynoActual| dyno.phase == Phase::Up && dyno.draining_at.is_none() && !dyno.retired;
        // One at a time, and while all others run.
        let mut may_cycle = self.dynos.iter().filter(runs).count() >= self.quantity as usize;
        for dyno in self.dynos.iter().filter(|dyno| dyno.draining_at.is_none()) {
            let unwanted = dyno.retired || dyno.ordinal > self.quantity;
            match dyno.phase {
                Phase::Created if unwanted || !self.is_fresh(dyno) => {
                    plan.push(Action::End { dyno_id: dyno.id });
                }
                Phase::Created => spawn(dyno, self.now, plan),
                Phase::Crashed | Phase::Asleep if unwanted => plan.push(Action::End { dyno_id: dyno.id }),
                Phase::Crashed | Phase::Asleep => {}
                _ if unwanted => self.retire(dyno, RetireCause::ScaledDown, plan),
                _ if dyno.stop_requested => self.retire(dyno, RetireCause::Stopped, plan),
                _ if !self.is_current(dyno) => self.retire(dyno, RetireCause::Replaced, plan),
                _ if self.is_due(dyno) => {
                    if std::mem::take(&mut may_cycle) {
                        self.retire(dyno, RetireCause::Cycled, plan);
                    }
                }
                _ => self.wake_for_cycle(dyno, plan),
            }
        }
        for ordinal in 1..=self.quantity {
            let in_slot = || self.dynos.iter().filter(|dyno| dyno.ordinal == ordinal);
            if in_slot().any(|dyno| !matches!(dyno.phase, Phase::Crashed | Phase::Asleep)) {
                continue;
            }
            let holder = self.holder(ordinal);
            if holder.is_none_or(|holder| !self.sleeps_on(holder)) {
                self.create(ordinal, holder, plan);
            }
        }
    }

    /// Nothing of the type may run: what runs is stopped as for sleep, and stays so whatever else is wanted.
    fn plan_out_of_hours(&self, plan: &mut Plan) {
        for dyno in self.dynos.iter().filter(|dyno| dyno.draining_at.is_none()) {
            let unwanted = dyno.retired || dyno.ordinal > self.quantity;
            match dyno.phase {
                Phase::Created => plan.push(Action::End { dyno_id: dyno.id }),
                Phase::Crashed | Phase::Asleep if unwanted => plan.push(Action::End { dyno_id: dyno.id }),
                Phase::Crashed | Phase::Asleep => {}
                Phase::Starting => self.retire(dyno, RetireCause::OutOfEcoHours, plan),
                Phase::Up if unwanted => self.retire(dyno, RetireCause::ScaledDown, plan),
                Phase::Up => plan.push(Action::Hibernate { dyno_id: dyno.id }),
            }
        }
    }

    /// The dyno that has the label.
    fn holder(&self, ordinal: u32) -> Option<&DynoActual> {
        self.dynos.iter().copied().find(|dyno| dyno.ordinal == ordinal && !dyno.label_is_free())
    }

    /// Whether it was stopped for sleep, or is being stopped, and nobody asks for it.
    fn sleeps_on(&self, dyno: &DynoActual) -> bool {
        let is_out = dyno.phase == Phase::Asleep || dyno.phase == Phase::Up && dyno.draining_at.is_some();
        is_out && self.idle && self.is_fresh(dyno)
    }

    /// Whether it may stay as it is.
    fn is_fresh(&self, dyno: &DynoActual) -> bool {
        self.is_current(dyno) && !self.is_due(dyno)
    }

    /// When it is to be cycled. One that does not run yet, or is on its way out, is not, nor one that sleeps or may.
    fn cycle_at(&self, dyno: &DynoActual) -> Option<Millis> {
        let awake = !self.idle && dyno.rest == Rest::Awake;
        let runs = awake && dyno.phase == Phase::Up && !dyno.retired && dyno.draining_at.is_none();
        let after_ms = self.desired.cycle_after_ms.filter(|_| runs)?;
        Some(cycle_at(dyno.id, dyno.created_at, after_ms, self.actual.watched_since))
    }

    fn is_due(&self, dyno: &DynoActual) -> bool {
        self.cycle_at(dyno).is_some_and(|at| self.now >= at)
    }

    fn wake_for_cycle(&self, dyno: &DynoActual, plan: &mut Plan) {
        if let Some(at) = self.cycle_at(dyno).filter(|at| *at > self.now) {
            plan.wake(at);
        }
    }

    /// Whether it is what the current release and formation want.
    fn is_current(&self, dyno: &DynoActual) -> bool {
        self.wanted.is_some_and(|(wanted, release)| {
            dyno.release_version == release.version
                && dyno.restart_generation == self.desired.restart_generation
                && dyno.size == wanted.size
                && dyno.command == wanted.command
                && !dyno.restart_requested
                && !dyno.stop_requested
        })
    }

    fn retire(&self, dyno: &DynoActual, cause: RetireCause, plan: &mut Plan) {
        plan.push(Action::Retire { dyno_id: dyno.id, cause });
    }

    /// Creates the slot's next dyno unless the slot is cooling off.
    fn create(&self, ordinal: u32, holder: Option<&DynoActual>, plan: &mut Plan) {
        let Some((wanted, release)) = self.wanted else { return };
        let cooling = self.actual.crashes.iter().find(|crash| {
            crash.process_type == wanted.process_type
                && crash.ordinal == ordinal
                && crash.release_version == release.version
                && crash.restart_generation == self.desired.restart_generation
        });
        if let Some(crash) = cooling
            && self.now < crash.next_start_at
        {
            plan.wake(crash.next_start_at);
            return;
        }
        plan.push(Action::Create(NewDyno {
            process_type: wanted.process_type.clone(),
            ordinal,
            release,
            restart_generation: self.desired.restart_generation,
            size: wanted.size.clone(),
            command: wanted.command.clone(),
            supersedes: holder.map(|dyno| dyno.id),
            cycles: holder.is_some_and(|dyno| self.is_current(dyno) && self.is_due(dyno)),
        }));
    }
}
