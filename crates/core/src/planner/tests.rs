//! Scenes and properties of the planner.

use super::world::{World, wanted};
use super::*;
use proptest::prelude::*;

fn phases(world: &World) -> Vec<(String, i64, Phase, bool)> {
    let mut all: Vec<_> = world
        .actual
        .dynos
        .iter()
        .map(|dyno| {
            let name = format!("{}.{}", dyno.process_type, dyno.ordinal);
            (name, dyno.release_version, dyno.phase, dyno.retired)
        })
        .collect();
    all.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    all
}

#[test]
fn a_deploy_brings_new_web_dynos_up_before_old_ones_leave_and_other_types_in_turn() {
    let mut world = World::new(vec![wanted("web", 1), wanted("worker", 1)]);
    world.calm();
    world.deploy();
    world.settle();
    assert_eq!(
        phases(&world),
        [
            ("web.1".into(), 1, Phase::Up, true),
            ("web.1".into(), 2, Phase::Starting, false),
            ("worker.1".into(), 1, Phase::Up, true),
        ],
        "the old web dyno serves on, the old worker is told to end, the new one waits for that"
    );
    assert!(
        world.actual.dynos.iter().find(|dyno| dyno.process_type == WEB).expect("there").draining_at.is_none()
    );
    world.calm();
    world.assert_converged();
}

#[test]
fn a_release_hands_over_to_the_next_at_once_with_as_many_dynos_as_are_wanted() {
    let mut world = World::new(vec![wanted("web", 3)]);
    world.desired.max_surge = 10;
    world.calm();
    let mut answered = Vec::new();
    for _ in 0..3 {
        world.deploy();
        world.settle();
        for index in 0..20 {
            let serving: Vec<i64> = world
                .actual
                .dynos
                .iter()
                .filter(|dyno| dyno.serves())
                .map(|dyno| dyno.release_version)
                .collect();
            let release = serving_release(serving.iter().copied(), 3, 10).expect("some serve");
            assert!(serving.iter().filter(|version| **version == release).count() >= 3, "{serving:?}");
            answered.push(release);
            world.boot(index);
            world.settle();
        }
    }
    assert!(answered.is_sorted(), "{answered:?}");
    assert!([1, 2, 3, 4].iter().all(|release| answered.contains(release)), "{answered:?}");
}

#[test]
fn a_release_whose_web_dynos_crash_leaves_the_old_ones_serving() {
    let mut world = World::new(vec![wanted("web", 2)]);
    world.calm();
    world.deploy();
    for _ in 0..6 {
        world.settle();
        for index in 0..world.actual.dynos.len() {
            if world.actual.dynos[index].release_version == 2 {
                world.exit(index);
            }
        }
        world.now += 10 * 60_000;
    }
    world.settle();
    let serving: Vec<_> =
        world.actual.dynos.iter().filter(|dyno| dyno.serves()).map(|dyno| dyno.release_version).collect();
    assert_eq!(serving, [1, 1]);
    world.deploy();
    world.calm();
    world.assert_converged();
}

#[test]
fn crashes_are_answered_at_once_and_then_after_twenty_and_forty_minutes() {
    let mut world = World::new(vec![wanted("worker", 1)]);
    let mut waits = Vec::new();
    for _ in 0..8 {
        world.settle();
        world.boot(0);
        world.exit(0);
        let wait = world.plan().wake_at.map_or(0, |at| at - world.now);
        waits.push(wait / 60_000);
        world.now += wait;
    }
    assert_eq!(waits, [0, 20, 40, 60, 180, 320, 320, 320]);
    assert_eq!(after_crash(4, Some(STABLE_AFTER_MS), 7), (1, 7), "one that ran well begins anew");
}

#[test]
fn a_new_release_or_a_restart_ends_the_cooling_off() {
    for restart in [false, true] {
        let mut world = World::new(vec![wanted("worker", 1)]);
        for _ in 0..2 {
            world.settle();
            world.exit(0);
        }
        assert_eq!(world.settle(), 0, "it cools off");
        if restart {
            world.desired.restart_generation += 1
        } else {
            world.deploy()
        }
        assert!(world.settle() > 0);
        assert_eq!(world.actual.dynos[0].phase, Phase::Starting);
    }
}

