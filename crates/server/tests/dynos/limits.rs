//! What the admin chooses for all dynos: how much memory they may be promised, how old they may
//! get, and how long eco dynos may be awake.

use super::support::{Bench, SERVER, now};
use super::{WEB, request};
use anyhow::Result;
use ferroku_core::DynoId;
use ferroku_core::dyno::{Dyno, DynoState};
use ferroku_core::protocol::router::TargetState;
use ferroku_core::room::Shortage;
use ferroku_server::dynos::{DynoSettings, DynosError, RunError, RunRequest};
use std::time::Duration;

const BASIC_BYTES: u64 = 512 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_that_there_is_no_memory_for_waits_and_starts_when_there_is() -> Result<()> {
    let bench = Bench::new().await?;
    let settings = DynoSettings { memory_bytes: Some(2 * BASIC_BYTES), ..DynoSettings::default() };
    let control = bench.control_with(settings.clone()).await?;
    let types = [("web", WEB, 1), ("clock", "sleep 1000", 0)];
    let version = bench.deploy(&control, &types, &[("server.py", SERVER)]).await?;
    bench.wait_up(&["web.1"], version).await?;
    let filler = control.manager.run_one_off(&bench.app, request("sleep 1000", false), &bench.actor).await?;
    control
        .wait_log(&bench, &format!("heroku[{}]: State changed from starting to up", filler.name()))
        .await?;

    let refused = control.manager.run_one_off(&bench.app, request("ls", false), &bench.actor).await;
    let no_room =
        |error: &RunError| matches!(error, RunError::Failed(DynosError::NoRoom(Shortage::Memory { .. })));
    assert!(refused.as_ref().is_err_and(no_room), "{refused:?}");

    bench.scale(&control, "clock", 1).await?;
    let line = "heroku[clock.1]: Waiting for memory, to be started when there is room: it takes 512 MB of memory, \
                and 1024 of the 1024 MB that this node allots to dynos and builds are taken";
    control.wait_log(&bench, line).await?;
    let waiting = bench.wait("written down", |all| all.iter().any(|dyno| dyno.name() == "clock.1")).await?;
    let clock = waiting.iter().find(|dyno| dyno.name() == "clock.1").expect("there").id;
    assert!(matches!(control.manager.shortage(clock), Some(Shortage::Memory { .. })), "`heroku ps` says so");
    // A deploy on a full node: what replaces another takes its place.
    let version = bench
        .deploy(&control, &[("web", WEB, 1), ("clock", "sleep 1000", 1)], &[("server.py", SERVER)])
        .await?;
    bench
        .wait("web replaced", |all| {
            let web: Vec<_> = all.iter().filter(|dyno| dyno.name() == "web.1").collect();
            web.len() == 1 && web[0].release_version == version && web[0].state == DynoState::Up
        })
        .await?;
    // A new control finds the node as full as it is.
    control.die().await?;
    let control = bench.control_with(settings).await?;
    let refused = control.manager.run_one_off(&bench.app, request("ls", false), &bench.actor).await;
    assert!(refused.as_ref().is_err_and(no_room), "{refused:?}");

    let stopped: ferroku_store::Result<u64> = async {
        let one = ferroku_store::dynos::Selector::One(filler.id);
        ferroku_store::write!(&bench.store, tx => {
            ferroku_store::dynos::request_stop(&mut tx, bench.app.id, &one, 1).await
        })
    }
    .await;
    stopped?;
    control.manager.poke(bench.app.id);
    let all = bench.wait_up(&["clock.1", "web.1"], version).await?;
    assert!(all.iter().all(|dyno| control.manager.shortage(dyno.id).is_none()));
    let told = control.log(&bench).await?.iter().filter(|line| line.contains("Waiting for memory")).count();
    assert!(told <= 3, "each dyno that waits is told once by each control: {told}");
    control.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dynos_are_cycled_and_web_without_a_gap() -> Result<()> {
    let bench = Bench::new().await?;
    let control = bench.control().await?;
    let types = [("web", WEB, 1), ("clock", "sleep 1000", 1)];
    let version = bench.deploy(&control, &types, &[("server.py", SERVER)]).await?;
    let first = bench.wait_up(&["clock.1", "web.1"], version).await?;
    control.die().await?;
    let tables = bench.tables.lock().expect("not poisoned").len();
    let settings = DynoSettings { cycle_after: Some(Duration::from_secs(6)), ..DynoSettings::default() };
    let control = bench.control_with(settings).await?;
    control.wait_log(&bench, "heroku[web.1]: Cycling").await?;
    control.wait_log(&bench, "heroku[clock.1]: Cycling").await?;
    bench
        .wait("both replaced", |all| {
            let replaced = |dyno: &ferroku_core::dyno::Dyno| {
                dyno.state == DynoState::Up && first.iter().all(|old| old.id != dyno.id)
            };
            ["web.1", "clock.1"]
                .iter()
                .all(|name| all.iter().any(|dyno| dyno.name() == *name && replaced(dyno)))
        })
        .await?;
    control.wait_log(&bench, "heroku[clock.1]: Process exited with status 143").await?;
    let log = control.wait_lines(&bench, "heroku[web.1]: State changed from starting to up", 2).await?;
    let of_clock = log.iter().filter_map(|line| line.strip_prefix("heroku[clock.1]: "));
    let of_clock: Vec<&str> = of_clock.skip_while(|line| *line != "Cycling").take(4).collect();
    let expected = [
        "Cycling",
        "State changed from up to starting",
        "Stopping all processes with SIGTERM",
        "Process exited with status 143",
    ];
    assert_eq!(of_clock, expected);
    let of_web = log.iter().filter_map(|line| line.strip_prefix("heroku[web.1]: "));
    let of_web: Vec<&str> = of_web.skip_while(|line| *line != "Cycling").take(4).collect();
    let expected = [
        "Cycling",
        "State changed from up to starting",
        &format!("Starting process with command `{WEB}`"),
        "State changed from starting to up",
    ];
    assert_eq!(of_web, expected, "the new one is up before the old one is stopped");
    let tables = bench.tables.lock().expect("not poisoned")[tables..].to_vec();
    let served = |app: &ferroku_core::protocol::router::RouteApp| {
        app.targets.iter().any(|target| target.state == TargetState::Healthy)
    };
    assert!(tables.iter().flat_map(|table| &table.apps).all(served), "there was always one that serves");
    control.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eco_dynos_are_stopped_when_their_hours_are_used_up_and_do_not_start_before_there_are_more()
-> Result<()> {
    let bench = Bench::new().await?;
    let with_hours = |hours| DynoSettings { eco_hours: Some(hours), ..DynoSettings::default() };
    let control = bench.control_with(with_hours(1)).await?;
    let types = [("web", WEB, 1), ("worker", "sleep 1000", 1), ("clock", "sleep 1000", 1)];
    let version = bench.deploy(&control, &types, &[("server.py", SERVER)]).await?;
    bench.wait_up(&["clock.1", "web.1", "worker.1"], version).await?;
    bench.resize(&control, "web", "eco").await?;
    bench.resize(&control, "worker", "eco").await?;
    let is_up = |dyno: &Dyno, name: &str, size: &str| {
        dyno.name() == name && dyno.size == size && dyno.state == DynoState::Up
    };
    let all = bench
        .wait("both as eco", |all| {
            all.len() == 3
                && ["web.1", "worker.1"].iter().all(|name| all.iter().any(|one| is_up(one, name, "eco")))
        })
        .await?;
    let first: Vec<DynoId> = all.iter().map(|dyno| dyno.id).collect();
    let eco: Vec<DynoId> = all.iter().filter(|dyno| dyno.size == "eco").map(|dyno| dyno.id).collect();
    bench.up_since(&eco, now() - 2 * 3_600_000).await?;
    control.manager.poke(bench.app.id);
    let is_out = |dyno: &Dyno| dyno.state == DynoState::Idle && dyno.ended_at.is_some();
    let out = |all: &[Dyno]| {
        let eco = || all.iter().filter(|dyno| dyno.size == "eco");
        all.len() == 3
            && eco().count() == 2
            && eco().all(is_out)
            && all.iter().any(|one| is_up(one, "clock.1", "basic"))
    };
    bench.wait("eco dynos stopped, the other runs on", out).await?;
    let log = control.log(&bench).await?;
    for name in ["web.1", "worker.1"] {
        let lines: Vec<&str> =
            log.iter().filter_map(|line| line.strip_prefix(&format!("heroku[{name}]: ")[..])).collect();
        let told = lines.iter().position(|line| *line == "You've used up your dyno hour pool");
        assert_eq!(
            told.map(|at| lines[at + 1..].iter().take(3).copied().collect::<Vec<_>>()),
            Some(vec!["Idling", "State changed from up to down", "Stopping all processes with SIGTERM"]),
            "{lines:#?}"
        );
    }
    bench.wait_table("the router answers H82", |app| app.out_of_hours && !app.asleep && !app.booting).await?;
    let refused = RunRequest { size: Some("eco".into()), ..request("true", false) };
    let refused = control.manager.run_one_off(&bench.app, refused, &bench.actor).await;
    assert!(matches!(refused, Err(RunError::OutOfEcoHours)), "{:?}", refused.map(|dyno| dyno.name()));
    let basic = RunRequest { size: Some("basic".into()), ..request("true", false) };
    control.manager.run_one_off(&bench.app, basic, &bench.actor).await?;

    // Neither a request nor another process brings them back.
    control.manager.wake(bench.app.id);
    control.die().await?;
    bench.tables.lock().expect("not poisoned").clear();
    let control = bench.control_with(with_hours(1)).await?;
    bench.wait_table("the table of the new control", |app| app.out_of_hours).await?;
    control.manager.wake(bench.app.id);
    // Once this is done the manager has looked at the app, and would have started them.
    bench.resize(&control, "clock", "standard-1x").await?;
    let all = bench.wait("a round", |all| all.iter().any(|one| is_up(one, "clock.1", "standard-1x"))).await?;
    let running = all.iter().filter(|dyno| dyno.size == "eco" && !is_out(dyno));
    assert_eq!(running.map(Dyno::name).collect::<Vec<_>>(), Vec::<String>::new(), "eco dynos stay stopped");
    control.die().await?;

    let control = bench.control_with(with_hours(1_000)).await?;
    control.manager.wake(bench.app.id);
    bench
        .wait("both run again", |all| {
            let again =
                |name: &&str| all.iter().any(|one| is_up(one, name, "eco") && !first.contains(&one.id));
            all.len() == 3 && ["web.1", "worker.1"].iter().all(again)
        })
        .await?;
    bench.wait_table("it serves", |app| !app.out_of_hours && !app.targets.is_empty()).await?;
    control.end().await
}
