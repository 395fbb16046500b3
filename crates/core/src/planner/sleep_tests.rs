//! Scenes of sleep.

use super::world::{World, wanted};
use super::*;

const MINUTE_MS: Millis = 60_000;
const POLICY: SleepPolicy = SleepPolicy { idle_after_ms: 30 * MINUTE_MS, stop_after_ms: 60 * MINUTE_MS };

fn asleep(formation: Vec<DesiredType>) -> World {
    let mut world = World::new(formation);
    world.desired.sleep = Some(POLICY);
    world.settle();
    for index in 0..world.actual.dynos.len() {
        world.boot(index);
    }
    world.settle();
    world
}

fn rests(world: &World) -> Vec<(&str, Phase, Rest)> {
    let rest = |dyno: &'_ DynoActual| (dyno.phase, dyno.rest);
    let mut all: Vec<_> = world
        .actual
        .dynos
        .iter()
        .map(|dyno| (dyno.process_type.as_str(), rest(dyno).0, rest(dyno).1))
        .collect();
    all.sort_by_key(|one| one.0);
    all
}

/// Until every dyno has answered what it was told.
fn answered(world: &mut World) {
    for _ in 0..4 {
        world.settle();
        (0..world.actual.dynos.len()).for_each(|index| world.answer(index, true));
    }
    world.settle();
}

#[test]
fn an_idle_app_is_frozen_web_first_then_stopped_and_stays_so() {
    let mut world = asleep(vec![wanted("web", 1), wanted("worker", 1)]);
    assert_eq!(world.plan(), Plan { actions: vec![], wake_at: Some(world.now + POLICY.idle_after_ms) });
    world.now += POLICY.idle_after_ms;
    world.settle();
    assert_eq!(
        rests(&world),
        [("web", Phase::Up, Rest::FallingAsleep), ("worker", Phase::Up, Rest::Awake)],
        "the worker waits until no request can come in between"
    );
    answered(&mut world);
    assert_eq!(rests(&world), [("web", Phase::Up, Rest::Frozen), ("worker", Phase::Up, Rest::Frozen)]);
    world.now += POLICY.stop_after_ms - 1;
    assert_eq!(world.settle(), 0, "not yet");
    world.now += 1;
    world.calm();
    world.assert_all(Phase::Asleep);
    assert_eq!(world.plan(), Plan::default(), "for ever");
}

#[test]
fn a_request_wakes_what_is_frozen_and_what_was_stopped() {
    for stopped in [false, true] {
        let mut world = asleep(vec![wanted("web", 2), wanted("worker", 1)]);
        world.now += POLICY.idle_after_ms;
        answered(&mut world);
        if stopped {
            world.calm();
        }
        world.request();
        answered(&mut world);
        for index in 0..world.actual.dynos.len() {
            world.boot(index);
        }
        world.settle();
        world.assert_converged();
    }
}

#[test]
fn a_request_while_a_dyno_is_being_stopped_for_sleep_gets_a_new_one_at_once() {
    let mut world = asleep(vec![wanted("web", 1), wanted("worker", 1)]);
    world.now += POLICY.idle_after_ms;
    answered(&mut world);
    world.now += POLICY.stop_after_ms;
    world.settle();
    world.request();
    world.settle();
    let web = world.actual.dynos.iter().filter(|dyno| dyno.process_type == WEB);
    let phases: Vec<_> = web.map(|dyno| (dyno.phase, dyno.retired)).collect();
    assert_eq!(phases, [(Phase::Up, true), (Phase::Starting, false)]);
    let workers = world.actual.dynos.iter().filter(|dyno| dyno.process_type == "worker");
    assert_eq!(workers.count(), 1, "workers never overlap");
    // Their successors boot as soon as they have ended.
    for _ in 0..3 {
        for index in (0..world.actual.dynos.len()).rev() {
            let dyno = &mut world.actual.dynos[index];
            dyno.drained |= dyno.draining_at.is_some();
            if dyno.stopping_at.is_some() {
                world.exit(index);
            } else {
                world.boot(index);
            }
        }
        world.settle();
    }
    world.assert_converged();
}

#[test]
fn nothing_sleeps_while_a_request_is_open_or_without_web_or_without_a_policy() {
    for case in 0..3 {
        let web = if case == 1 { 0 } else { 1 };
        let mut world = asleep(vec![wanted("web", web), wanted("worker", 1)]);
        match case {
            0 => world.open_requests = true,
            1 => {}
            _ => world.desired.sleep = None,
        }
        world.now += 10 * POLICY.idle_after_ms;
        assert_eq!(world.settle(), 0, "case {case}");
    }
}

#[test]
fn a_release_a_restart_and_the_end_of_the_policy_wake_an_app() {
    for case in 0..4 {
        for stopped in [false, true] {
            let mut world = asleep(vec![wanted("web", 1), wanted("worker", 1)]);
            world.now += POLICY.idle_after_ms;
            answered(&mut world);
            if stopped {
                world.calm();
            }
            match case {
                0 => world.deploy(),
                1 => world.desired.restart_generation += 1,
                2 => world.scale("web", 2),
                _ => world.desired.sleep = None,
            }
            // Without sleep from here on, so that it can be seen to converge.
            let policy = world.desired.sleep;
            answered(&mut world);
            assert!(
                world.actual.dynos.iter().all(|dyno| dyno.rest != Rest::Frozen || dyno.retired),
                "case {case}"
            );
            world.desired.sleep = None;
            world.calm();
            world.assert_converged();
            world.desired.sleep = policy;
        }
    }
}

