//! A model of a node for the planner's tests: carries actions out as the dyno manager does, and lets
//! processes boot, crash and end when the test says so. Checks the invariants at every action.

use super::*;
use std::collections::BTreeMap;
use uuid::Uuid;

/// Wanted and actual state of one app, the time, and what has been seen.
pub struct World {
    pub desired: AppDesired,
    /// As rows have it: times by the wall clock.
    pub actual: AppActual,
    /// Time that only passes.
    pub now: Millis,
    /// How far the wall clock is ahead of it.
    pub wall_ahead: Millis,
    /// The node has no room for another dyno.
    full: bool,
    /// What control remembers until it is killed.
    pub steady: Steady,
    /// Since when each dyno drains, and is being stopped.
    draining_since: BTreeMap<DynoId, Millis>,
    stopping_since: BTreeMap<DynoId, Millis>,
    pub open_requests: bool,
    next_id: u128,
    newest_created: i64,
    /// When each dyno came up, by position in no particular order.
    up_since: BTreeMap<DynoId, Millis>,
}

pub fn wanted(process_type: &str, quantity: u32) -> DesiredType {
    DesiredType {
        process_type: process_type.into(),
        command: format!("run {process_type}"),
        quantity,
        size: "basic".into(),
    }
}

impl World {
    pub fn new(formation: Vec<DesiredType>) -> Self {
        let release = DesiredRelease { id: ReleaseId(Uuid::from_u128(1)), version: 1 };
        Self {
            desired: AppDesired {
                release: Some(release),
                restart_generation: 0,
                formation,
                max_surge: 100,
                cycle_after_ms: None,
                sleep: None,
                out_of_eco_hours: false,
            },
            actual: AppActual::default(),
            now: 1_000_000,
            wall_ahead: 0,
            full: false,
            steady: Steady::default(),
            draining_since: BTreeMap::new(),
            stopping_since: BTreeMap::new(),
            open_requests: false,
            next_id: 1,
            newest_created: 0,
            up_since: Default::default(),
        }
    }

    pub fn deploy(&mut self) {
        let version = self.desired.release.map_or(1, |release| release.version + 1);
        self.desired.release =
            Some(DesiredRelease { id: ReleaseId(Uuid::from_u128(version as u128)), version });
    }

    pub fn scale(&mut self, process_type: &str, quantity: u32) {
        for wanted in &mut self.desired.formation {
            if wanted.process_type == process_type {
                wanted.quantity = quantity;
            }
        }
        self.actual.crashes.retain(|crash| crash.process_type != process_type || crash.ordinal <= quantity);
    }

    fn find(&mut self, id: DynoId) -> &mut DynoActual {
        self.actual.dynos.iter_mut().find(|dyno| dyno.id == id).expect("actions name dynos that are there")
    }

    fn healthy_web(&self) -> usize {
        self.actual.dynos.iter().filter(|dyno| dyno.process_type == WEB && dyno.serves()).count()
    }

    fn wanted_web(&self) -> usize {
        let web = self.desired.formation.iter().find(|wanted| wanted.process_type == WEB);
        if self.desired.release.is_none() { 0 } else { web.map_or(0, |web| web.quantity as usize) }
    }

    fn wall(&self) -> Millis {
        self.now + self.wall_ahead
    }

    /// What the planner says now.
    pub fn plan(&mut self) -> Plan {
        let mut actual = self.actual.clone();
        actual.activity.is_open = self.open_requests;
        self.steady.translate(&mut actual, self.wall(), self.now);
        plan(&self.desired, &actual, self.now)
    }

    /// The node has room, or none any more.
    pub fn set_room(&mut self, room: bool) {
        self.full = !room;
        self.actual.dynos.iter_mut().for_each(|dyno| dyno.waits_for_room &= !room);
    }

    /// Plans and carries out until nothing is left to do at this time; the number of rounds with actions.
    pub fn settle(&mut self) -> usize {
        for round in 0..20 {
            let plan = self.plan();
            if plan.actions.is_empty() {
                let longest = *COOL_OFFS_MS.last().expect("a list that is not empty");
                let longest = longest.max(self.desired.cycle_after_ms.map_or(0, |after| after * 2));
                let fits = |at: Millis| at > self.now && at <= self.now + longest;
                assert!(
                    plan.wake_at.is_none_or(fits),
                    "a wake-up in the past, or after any time that there is"
                );
                return round;
            }
            for action in plan.actions {
                self.apply(action);
            }
        }
        panic!("the planner never comes to rest: {:#?}", self.actual);
    }

