//! What a node survives beyond the crash of one process at a named point: all of it killed at once, a reboot, a store
//! that is locked, a disk without room or without inodes, a clock that jumps.
//!
//! After each: every dyno that should run runs, once; nothing of others is left on the machine; no acknowledged change
//! is lost; what ended meanwhile has its exit status in the log; each line is there once.

use ferroku_testkit::{NodeOptions, TestNode, leak};
use serde_json::Value;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Child;
use std::time::Duration;

/// An app whose worker numbers its lines, says a last one on SIGUSR1, and ends with status 7.
const LIVE: &str = r#"
mkdir -p live/public && cd live && echo here >public/index.html
echo 'web: exec python3 -u -m http.server "$PORT" --directory public' >Procfile
echo 'worker: exec bash worker.sh' >>Procfile
cat >worker.sh <<'END'
trap 'echo "last $HOSTNAME $i"; exit 7' USR1
i=0
while true; do i=$((i+1)); echo "line $HOSTNAME $i"; sleep 0.5; done
END
git init -q -b main && git add . && git commit -qm first && heroku git:remote -a live
"#;

/// Sets one numbered config var after the other on an app without dynos; notes each that was acknowledged, and the
/// answer to each that was not, which may only say that nobody could take it (503) or be none at all (000).
const LEDGER: &str = r#"
i=0
while true; do
    i=$((i+1))
    answer=$(curl -s -m 60 -w ' %{http_code}' -X PATCH -H "Authorization: Bearer $HEROKU_API_KEY" \
        -H 'Content-Type: application/json' -d "{\"N$i\":\"$i\"}" "$HEROKU_HOST/apps/ledger/config-vars")
    case $answer in
        *' 200') echo $i >>acknowledged ;;
        *) echo "$answer" >>refused ;;
    esac
    sleep 0.2
done
"#;

/// What the log says of lines that there was no room for.
const DROPPED: &str = " lines were dropped because the log could not take them in time";

/// A node with two apps: one that runs, and one whose changes are counted.
struct Patient {
    node: TestNode,
    ledger: Ledger,
    /// Changes that were acknowledged at the last check.
    acknowledged: Cell<usize>,
}

/// The shell that counts changes; it ends with its test.
struct Ledger(Child);