#[test]
fn scaling_down_takes_the_highest_numbers() {
    let mut world = World::new(vec![wanted("web", 4)]);
    world.calm();
    world.scale("web", 2);
    world.settle();
    let leaving: Vec<u32> = world
        .actual
        .dynos
        .iter()
        .filter(|dyno| dyno.draining_at.is_some())
        .map(|dyno| dyno.ordinal)
        .collect();
    assert_eq!(leaving, [3, 4]);
}

#[test]
fn what_was_read_before_a_newer_release_started_changes_nothing() {
    let mut world = World::new(vec![wanted("web", 1)]);
    let before = world.desired.clone();
    world.deploy();
    world.calm();
    assert_eq!(plan(&before, &world.actual, world.now), Plan::default());
}

#[test]
fn a_dyno_that_drains_is_stopped_when_the_router_is_done_or_thirty_seconds_have_passed() {
    let mut world = World::new(vec![wanted("web", 1)]);
    world.calm();
    world.scale("web", 0);
    world.settle();
    assert!(world.actual.dynos[0].stopping_at.is_none(), "requests are in flight");
    let wake = world.plan().wake_at.expect("the drain has an end");
    assert_eq!(wake, world.now + DRAIN_TIMEOUT_MS);
    world.now = wake;
    world.settle();
    assert_eq!(world.actual.dynos[0].stopping_at, Some(wake));
    world.now += STUCK_AFTER_MS;
    assert_eq!(
        world.plan().actions,
        [Action::Kill { dyno_id: world.actual.dynos[0].id, cause: KillCause::Stuck }]
    );
}

#[test]
fn a_web_dyno_that_does_not_boot_is_killed_once() {
    let mut world = World::new(vec![wanted("web", 1)]);
    world.settle();
    world.actual.dynos[0].boot_timed_out = true;
    let kill = Action::Kill { dyno_id: world.actual.dynos[0].id, cause: KillCause::BootTimeout };
    assert_eq!(world.plan().actions, [kill]);
    assert_eq!(world.settle(), 1);
}

#[test]
fn a_release_command_ahead_of_its_release_holds_nothing_up() {
    let mut world = World::new(vec![wanted("web", 1)]);
    world.calm();
    let mut command = world.actual.dynos[0].clone();
    command.id = DynoId(uuid::Uuid::from_u128(99));
    command.kind = DynoKind::Release;
    command.process_type = "release".to_owned();
    command.release_version += 1;
    world.actual.dynos.push(command);
    world.scale("web", 3);
    world.calm();
    let web = world.actual.dynos.iter().filter(|dyno| dyno.process_type == WEB && dyno.phase == Phase::Up);
    assert_eq!(web.count(), 3);
    assert!(world.actual.dynos.iter().any(|dyno| dyno.kind == DynoKind::Release), "and is left alone");
}

#[test]
fn an_attached_one_off_waits_thirty_seconds_for_its_client() {
    let mut world = World::new(vec![wanted("worker", 1)]);
    world.settle();
    let one_off = &mut world.actual.dynos[0];
    one_off.kind = DynoKind::Run;
    one_off.phase = Phase::Created;
    one_off.attached = true;
    let id = one_off.id;
    world.desired.formation.clear();
    assert_eq!(world.plan(), Plan { actions: vec![], wake_at: Some(world.now + ATTACH_TIMEOUT_MS) });
    world.now += ATTACH_TIMEOUT_MS;
    assert_eq!(world.plan().actions, [Action::GiveUpAttach { dyno_id: id }]);
    world.actual.dynos[0].attached = false;
    assert_eq!(world.plan().actions, [Action::Spawn { dyno_id: id }]);
    world.actual.dynos[0].phase = Phase::Up;
    world.actual.dynos[0].expires_at = Some(world.now);
    assert_eq!(world.plan().actions, [Action::Retire { dyno_id: id, cause: RetireCause::Expired }]);
}

