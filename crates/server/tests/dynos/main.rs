//! The dyno manager on the real sandbox: what runs, what rows say, what logs say, what the router is told.

mod limits;
mod support;

use anyhow::Result;
use bytes::Bytes;
use ferroku_core::dyno::DynoState;
use ferroku_core::protocol::router::TargetState;
use ferroku_server::dynos::{RunError, RunRequest};
use ferroku_store::dynos;
use std::collections::BTreeMap;
use std::time::Duration;
use support::{Bench, SERVER, get};

const WEB: &str = "exec python3 server.py";

fn request(command: &str, attach: bool) -> RunRequest {
    RunRequest {
        command: command.into(),
        attach,
        environment: BTreeMap::from([("COLUMNS".into(), "111".into())]),
        size: None,
        process_type: None,
        time_to_live_s: None,
        terminal: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_starts_web_and_the_next_one_takes_over_without_a_gap() -> Result<()> {
    let bench = Bench::new().await?;
    let control = bench.control().await?;
    let files = [("server.py", SERVER)];
    let first = bench.deploy(&control, &[("web", WEB, 2), ("clock", "sleep 1000", 1)], &files).await?;
    bench.wait_up(&["clock.1", "web.1", "web.2"], first).await?;
    for address in bench.targets() {
        assert_eq!(get(address).await?, format!("release v{first}"));
    }
    let second = bench.deploy(&control, &[("web", WEB, 2), ("clock", "sleep 1000", 1)], &files).await?;
    bench.wait_up(&["clock.1", "web.1", "web.2"], second).await?;
    assert_eq!(bench.targets().len(), 2);
    for address in bench.targets() {
        assert_eq!(get(address).await?, format!("release v{second}"));
    }
    let tables = bench.tables.lock().expect("not poisoned").clone();
    let healthy: Vec<usize> = tables
        .iter()
        .flat_map(|table| &table.apps)
        .map(|app| app.targets.iter().filter(|target| target.state == TargetState::Healthy).count())
        .collect();
    let served = healthy.iter().position(|count| *count == 2).expect("both were up once");
    assert!(healthy[served..].iter().all(|count| *count >= 2), "{healthy:?}");

    control.wait_log(&bench, "app[web.2]: got SIGTERM").await?;
    let log = control.wait_lines(&bench, "heroku[clock.1]: ", 8).await?;
    let of_clock: Vec<&str> = log.iter().filter_map(|line| line.strip_prefix("heroku[clock.1]: ")).collect();
    assert_eq!(
        of_clock,
        [
            "Starting process with command `sleep 1000`",
            "State changed from starting to up",
            "Restarting",
            "State changed from up to starting",
            "Stopping all processes with SIGTERM",
            "Process exited with status 143",
            "Starting process with command `sleep 1000`",
            "State changed from starting to up",
        ]
    );
    bench.scale(&control, "web", 0).await?;
    bench.wait_up(&["clock.1"], second).await?;
    assert!(bench.targets().is_empty());
    let store = bench.store.clone();
    control.end().await?;
    assert!(dynos::list(&store, bench.app.id).await?.is_empty(), "the end of the node ends every dyno");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_is_answered_at_once_and_then_with_patience() -> Result<()> {
    let bench = Bench::new().await?;
    let control = bench.control().await?;
    bench.deploy(&control, &[("worker", "echo done; exit 0", 1)], &[]).await?;
    let all = bench
        .wait("crashed and cooling off", |all| {
            all.len() == 1 && all[0].state == DynoState::Crashed && all[0].exit_status == Some(0)
        })
        .await?;
    // The first crash is answered at once: what was seen above may have been that one.
    let crashes = |log: &[String]| log.iter().filter(|line| line.contains("from up to crashed")).count();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while crashes(&control.log(&bench).await?) < 2 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let log = control.log(&bench).await?;
    assert_eq!(log.iter().filter(|line| line.contains("app[worker.1]: done")).count(), 2, "{log:#?}");
    let states: Vec<&String> = log.iter().filter(|line| line.contains("State changed")).collect();
    assert_eq!(
        states,
        [
            "heroku[worker.1]: State changed from starting to up",
            "heroku[worker.1]: State changed from up to crashed",
            "heroku[worker.1]: State changed from crashed to starting",
            "heroku[worker.1]: State changed from starting to up",
            "heroku[worker.1]: State changed from up to crashed",
        ]
    );
    assert_eq!(all[0].name(), "worker.1");
    // A restart ends the cooling off.
    let asked: ferroku_store::Result<()> = async {
        ferroku_store::write!(&bench.store, tx => { dynos::restart_all(&mut tx, bench.app.id).await })
    }
    .await;
    asked?;
    control.manager.poke(bench.app.id);
    bench.wait("tried again", |all| all.iter().any(|dyno| dyno.restart_generation == 1)).await?;
    control.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dynos_outlive_control_and_lost_ones_are_replaced() -> Result<()> {
    let bench = Bench::new().await?;
    let control = bench.control().await?;
    let count = "i=0; while true; do i=$((i+1)); echo line $i; sleep 0.02; done";
    let version =
        bench.deploy(&control, &[("web", WEB, 1), ("count", count, 1)], &[("server.py", SERVER)]).await?;
    let before = bench.wait_up(&["count.1", "web.1"], version).await?;
    control.die().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let control = bench.control().await?;
    let after = bench.wait_up(&["count.1", "web.1"], version).await?;
    let ids = |all: &[ferroku_core::dyno::Dyno]| {
        let mut ids: Vec<_> = all.iter().map(|dyno| dyno.id).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(&before), ids(&after), "the same dynos");
    // The new control's first table comes once every app has given its entry.
    bench.wait_table("served", |app| !app.targets.is_empty()).await?;
    assert_eq!(get(bench.targets()[0]).await?, format!("release v{version}"));
    let log = control.wait_log(&bench, "app[count.1]: line 90").await?;
    let numbers: Vec<u32> =
        log.iter().filter_map(|line| line.strip_prefix("app[count.1]: line ")?.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "all lines, once: {numbers:?}");

    // A row whose dyno is nowhere: replaced.
    let web = after.iter().find(|dyno| dyno.process_type == "web").expect("there").id;
    control.die().await?;
    kill_dyno_init(&bench, &web.to_string())?;
    let control = bench.control().await?;
    bench
        .wait("replaced", |all| {
            all.iter().any(|dyno| dyno.process_type == "web" && dyno.state == DynoState::Up && dyno.id != web)
        })
        .await?;
    control.wait_log(&bench, "heroku[web.1]: Error R99").await?;
    control.manager.app_destroyed(bench.app.id).await;
    control.end().await
}

/// Kills the process that holds the dyno's lock.
fn kill_dyno_init(bench: &Bench, dyno_id: &str) -> Result<()> {
    let lock = bench.data.path().join("dynos").join(dyno_id).join("lock");
    for process in std::fs::read_dir("/proc")? {
        let folder = process?.path();
        let Ok(files) = std::fs::read_dir(folder.join("fd")) else { continue };
        let holds =
            files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|link| link == lock));
        let pid = folder.file_name().and_then(|name| name.to_str()?.parse::<i32>().ok());
        if let (true, Some(pid)) = (holds, pid)
            && pid != std::process::id() as i32
        {
            let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
            return Ok(());
        }
    }
    anyhow::bail!("nobody holds {}", lock.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_offs_run_detached_into_the_log_and_attached_to_their_client() -> Result<()> {
    let bench = Bench::new().await?;
    let control = bench.control().await?;
    let too_early = control.manager.run_one_off(&bench.app, request("ls", false), &bench.actor).await;
    assert!(matches!(too_early, Err(RunError::NoCode)), "{too_early:?}");
    bench.deploy(&control, &[("job", "echo job", 0)], &[("note", "from the slug\n")]).await?;
    let alone = control.manager.run_one_off(&bench.app, request("echo never", true), &bench.actor).await?;
    let detached = request("job and more; cat note; echo $COLUMNS $DYNO; exit 3", false);
    let dyno = control.manager.run_one_off(&bench.app, detached, &bench.actor).await?;
    assert!((1000..=9999).contains(&dyno.ordinal) && dyno.process_type == "run");
    let name = dyno.name();
    let log = control.wait_log(&bench, &format!("heroku[{name}]: State changed from up to complete")).await?;
    let of = |source: &str| -> Vec<&str> {
        let prefix = format!("{source}[{name}]: ");
        log.iter().filter_map(|line| line.strip_prefix(&prefix)).collect()
    };
    assert_eq!(of("app"), ["job and more", "from the slug", &format!("111 {name}")]);
    assert_eq!(
        of("heroku"),
        [
            "Starting process with command `echo job and more; cat note; echo $COLUMNS $DYNO; exit 3`",
            "State changed from starting to up",
            "Process exited with status 3",
            "State changed from up to complete",
        ]
    );
    assert_eq!(dynos::find(&bench.store, dyno.id).await?.expect("kept").exit_status, Some(3));

    let dyno = control.manager.run_one_off(&bench.app, request("cat; echo end", true), &bench.actor).await?;
    assert_eq!(dyno.state, DynoState::Created, "it waits for its client");
    let mut streams = control.manager.attach(dyno.id).await?;
    assert!(control.manager.attach(dyno.id).await.is_err(), "one client only");
    // As the CLI ends piped input; the connection stays for the output.
    streams.input.send(Bytes::from_static(b"hello\n\x04")).await?;
    let mut output = Vec::new();
    while let Some(bytes) = streams.output.recv().await {
        output.extend_from_slice(&bytes);
    }
    assert_eq!(String::from_utf8_lossy(&output), "hello\nend\n", "{:#?}", control.log(&bench).await?);

    let dyno = control.manager.run_one_off(&bench.app, request("sleep 1000", true), &bench.actor).await?;
    let streams = control.manager.attach(dyno.id).await?;
    control.wait_log(&bench, &format!("heroku[{}]: State changed from starting to up", dyno.name())).await?;
    drop(streams);
    control.wait_log(&bench, &format!("heroku[{}]: Process exited with status 129", dyno.name())).await?;

    // All that it says before its end, and in this order.
    let burst = request("for i in $(seq 1000); do echo number $i; done; kill -9 $$", false);
    let name = control.manager.run_one_off(&bench.app, burst, &bench.actor).await?.name();
    let log = control.wait_log(&bench, &format!("heroku[{name}]: Process exited with status 137")).await?;
    let prefix = format!("app[{name}]: number ");
    let numbers: Vec<usize> =
        log.iter().filter_map(|line| line.strip_prefix(&prefix)?.parse().ok()).collect();
    assert_eq!(numbers, (1..=1000).collect::<Vec<_>>());

    // Whose client never came.
    let name = alone.name();
    let error = "Error R13 (Attach error) -> Failed to attach to process";
    let log = control.wait_log(&bench, &format!("heroku[{name}]: {error}")).await?;
    assert!(!log.iter().any(|line| line.contains(&format!("app[{name}]"))), "it never ran: {log:#?}");
    control.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_that_crashes_at_boot_leaves_the_one_before_serving() -> Result<()> {
    let bench = Bench::new().await?;
    let control = bench.control().await?;
    let good = bench.deploy(&control, &[("web", WEB, 1)], &[("server.py", SERVER)]).await?;
    bench.wait_up(&["web.1"], good).await?;
    let bad = bench.deploy(&control, &[("web", "exit 1", 1)], &[]).await?;
    let line =
        format!("heroku[web.1]: Release v{good} keeps serving requests until dynos of release v{bad} are up");
    control.wait_log(&bench, &line).await?;
    bench
        .wait("cooling off", |all| {
            let crashed = |version| {
                move |dyno: &&ferroku_core::dyno::Dyno| {
                    dyno.release_version == version && dyno.state == DynoState::Crashed
                }
            };
            all.iter().filter(crashed(bad)).count() == 1 && all.len() == 2
        })
        .await?;
    assert_eq!(get(bench.targets()[0]).await?, format!("release v{good}"));
    let fixed = bench.deploy(&control, &[("web", WEB, 1)], &[("server.py", SERVER)]).await?;
    bench.wait_up(&["web.1"], fixed).await?;
    assert_eq!(get(bench.targets()[0]).await?, format!("release v{fixed}"));
    control.end().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_over_its_quota_is_told_and_one_far_over_it_is_killed() -> Result<()> {
    let bench = Bench::new().await?;
    let control = bench.control().await?;
    let release = bench.deploy(&control, &[("clock", "sleep 1000", 1)], &[]).await?;
    bench.wait_up(&["clock.1"], release).await?;
    let fat = |megabytes: u32| RunRequest {
        size: Some("basic".into()),
        ..request(
            &format!("exec python3 -c 'import time; x = b\"x\" * ({megabytes} << 20); time.sleep(600)'"),
            false,
        )
    };
    let over = control.manager.run_one_off(&bench.app, fat(600), &bench.actor).await?.name();
    let log = control.wait_log(&bench, &format!("heroku[{over}]: Error R14 (Memory quota exceeded)")).await?;
    let told = log.iter().find(|line| line.contains("Process running mem=")).expect("how much");
    let megabytes = told.split("mem=").nth(1).and_then(|rest| rest.split('M').next()).expect("a number");
    assert!((600..700).contains(&megabytes.parse::<u32>()?), "{told}");
    let living = dynos::list(&bench.store, bench.app.id).await?;
    assert!(living.iter().any(|dyno| dyno.name() == over && dyno.state == DynoState::Up), "it goes on");

    let far_over = control.manager.run_one_off(&bench.app, fat(1100), &bench.actor).await?.name();
    let log =
        control.wait_log(&bench, &format!("heroku[{far_over}]: State changed from up to complete")).await?;
    let prefix = format!("heroku[{far_over}]: ");
    let lines: Vec<&str> = log.iter().filter_map(|line| line.strip_prefix(&prefix)).collect();
    let end = [
        "Process running mem=1024M(200.0%)",
        "Error R15 (Memory quota vastly exceeded)",
        "Stopping process with SIGKILL",
        "Process exited with status 137",
        "State changed from up to complete",
    ];
    assert!(lines.ends_with(&end), "{lines:?}");
    assert!(!log.iter().any(|line| line.contains("clock.1]: Error R1")), "the others are left alone");
    control.end().await
}