impl Drop for Ledger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Patient {
    fn new(options: NodeOptions) -> Self {
        let node = TestNode::start_with(options);
        for name in ["live", "ledger"] {
            assert_eq!(node.call("POST", "/apps", &format!(r#"{{"name":"{name}"}}"#)).0, 201);
        }
        node.run(LIVE).succeeded();
        node.run("cd live && git push heroku main").succeeded();
        let scale = r#"{"updates":[{"type":"web","quantity":2},{"type":"worker","quantity":1}]}"#;
        assert_eq!(node.call("PATCH", "/apps/live/formation", scale).0, 200);
        let ledger = Ledger(node.shell(LEDGER).spawn().expect("bash runs"));
        let patient = Self { node, ledger, acknowledged: Cell::new(0) };
        patient.check("the start");
        patient
    }

    /// Ids of the dynos of the running app by name, if all that should run runs and nothing else is there.
    fn dynos(&self) -> Result<BTreeMap<String, String>, String> {
        let (_, all) = self.node.call("GET", "/apps/live/dynos", "");
        let text = |dyno: &Value, field: &str| dyno[field].as_str().unwrap_or_default().to_owned();
        let each = all.as_array().into_iter().flatten();
        let found: Vec<_> =
            each.map(|dyno| (text(dyno, "name"), text(dyno, "state"), text(dyno, "id"))).collect();
        let mut states: Vec<_> =
            found.iter().map(|(name, state, _)| (name.as_str(), state.as_str())).collect();
        states.sort_unstable();
        if states != [("web.1", "up"), ("web.2", "up"), ("worker.1", "up")] {
            return Err(format!("{states:?}"));
        }
        Ok(found.into_iter().map(|(name, _, id)| (name, id)).collect())
    }

    /// Of the dyno that has this name once all that should run runs: what ended a moment ago may not be known yet.
    fn id_of(&self, name: &str) -> String {
        self.node.wait_for("all to be well", || self.dynos().is_ok());
        self.dynos().expect("it was a moment ago")[name].clone()
    }

    fn log(&self) -> String {
        let (status, session) = self.node.call("POST", "/apps/live/log-sessions", r#"{"lines":1500}"#);
        assert_eq!(status, 201, "{session}");
        let url = session["logplex_url"].as_str().expect("a URL");
        self.node.run(&format!("curl -sS --fail -m 30 '{url}'")).succeeded().text
    }

    /// All that must hold after each blow.
    fn check(&self, after: &str) {
        let mut dynos = Err(String::new());
        for _ in 0..450 {
            dynos = self.dynos();
            if dynos.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let dynos = dynos.unwrap_or_else(|states| panic!("after {after}: {states}\n{}", self.node.log()));
        self.node.wait_until_up("live");
        let living: BTreeSet<String> = dynos.into_values().collect();
        let strays = leak::strays(&self.node.data, &living);
        assert!(strays.is_empty(), "after {after}:\n{}\n{}", strays.join("\n"), self.node.log());
        let read = |name: &str| fs::read_to_string(self.node.work.join(name)).unwrap_or_default();
        self.node.wait_for("changes to be taken again", || {
            read("acknowledged").lines().count() > self.acknowledged.get()
        });
        let acknowledged = read("acknowledged");
        self.acknowledged.set(acknowledged.lines().count());
        let refused = read("refused");
        let unclear = refused.lines().find(|answer| !answer.ends_with(" 503") && !answer.ends_with(" 000"));
        assert_eq!(unclear, None, "after {after}: the answer to a change");
        let vars = self.node.get("/apps/ledger/config-vars");
        let lost: Vec<&str> =
            acknowledged.lines().filter(|number| vars[format!("N{number}")] != **number).collect();
        assert!(lost.is_empty(), "after {after}: acknowledged and lost: {lost:?}");
        self.check_lines(after);
    }

    /// Each worker's lines are there once and without a gap, but for those that the log says were dropped: on a full
    /// disk a dyno is not held up.
    fn check_lines(&self, after: &str) {
        let mut log = self.log();
        self.node.wait_for("a line of the worker in the log", || {
            log = self.log();
            log.contains("app[worker.1]: line ")
        });
        let dropped =
            log.lines().filter_map(|line| line.split_once("heroku[worker.1]: ")?.1.strip_suffix(DROPPED));
        let mut dropped: u64 = dropped.filter_map(|count| count.parse::<u64>().ok()).sum();
        let mut numbers: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for line in log.lines() {
            let Some((_, rest)) = line.split_once("app[worker.1]: line ") else { continue };
            let (dyno, number) = rest.split_once(' ').expect("its id and a number");
            numbers.entry(dyno).or_default().push(number.parse().expect("a number"));
        }
        for (dyno, numbers) in &numbers {
            for pair in numbers.windows(2) {
                let missing = (pair[1] - pair[0]).checked_sub(1).filter(|missing| *missing <= dropped);
                dropped -= missing.unwrap_or_else(|| panic!("after {after}: {pair:?} of {dyno} in\n{log}"));
            }
        }
    }

    /// Tells the worker to end with status 7, while nobody may be there to hear of it. Gives its id.
    fn end_worker(&self, dyno_id: &str) {
        let wanted = |pid: &&i32| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command == "bash\0worker.sh\0"
        };
        let mut pid = None;
        self.node.wait_for("the worker and its trap", || {
            pid = self.node.processes_of(dyno_id).iter().find(wanted).copied().filter(catches_usr1);
            pid.is_some()
        });
        let pid = pid.and_then(rustix::process::Pid::from_raw).expect("a pid is not 0");
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).expect("it lives");
        let process = format!("/proc/{}", pid.as_raw_nonzero());
        self.node.wait_for("the end of the worker", || !fs::exists(&process).unwrap_or(true));
        // Its dyno-init writes down how it ended, if there is room for it, or tells control, which removes its folder.
        let folder = self.node.data.join("dynos").join(dyno_id);
        let is_known = || folder.join("exit.json").exists() || !folder.exists();
        for _ in 0..if self.node.disk.is_some() { 10 } else { 600 } {
            if is_known() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The worker's last line and its status are in the log.
    fn assert_end_recorded(&self, dyno_id: &str, after: &str) {
        let (last, line) =
            (format!("app[worker.1]: last {dyno_id} "), format!("app[worker.1]: line {dyno_id} "));
        let ends = |log: &str| {
            let mut told = log.lines().skip_while(|text| !text.contains(&line)).skip(1);
            told.find(|text| text.contains("heroku[worker.1]: Process exited with status")).map(str::to_owned)
        };
        // Its end may be known only after the look that found all well.
        let mut log = self.log();
        for _ in 0..100 {
            if ends(&log).is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
            log = self.log();
        }
        let status = ends(&log).unwrap_or_else(|| panic!("after {after}: no end of {dyno_id} in\n{log}"));
        assert!(log.contains(&last) || log.contains(DROPPED), "after {after}: no last line in\n{log}");
        assert!(status.ends_with("status 7"), "after {after}: {status}");
        // The first crash is answered at once; a restart lets the next one be the first again.
        let before = self.id_of("worker.1");
        assert_eq!(self.node.call("DELETE", "/apps/live/formations/worker", "").0, 202);
        self.node.wait_for("another worker", || self.dynos().is_ok_and(|dynos| dynos["worker.1"] != before));
    }

    fn stop(self) {
        let Self { node, ledger, .. } = self;
        drop(ledger);
        node.stop();
    }
}

/// Whether a process has a handler for SIGUSR1, the tenth signal.
fn catches_usr1(pid: &i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigCgt:")?.trim(), 16).ok());
    caught.is_some_and(|caught| caught & (1 << 9) != 0)
}

/// A build (2.5 GB), or five dynos of 512 MB, and a little.
const ALLOTTED_MB: f64 = 2600.0;

fn machine_memory_mb() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").expect("every Linux has it");
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    kilobytes.and_then(|number| number.parse::<f64>().ok()).expect("a number of kB") / 1024.0
}

#[test]
fn nothing_is_lost_whoever_is_killed() {
    let share = ALLOTTED_MB / machine_memory_mb();
    let arguments = vec!["--memory-overcommit".to_owned(), share.to_string()];
    let mut patient = Patient::new(NodeOptions { arguments, ..NodeOptions::default() });
    let scale = patient.node.run("heroku ps:scale web=5 -a live");
    assert!(scale.status != 0 && scale.text.contains("Cannot scale web to 5"), "{}", scale.text);
    let push = patient.node.run("cd live && git commit -q --allow-empty -m more && git push heroku main");
    assert!(push.status != 0 && push.text.contains("no room for a build"), "{}", push.text);
    patient.check("what there is no memory for");

    let worker = patient.id_of("worker.1");
    let once = r#"{"command":"sleep 5; echo done while nobody listened; exit 9","attach":false}"#;
    let (status, one_off) = patient.node.call("POST", "/apps/live/dynos", once);
    assert_eq!(status, 201, "{one_off}");
    let one_off_id = one_off["id"].as_str().expect("an id").to_owned();
    patient.node.wait_for("the one-off's start", || !patient.node.processes_of(&one_off_id).is_empty());
    patient.node.kill_control_for_good();
    patient.end_worker(&worker);
    let record = patient.node.data.join("dynos").join(&one_off_id).join("exit.json");
    patient.node.wait_for("the end of the one-off", || record.exists());
    assert_eq!(patient.node.status_of("live"), "200", "requests go on without control");
    patient.node.wake_supervisor();
    patient.check("the end of control");
    patient.assert_end_recorded(&worker, "the end of control");
    let log = patient.log();
    let name = one_off["name"].as_str().expect("a name");
    assert_eq!(log.matches(&format!("app[{name}]: done while nobody listened")).count(), 1, "{log}");
    assert!(log.contains(&format!("heroku[{name}]: Process exited with status 9")), "{log}");

    let before = patient.dynos();
    patient.node.kill_process("router");
    patient.check("the end of the router");
    assert_eq!(patient.dynos(), before, "the router's end is none of theirs");

    for victim in ["web.1", "worker.1"].map(|name| patient.id_of(name)) {
        patient.node.kill_dyno_init(&victim);
    }
    patient.node.wait_for("the end of their dynos", || patient.dynos() != before);
    patient.check("the end of two dyno-inits");

    let before = patient.dynos();
    patient.node.kill_supervisor();
    patient.node.start_again();
    patient.check("the end of the supervisor");
    assert_eq!(patient.dynos(), before, "the supervisor's end is none of theirs");

    patient.node.kill_everything();
    patient.node.start_again();
    patient.check("the end of everything");

    let worker = patient.id_of("worker.1");
    patient.node.kill_control_for_good();
    patient.end_worker(&worker);
    patient.node.reboot();
    patient.node.start_again();
    patient.check("a reboot");
    patient.assert_end_recorded(&worker, "a reboot");

    patient.node.stop_supervisor();
    patient.node.start_again();
    patient.check("an orderly end");
    patient.stop();
}

/// Another program holds the store's write lock for so many seconds.
const LOCK: &str = "exec python3 -c 'import sqlite3, sys, time
store = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
store.execute(sys.argv[2])
open(\"locked\", \"w\").close()
time.sleep(6)
store.rollback()' \"$STORE\" ";

#[test]
fn a_store_that_is_locked_for_seconds_makes_answers_late_and_loses_nothing() {
    let patient = Patient::new(NodeOptions::default());
    let store = patient.node.data.join("ferroku.sqlite").display().to_string();
    for (kind, kill) in [("BEGIN IMMEDIATE", false), ("BEGIN EXCLUSIVE", true)] {
        let mut lock =
            patient.node.shell(&format!("STORE='{store}'; {LOCK}'{kind}'")).spawn().expect("bash runs");
        let locked = patient.node.work.join("locked");
        patient.node.wait_for("the lock", || locked.exists());
        fs::remove_file(&locked).expect("it is there");
        let worker = patient.id_of("worker.1");
        if kill {
            patient.node.kill_process("control");
        }
        patient.end_worker(&worker);
        assert_eq!(patient.node.status_of("live"), "200");
        assert_eq!(patient.node.call("GET", "/apps/live/config-vars", "").0, 200, "reading needs no lock");
        let (status, answer) = patient.node.call("PATCH", "/apps/ledger/config-vars", r#"{"LATE":"1"}"#);
        assert!(status == 200 || status == 503 && answer["id"] == "service_unavailable", "{status} {answer}");
        lock.wait().expect("our own child");
        patient.check(kind);
        patient.assert_end_recorded(&worker, kind);
    }
    let ends = patient.node.log().matches("the control process ended").count();
    assert_eq!(ends, 1, "only the one that was killed:\n{}", patient.node.log());
    patient.stop();
}

/// Above what a node keeps free for running apps before it takes a push, and quickly filled.
const DISK_BYTES: u64 = 768 << 20;
/// A value that the store's log has no room for somewhen.
const LARGE_BYTES: usize = 30_000;

/// Changes `ledger` until one is refused; gives the answer.
fn until_refused(node: &TestNode) -> (u16, Value) {
    for number in 0..300 {
        let large = format!(r#"{{"LARGE":"{number}{}"}}"#, "x".repeat(LARGE_BYTES));
        let (status, answer) = node.call("PATCH", "/apps/ledger/config-vars", &large);
        if status != 200 {
            return (status, answer);
        }
    }
    panic!("300 large changes found room on a full disk");
}

#[test]
fn a_disk_without_room_or_inodes_refuses_clearly_and_all_goes_on_once_there_is_room() {
    let patient = Patient::new(NodeOptions { disk_bytes: Some(DISK_BYTES), ..NodeOptions::default() });
    let node = &patient.node;
    let disk = node.disk.as_ref().expect("asked for");
    for what in ["room", "inodes"] {
        if what == "room" {
            disk.fill(0);
            let (status, answer) = until_refused(node);
            let message = answer["message"].as_str().unwrap_or_default();
            assert_eq!(status, 503, "{answer}");
            assert!(message.contains("disk is full") && message.contains("nothing was changed"), "{answer}");
        } else {
            disk.fill_inodes();
            assert_eq!(node.call("PATCH", "/apps/ledger/config-vars", r#"{"SMALL":"1"}"#).0, 200);
        }
        let push = node.run("cd live && git commit -q --allow-empty -m more && git push heroku main");
        assert!(push.status != 0 && push.text.contains("The node's disk is full"), "{}", push.text);
        let (status, answer) = node.call("POST", "/apps/live/dynos", r#"{"command":"ls","attach":false}"#);
        assert_eq!(status, 503, "{what}: {answer}");
        assert!(answer["message"].as_str().is_some_and(|text| text.contains("disk is full")), "{answer}");
        assert!(patient.log().contains("app[worker.1]: line "), "logs are still shown");
        assert_eq!(node.status_of("live"), "200");
        let worker = patient.id_of("worker.1");
        patient.end_worker(&worker);
        node.kill_process("control");
        node.kill_process("router");
        node.wait_until_up("live");
        match what {
            "room" => disk.empty(),
            _ => {
                let waits = |dyno: &Value| dyno["state"] == "waiting for disk";
                node.wait_for("a worker that waits for the disk", || {
                    node.get("/apps/live/dynos").as_array().is_some_and(|all| all.iter().any(waits))
                });
                disk.empty_inodes();
            }
        }
        patient.check(what);
        patient.assert_end_recorded(&worker, what);
        node.run("cd live && git push heroku main").succeeded();
        patient.check("the push after it");
    }
    patient.stop();
}

/// Debian's libfaketime: shifts the clock of what is linked dynamically, so of all processes of a node but its dynos.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[test]
fn a_clock_that_jumps_by_days_stops_nothing_and_holds_nothing_up() {
    assert!(
        fs::exists(FAKETIME).unwrap_or(false),
        "{FAKETIME} is missing; scripts/setup.sh test installs it"
    );
    let folder = tempfile::tempdir().expect("a temporary folder");
    let offset = folder.path().join("offset");
    let jump = |days: &str| {
        // Replaced whole: it is read at every look at the clock.
        let next = folder.path().join("next");
        fs::write(&next, days).and_then(|()| fs::rename(&next, &offset)).expect("our own folder");
    };
    jump("+0d");
    let environment = [
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().expect("a temporary path is text")),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let patient = Patient::new(NodeOptions { environment, ..NodeOptions::default() });
    let node = &patient.node;
    for (days, restarted) in [("+3d", false), ("-4d", false), ("+9d", true), ("-2d", true)] {
        let after = format!("a jump to {days}");
        let before = patient.dynos();
        jump(days);
        if restarted {
            node.kill_process("control");
        }
        let set = format!(r#"{{"JUMPED":"{days}"}}"#);
        assert_eq!(node.call("PATCH", "/apps/ledger/config-vars", &set).0, 200);
        patient.check(&after);
        assert_eq!(patient.dynos(), before, "{after}: no dyno was stopped");
        let shown = node.get("/apps/ledger")["updated_at"].as_str().unwrap_or_default().to_owned();
        assert!(!shown.is_empty());
        // A deploy's whole way, drains and stops among it, takes what it takes.
        assert_eq!(node.call("DELETE", "/apps/live/dynos", "").0, 202);
        node.wait_for("new dynos", || patient.dynos().is_ok_and(|dynos| Ok(dynos) != before));
        patient.check(&after);
        let (status, one_off) =
            node.call("POST", "/apps/live/dynos", r#"{"command":"exit 5","attach":false}"#);
        assert_eq!(status, 201, "{one_off}");
        let ended =
            format!("heroku[{}]: Process exited with status 5", one_off["name"].as_str().unwrap_or_default());
        node.wait_for("a one-off's end", || patient.log().contains(&ended));
    }
    patient.stop();
}