    fn apply(&mut self, action: Action) {
        let (now, wall, full) = (self.now, self.wall(), self.full);
        match action {
            Action::Create(new) => self.create(new),
            Action::Spawn { dyno_id } => {
                let dyno = self.find(dyno_id).clone();
                assert!(!self.is_out(&dyno.process_type), "started without eco hours");
                let dyno = self.find(dyno_id);
                assert_eq!(dyno.phase, Phase::Created, "started twice");
                dyno.waits_for_room = full;
                if !full {
                    dyno.phase = Phase::Starting;
                }
            }
            Action::Retire { dyno_id, cause } => {
                let (healthy_before, wanted) = (self.healthy_web(), self.wanted_web());
                let dyno = self.find(dyno_id);
                assert!(dyno.draining_at.is_none(), "retired twice");
                dyno.retired = true;
                dyno.draining_at = Some(wall);
                dyno.drained = dyno.process_type != WEB || dyno.phase != Phase::Up;
                self.draining_since.insert(dyno_id, now);
                let may_stop = cause == RetireCause::Stopped || self.is_out(WEB);
                if !may_stop && healthy_before > self.healthy_web() {
                    assert!(
                        self.healthy_web() >= wanted.min(healthy_before),
                        "{cause:?} left too few serving"
                    );
                }
            }
            Action::Stop { dyno_id } => {
                let dyno = self.find(dyno_id);
                assert!(dyno.stopping_at.is_none(), "stopped twice");
                dyno.stopping_at = Some(wall);
                let drained = dyno.drained;
                let drains_for = now - self.draining_since[&dyno_id];
                assert!(drained || drains_for >= DRAIN_TIMEOUT_MS, "requests are cut after {drains_for} ms");
                self.stopping_since.insert(dyno_id, now);
            }
            Action::Kill { dyno_id, cause } => {
                if cause == KillCause::Stuck {
                    let stops_for = now - self.stopping_since[&dyno_id];
                    assert!(stops_for >= STUCK_AFTER_MS, "killed {stops_for} ms after SIGTERM");
                }
                self.find(dyno_id).killed = true;
            }
            Action::End { dyno_id } | Action::GiveUpAttach { dyno_id } => {
                let phase = self.find(dyno_id).phase;
                assert!(!matches!(phase, Phase::Starting | Phase::Up), "ended while its process runs");
                self.actual.dynos.retain(|dyno| dyno.id != dyno_id);
            }
            Action::Freeze { dyno_id } => self.freeze(dyno_id),
            Action::Thaw { dyno_id } => {
                let dyno = self.find(dyno_id);
                assert_eq!(dyno.rest, Rest::Frozen, "thawed though it runs");
                dyno.rest = Rest::Waking;
            }
            Action::Hibernate { dyno_id } => {
                let dyno = self.find(dyno_id).clone();
                let rests = matches!(dyno.rest, Rest::Frozen | Rest::Restless);
                assert!(rests || self.is_out(&dyno.process_type), "stopped for sleep though it is awake");
                let dyno = self.find(dyno_id);
                assert!(dyno.draining_at.is_none());
                dyno.draining_at = Some(wall);
                dyno.drained = dyno.process_type != WEB;
                self.draining_since.insert(dyno_id, now);
            }
        }
    }

    /// Whether dynos of this type may not run for want of eco hours.
    fn is_out(&self, process_type: &str) -> bool {
        let is_eco = |wanted: &DesiredType| wanted.process_type == process_type && wanted.size == "eco";
        self.desired.out_of_eco_hours && self.desired.formation.iter().any(is_eco)
    }

    fn freeze(&mut self, dyno_id: DynoId) {
        let policy = self.desired.sleep.expect("only what may sleep is frozen");
        let (activity, now) = (self.actual.activity, self.now);
        assert!(!self.open_requests, "frozen while a request is open");
        assert!(
            activity.last_request_at.is_none_or(|at| now - at >= policy.idle_after_ms),
            "frozen too soon"
        );
        let rests =
            |dyno: &DynoActual| dyno.phase != Phase::Up || matches!(dyno.rest, Rest::Frozen | Rest::Restless);
        let web_rests = self.actual.dynos.iter().filter(|dyno| dyno.process_type == WEB).all(rests);
        let dyno = self.find(dyno_id);
        assert_eq!((dyno.kind, dyno.phase, dyno.rest), (DynoKind::Formation, Phase::Up, Rest::Awake));
        assert!(dyno.draining_at.is_none() && !dyno.retired);
        assert!(dyno.process_type == WEB || web_rests, "web dynos go first");
        dyno.rest = Rest::FallingAsleep;
    }