#[test]
fn scaling_a_sleeping_web_to_nothing_closes_its_rows() {
    let mut world = asleep(vec![wanted("web", 1)]);
    world.now += POLICY.idle_after_ms;
    world.calm();
    world.assert_all(Phase::Asleep);
    world.scale("web", 0);
    world.calm();
    assert!(world.actual.dynos.is_empty());
}

#[test]
fn what_cannot_be_frozen_is_stopped_in_the_end_and_memory_that_is_short_hastens_it() {
    let mut world = asleep(vec![wanted("web", 1)]);
    world.now += POLICY.idle_after_ms;
    world.settle();
    world.answer(0, false);
    assert_eq!(world.settle(), 0, "it runs on");
    world.now += POLICY.stop_after_ms;
    world.settle();
    assert!(world.actual.dynos[0].draining_at.is_some());

    let mut world = asleep(vec![wanted("web", 1)]);
    world.now += POLICY.idle_after_ms;
    answered(&mut world);
    world.actual.activity.must_make_room = true;
    world.settle();
    assert!(world.actual.dynos[0].draining_at.is_some());
}

#[test]
fn a_control_that_has_just_begun_waits_before_it_calls_an_app_idle_but_wakes_none() {
    let mut world = asleep(vec![wanted("web", 1)]);
    world.now += 10 * POLICY.idle_after_ms;
    world.restart_control();
    assert_eq!(world.settle(), 0);
    world.now += POLICY.idle_after_ms;
    answered(&mut world);
    world.restart_control();
    // No router has told it of open requests yet.
    world.open_requests = true;
    assert_eq!(world.settle(), 0, "what sleeps sleeps on");
}

#[test]
fn what_sleeps_is_not_cycled_before_it_wakes() {
    const DAY_MS: Millis = 24 * 60 * MINUTE_MS;
    let mut world = asleep(vec![wanted("web", 1), wanted("worker", 1)]);
    world.desired.sleep = Some(SleepPolicy { stop_after_ms: 100 * DAY_MS, ..POLICY });
    world.desired.cycle_after_ms = Some(60 * DAY_MS);
    world.now += POLICY.idle_after_ms;
    answered(&mut world);
    let asleep: Vec<DynoId> = world.actual.dynos.iter().map(|dyno| dyno.id).collect();
    world.now += 80 * DAY_MS;
    assert_eq!(world.settle(), 0);
    world.request();
    answered(&mut world);
    let web = world.actual.dynos.iter().find(|dyno| dyno.process_type == WEB && !dyno.retired);
    assert!(web.is_some_and(|web| !asleep.contains(&web.id)), "it is due");
}

#[test]
fn without_eco_hours_eco_dynos_are_stopped_and_start_again_with_the_next_month() {
    let eco = |process_type| DesiredType { size: "eco".into(), ..wanted(process_type, 1) };
    let mut world = World::new(vec![eco(WEB), eco("clock"), wanted("worker", 1)]);
    world.calm();
    world.desired.out_of_eco_hours = true;
    world.calm();
    let out = [
        ("clock", Phase::Asleep, Rest::Awake),
        ("web", Phase::Asleep, Rest::Awake),
        ("worker", Phase::Up, Rest::Awake),
    ];
    assert_eq!(rests(&world), out, "the others run on");
    // Neither requests nor a release, a restart or another quantity bring them back.
    answered(&mut world);
    world.calm();
    world.deploy();
    world.calm();
    world.desired.restart_generation += 1;
    world.calm();
    assert_eq!(rests(&world), out);
    world.scale("clock", 0);
    world.calm();
    assert_eq!(rests(&world), out[1..], "what is not wanted any more leaves no row");
    // Another size is another matter.
    world.desired.formation[0].size = "basic".into();
    world.calm();
    assert_eq!(rests(&world)[0], ("web", Phase::Up, Rest::Awake));
    world.scale("clock", 1);
    world.calm();
    assert!(rests(&world).iter().all(|(process_type, ..)| *process_type != "clock"), "none is created");
    world.desired.out_of_eco_hours = false;
    world.calm();
    assert!(rests(&world).iter().all(|(_, phase, _)| *phase == Phase::Up), "{:?}", rests(&world));
    assert_eq!(rests(&world).len(), 3);
}

#[test]
fn without_eco_hours_one_offs_end_and_a_releases_command_does_not() {
    for (kind, size, phase, expected) in [
        (DynoKind::Run, "eco", Phase::Up, Some(RetireCause::OutOfEcoHours)),
        (DynoKind::Run, "eco", Phase::Starting, Some(RetireCause::OutOfEcoHours)),
        (DynoKind::Run, "basic", Phase::Up, None),
        (DynoKind::Release, "eco", Phase::Up, None),
    ] {
        let mut world = World::new(vec![wanted("worker", 1)]);
        world.settle();
        world.desired.out_of_eco_hours = true;
        let one_off = &mut world.actual.dynos[0];
        (one_off.kind, one_off.size, one_off.phase) = (kind, size.into(), phase);
        let dyno_id = one_off.id;
        world.desired.formation.clear();
        let retired = world.plan().actions.into_iter().find_map(|action| match action {
            Action::Retire { dyno_id: retired, cause } if retired == dyno_id => Some(cause),
            _ => None,
        });
        assert_eq!(retired, expected, "{kind:?} {size} {phase:?}");
    }
}