/// What may happen to an app and its processes between two looks of the planner.
#[derive(Debug, Clone)]
enum Happening {
    Deploy,
    Restart,
    Scale(&'static str, u32),
    Resize(&'static str),
    RestartOne(usize),
    StopOne(usize),
    Boot(usize),
    Exit(usize),
    BootTimeout(usize),
    Drained(usize),
    Wait(i64),
    DropCode,
    /// The wall clock jumps by so many hours.
    ClockJump(i64),
    /// Control is killed, and another one reads the rows.
    ControlRestart,
    /// The node has room for dynos, or none.
    Room(bool),
    /// Cycling is switched on, or off with 0; minutes.
    Cycle(i64),
    Sleep(bool),
    Request,
    OpenRequests(bool),
    Answer(usize, bool),
    MakeRoom(bool),
    /// Eco hours are used up, or there are some again.
    OutOfEcoHours(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    let process_type = prop_oneof![Just("web"), Just("worker")];
    prop_oneof![
        2 => Just(Happening::Deploy),
        1 => Just(Happening::Restart),
        3 => (process_type.clone(), 0u32..5).prop_map(|(name, quantity)| Happening::Scale(name, quantity)),
        2 => process_type.prop_map(Happening::Resize),
        1 => (0usize..12).prop_map(Happening::RestartOne),
        1 => (0usize..12).prop_map(Happening::StopOne),
        8 => (0usize..12).prop_map(Happening::Boot),
        4 => (0usize..12).prop_map(Happening::Exit),
        1 => (0usize..12).prop_map(Happening::BootTimeout),
        4 => (0usize..12).prop_map(Happening::Drained),
        4 => (0i64..3_000_000).prop_map(Happening::Wait),
        1 => Just(Happening::DropCode),
        2 => (-240i64..240).prop_map(Happening::ClockJump),
        1 => Just(Happening::ControlRestart),
        2 => any::<bool>().prop_map(Happening::Room),
        1 => (0i64..90).prop_map(Happening::Cycle),
        2 => prop::bool::weighted(0.8).prop_map(Happening::Sleep),
        2 => Just(Happening::Request),
        2 => prop::bool::weighted(0.3).prop_map(Happening::OpenRequests),
        6 => (0usize..12, prop::bool::weighted(0.9)).prop_map(|(index, works)| Happening::Answer(index, works)),
        1 => prop::bool::weighted(0.3).prop_map(Happening::MakeRoom),
        2 => any::<bool>().prop_map(Happening::OutOfEcoHours),
    ]
}

fn happen(world: &mut World, happening: Happening) {
    match happening {
        Happening::Deploy => world.deploy(),
        Happening::Restart => world.desired.restart_generation += 1,
        Happening::Scale(name, quantity) => world.scale(name, quantity),
        Happening::Resize(name) => {
            for wanted in &mut world.desired.formation {
                if wanted.process_type == name {
                    wanted.size = match wanted.size.as_str() {
                        "basic" => "eco".into(),
                        "eco" => "standard-2x".into(),
                        _ => "basic".into(),
                    };
                }
            }
        }
        Happening::RestartOne(index)
        | Happening::StopOne(index)
        | Happening::BootTimeout(index)
        | Happening::Drained(index) => {
            if let Some(dyno) = world.actual.dynos.get_mut(index) {
                match happening {
                    Happening::RestartOne(_) => dyno.restart_requested = true,
                    Happening::StopOne(_) => dyno.stop_requested = true,
                    Happening::BootTimeout(_) => dyno.boot_timed_out = true,
                    _ => dyno.drained |= dyno.draining_at.is_some(),
                }
            }
        }
        Happening::Boot(index) => world.boot(index),
        Happening::Exit(index) => world.exit(index),
        Happening::Wait(ms) => world.now += ms,
        Happening::ClockJump(hours) => world.wall_ahead += hours * 3_600_000,
        Happening::ControlRestart => world.restart_control(),
        Happening::Room(room) => world.set_room(room),
        Happening::Cycle(minutes) => {
            world.desired.cycle_after_ms = (minutes > 0).then_some(minutes * 60_000);
        }
        Happening::Sleep(may) => {
            world.desired.sleep =
                may.then_some(SleepPolicy { idle_after_ms: 600_000, stop_after_ms: 1_200_000 })
        }
        Happening::Request => world.request(),
        Happening::OpenRequests(open) => {
            world.open_requests = open;
            if open {
                world.request();
            }
        }
        Happening::Answer(index, works) => world.answer(index, works),
        Happening::MakeRoom(must) => world.actual.activity.must_make_room = must,
        Happening::OutOfEcoHours(out) => world.desired.out_of_eco_hours = out,
        // Formation dynos vanish with the code; a later deploy brings it back.
        Happening::DropCode => world.desired.formation.iter_mut().for_each(|wanted| wanted.quantity = 0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    /// The invariants are asserted by the world at every action; here: it settles after each happening,
    /// settling twice changes nothing, and it converges once things go well. The wall clock may jump by days, in both
    /// directions: nothing is hurried, and nothing is held up for longer than the longest cool-off.
    #[test]
    fn whatever_happens_the_invariants_hold_and_it_converges(
        web in 0u32..4,
        worker in 0u32..3,
        surge in 1u32..4,
        happenings in prop::collection::vec(happening(), 0..40),
    ) {
        let mut world = World::new(vec![wanted("web", web), wanted("worker", worker)]);
        world.desired.max_surge = surge;
        for each in happenings {
            happen(&mut world, each);
            world.settle();
            prop_assert_eq!(world.settle(), 0, "settled means silent");
        }
        world.desired.cycle_after_ms = None;
        world.desired.sleep = None;
        world.desired.out_of_eco_hours = false;
        world.set_room(true);
        world.calm();
        world.assert_converged();
        prop_assert_eq!(world.plan(), Plan::default());
    }
}

#[test]
fn a_dyno_without_room_waits_and_is_tried_again_and_the_old_one_serves_on() {
    let mut world = World::new(vec![wanted("web", 1)]);
    world.calm();
    world.set_room(false);
    world.deploy();
    world.settle();
    assert_eq!(
        phases(&world),
        [("web.1".into(), 1, Phase::Up, true), ("web.1".into(), 2, Phase::Created, false)]
    );
    assert!(world.actual.dynos.iter().any(DynoActual::serves));
    assert_eq!(world.plan(), Plan { actions: vec![], wake_at: Some(world.now + ROOM_RETRY_MS) });
    world.set_room(true);
    world.calm();
    world.assert_converged();
}

#[test]
fn a_start_that_the_node_failed_is_no_crash_and_is_tried_again_soon() {
    assert_eq!(after_failed_start(0, 7), (0, 7 + START_RETRY_MS));
    let mut world = World::new(vec![wanted("worker", 1)]);
    world.settle();
    world.exit(0);
    let crash = &mut world.actual.crashes[0];
    (crash.crashes, crash.next_start_at) = after_failed_start(0, world.now);
    assert_eq!(world.plan(), Plan { actions: vec![], wake_at: Some(world.now + START_RETRY_MS) });
    world.now += START_RETRY_MS;
    assert!(world.settle() > 0);
}

const DAY_MS: Millis = 24 * 60 * 60_000;

#[test]
fn a_jump_of_the_clock_changes_nothing_for_dynos_that_run() {
    for days in [-30, -3, 3, 30] {
        let mut world = World::new(vec![wanted("web", 2), wanted("worker", 2)]);
        world.desired.cycle_after_ms = Some(DAY_MS);
        world.calm_for(60_000);
        world.wall_ahead = days * DAY_MS;
        assert_eq!(world.settle(), 0, "{days} days");
        let wake_at = world.plan().wake_at.expect("dynos are cycled");
        assert!((world.now..world.now + 2 * DAY_MS).contains(&wake_at), "{days} days: {wake_at}");
    }
}

#[test]
fn a_back_off_and_a_drain_last_as_long_as_they_should_though_the_clock_jumps() {
    for (days, restarted) in [(-3, false), (3, false), (-3, true)] {
        let mut world = World::new(vec![wanted("web", 1), wanted("worker", 1)]);
        world.calm();
        for _ in 0..2 {
            world.settle();
            let worker = world.actual.dynos.iter().position(|dyno| dyno.process_type == "worker");
            world.exit(worker.expect("the first crash is answered at once"));
        }
        world.scale("web", 0);
        world.settle();
        world.wall_ahead = days * DAY_MS;
        if restarted {
            world.steady = Steady::default();
        }
        assert_eq!(world.settle(), 0, "{days} days: nothing is hurried");
        assert_eq!(world.plan().wake_at, Some(world.now + DRAIN_TIMEOUT_MS), "{days} days");
        world.now += DRAIN_TIMEOUT_MS;
        assert_eq!(world.settle(), 1, "{days} days: the drain ends");
        world.now += COOL_OFFS_MS[1];
        world.settle();
        let worker = world.actual.dynos.iter().find(|dyno| dyno.process_type == "worker");
        assert_eq!(worker.expect("there").phase, Phase::Starting, "{days} days");
    }
}

#[test]
fn a_one_off_lives_no_longer_than_it_may_though_the_clock_goes_back() {
    let mut world = World::new(vec![wanted("worker", 1)]);
    world.settle();
    world.boot(0);
    world.desired.formation.clear();
    let one_off = &mut world.actual.dynos[0];
    one_off.kind = DynoKind::Run;
    one_off.expires_at = Some(one_off.created_at + 60_000);
    for restarted in [false, true] {
        world.wall_ahead -= 5 * DAY_MS;
        if restarted {
            world.steady = Steady::default();
        }
        let wake_at = world.plan().wake_at.expect("it has an end");
        assert!(wake_at <= world.now + 60_000, "{wake_at}");
    }
}

#[test]
fn cycling_replaces_web_before_it_leaves_and_other_types_in_turn() {
    let mut world = World::new(vec![wanted("web", 2), wanted("worker", 2)]);
    world.desired.cycle_after_ms = Some(DAY_MS);
    world.calm_for(60_000);
    let first: Vec<DynoId> = world.actual.dynos.iter().map(|dyno| dyno.id).collect();
    world.now += DAY_MS - 120_000;
    assert_eq!(world.settle(), 0, "not a minute before its time");
    world.now += DAY_MS * 15 / 100 + 120_000;
    let plan = world.plan();
    let cycles = |action: &&Action| match action {
        Action::Create(new) => new.cycles && new.process_type == WEB && new.supersedes.is_some(),
        Action::Retire { cause, .. } => *cause == RetireCause::Cycled,
        _ => false,
    };
    let count = plan.actions.iter().filter(cycles).count();
    assert_eq!(count, 3, "both of web, which have successors, and one worker: {:?}", plan.actions);
    world.settle();
    assert_eq!(world.actual.dynos.iter().filter(|dyno| dyno.process_type == WEB && dyno.serves()).count(), 2);
    world.calm_for(60_000);
    world.assert_converged();
    assert!(world.actual.dynos.iter().all(|dyno| !first.contains(&dyno.id)), "each has been replaced");
    // A one-off has the same end.
    world.actual.dynos.retain(|dyno| dyno.process_type == "worker" && dyno.ordinal == 1);
    world.actual.dynos[0].kind = DynoKind::Run;
    world.desired.formation.clear();
    world.now += DAY_MS * 115 / 100;
    let dyno_id = world.actual.dynos[0].id;
    assert_eq!(world.plan().actions, [Action::Retire { dyno_id, cause: RetireCause::Cycled }]);
}

#[test]
fn a_cycled_web_dyno_leaves_though_another_slot_never_comes_up() {
    let mut world = World::new(vec![wanted("web", 2)]);
    world.desired.max_surge = 10;
    world.desired.cycle_after_ms = Some(DAY_MS);
    world.calm_for(60_000);
    let most = (0..20).map(|_| {
        world.now += DAY_MS / 2;
        for _ in 0..10 {
            world.settle();
            for index in (0..world.actual.dynos.len()).rev() {
                let dyno = &mut world.actual.dynos[index];
                dyno.drained = dyno.draining_at.is_some();
                let must_end = dyno.stopping_at.is_some() || dyno.ordinal == 2;
                if must_end { world.exit(index) } else { world.boot(index) }
            }
        }
        world.actual.dynos.iter().filter(|dyno| dyno.ordinal == 1 && dyno.serves()).count()
    });
    assert_eq!(most.max(), Some(2), "the one that serves, and the one before it in place of web.2");
}

#[test]
fn a_dyno_that_is_stopped_while_it_waits_to_be_scaled_away_leaves() {
    let mut world = World::new(vec![wanted("web", 2)]);
    world.settle();
    world.boot(1);
    world.scale("web", 1);
    world.actual.dynos[1].stop_requested = true;
    world.calm();
    world.assert_converged();
}