    /// A dyno that was told to freeze or to thaw answers; `works` is whether it can be frozen.
    pub fn answer(&mut self, index: usize, works: bool) {
        let wall = self.wall();
        let Some(dyno) = self.actual.dynos.get_mut(index).filter(|dyno| dyno.phase == Phase::Up) else {
            return;
        };
        dyno.rest = match dyno.rest {
            Rest::FallingAsleep if works => Rest::Frozen,
            Rest::FallingAsleep => Rest::Restless,
            Rest::Waking => Rest::Awake,
            Rest::Awake | Rest::Frozen | Rest::Restless => return,
        };
        if dyno.rest != Rest::Restless {
            dyno.state_since = wall;
        }
    }

    /// A request reaches the app; the router wakes the dyno that it goes to.
    pub fn request(&mut self) {
        let wall = self.wall();
        self.actual.activity.last_request_at = Some(self.now);
        let asleep = |dyno: &&mut DynoActual| {
            dyno.process_type == WEB
                && dyno.serves()
                && matches!(dyno.rest, Rest::Frozen | Rest::FallingAsleep)
        };
        if let Some(dyno) = self.actual.dynos.iter_mut().find(asleep) {
            (dyno.rest, dyno.state_since) = (Rest::Awake, wall);
        }
    }

    fn create(&mut self, new: NewDyno) {
        assert!(!self.is_out(&new.process_type), "created without eco hours");
        if let Some(old) = new.supersedes {
            let old = self.find(old);
            assert_eq!((old.process_type.as_str(), old.ordinal), (new.process_type.as_str(), new.ordinal));
            old.retired = true;
            if matches!(old.phase, Phase::Crashed | Phase::Asleep) {
                let old = old.id;
                self.actual.dynos.retain(|dyno| dyno.id != old);
            } else {
                assert_eq!(new.process_type, WEB, "only web is superseded while it runs");
            }
        }
        let in_slot = || {
            let slot = (new.process_type.as_str(), new.ordinal);
            self.actual.dynos.iter().filter(move |dyno| (dyno.process_type.as_str(), dyno.ordinal) == slot)
        };
        assert!(in_slot().all(|dyno| dyno.retired), "two dynos with one label");
        assert!(new.process_type == WEB || in_slot().count() == 0, "overlap of a type other than web");
        assert!(new.release.version >= self.newest_created, "an older release after a newer one");
        self.newest_created = new.release.version;
        self.actual.dynos.push(DynoActual {
            id: DynoId(Uuid::from_u128(self.next_id)),
            kind: DynoKind::Formation,
            process_type: new.process_type,
            ordinal: new.ordinal,
            release_version: new.release.version,
            restart_generation: new.restart_generation,
            size: new.size,
            command: new.command,
            phase: Phase::Created,
            waits_for_room: false,
            rest: Rest::Awake,
            state_since: self.wall(),
            attached: false,
            restart_requested: false,
            stop_requested: false,
            retired: false,
            draining_at: None,
            drained: false,
            stopping_at: None,
            boot_timed_out: false,
            killed: false,
            expires_at: None,
            created_at: self.wall(),
        });
        self.next_id += 1;
    }

    /// A starting dyno becomes up.
    pub fn boot(&mut self, index: usize) {
        let (now, wall) = (self.now, self.wall());
        if let Some(dyno) = self.actual.dynos.get_mut(index)
            && dyno.phase == Phase::Starting
        {
            dyno.phase = Phase::Up;
            dyno.state_since = wall;
            let id = dyno.id;
            self.up_since.insert(id, now);
        }
    }

    /// A process ends, as it was told to or by itself.
    pub fn exit(&mut self, index: usize) {
        let Some(dyno) = self.actual.dynos.get(index).cloned() else { return };
        if !matches!(dyno.phase, Phase::Starting | Phase::Up) {
            return;
        }
        if dyno.retired || dyno.kind != DynoKind::Formation {
            self.actual.dynos.remove(index);
            return;
        }
        let left = &mut self.actual.dynos[index];
        if left.rest == Rest::Frozen || left.draining_at.is_some() {
            left.phase = Phase::Asleep;
            (left.draining_at, left.stopping_at) = (None, None);
            return;
        }
        left.phase = Phase::Crashed;
        let same =
            |crash: &&mut Crash| (&crash.process_type, crash.ordinal) == (&dyno.process_type, dyno.ordinal);
        let earlier = self.actual.crashes.iter_mut().find(same).map_or(0, |crash| {
            let of_this = (crash.release_version, crash.restart_generation)
                == (dyno.release_version, dyno.restart_generation);
            if of_this { crash.crashes } else { 0 }
        });
        let up_for = self.up_since.get(&dyno.id).map(|since| self.now - since);
        let (crashes, next_start_at) = after_crash(earlier, up_for, self.wall());
        self.actual
            .crashes
            .retain(|crash| (&crash.process_type, crash.ordinal) != (&dyno.process_type, dyno.ordinal));
        self.actual.crashes.push(Crash {
            process_type: dyno.process_type,
            ordinal: dyno.ordinal,
            release_version: dyno.release_version,
            restart_generation: dyno.restart_generation,
            crashes,
            next_start_at,
        });
    }

    /// Control is killed, and another one reads the rows.
    pub fn restart_control(&mut self) {
        self.steady = Steady::default();
        (self.actual.activity.last_request_at, self.actual.activity.watched_since) = (None, self.now);
    }

    /// Lets everything go well until nothing changes any more: processes boot and end when told to.
    pub fn calm(&mut self) {
        self.calm_for(Millis::MAX);
    }

    /// The same, waiting at most so long for what time brings.
    pub fn calm_for(&mut self, patience: Millis) {
        let until = self.now.saturating_add(patience);
        for _ in 0..60 {
            let rounds = self.settle();
            let mut moved = rounds > 0;
            for index in (0..self.actual.dynos.len()).rev() {
                let dyno = &mut self.actual.dynos[index];
                if dyno.draining_at.is_some() && !dyno.drained {
                    dyno.drained = true;
                    moved = true;
                }
                if matches!(dyno.rest, Rest::FallingAsleep | Rest::Waking) && dyno.phase == Phase::Up {
                    self.answer(index, true);
                    moved = true;
                    continue;
                }
                if dyno.phase == Phase::Starting && dyno.stopping_at.is_none() && !dyno.killed {
                    self.boot(index);
                    moved = true;
                } else if matches!(dyno.phase, Phase::Starting | Phase::Up)
                    && (dyno.stopping_at.is_some() || dyno.killed)
                {
                    self.exit(index);
                    moved = true;
                }
            }
            if !moved {
                // Wait until no slot cools off any more.
                match self.plan().wake_at {
                    Some(at) if at <= until => self.now = at,
                    _ => return,
                }
            }
        }
        panic!("does not converge: {:#?}", self.actual);
    }

    /// Exactly what is wanted is up and awake, and nothing else is there.
    pub fn assert_converged(&self) {
        self.assert_all(Phase::Up);
    }

    /// Exactly what is wanted is in this phase, and nothing else is there.
    pub fn assert_all(&self, phase: Phase) {
        let mut have: Vec<(String, u32)> = Vec::new();
        for dyno in &self.actual.dynos {
            assert_eq!(dyno.phase, phase, "{dyno:?}");
            let runs = matches!(dyno.rest, Rest::Awake | Rest::Restless);
            assert!(phase != Phase::Up || runs, "{dyno:?}");
            assert!(!dyno.retired, "{dyno:?}");
            assert_eq!(Some(dyno.release_version), self.desired.release.map(|release| release.version));
            assert_eq!(dyno.restart_generation, self.desired.restart_generation);
            have.push((dyno.process_type.clone(), dyno.ordinal));
        }
        have.sort();
        let mut want: Vec<(String, u32)> = Vec::new();
        if self.desired.release.is_some() {
            for wanted in &self.desired.formation {
                want.extend((1..=wanted.quantity).map(|ordinal| (wanted.process_type.clone(), ordinal)));
            }
        }
        want.sort();
        assert_eq!(have, want);
    }
}
