//! Kill -9 of a process that writes, at any moment: no confirmed line is lost, none is there twice.
//!
//! The writer is this test binary again, told by its environment; it plays control and a dyno-init in one:
//! after a restart it sends again from a little before the last acknowledgement on.

use ferroku_core::{AppId, DynoId};
use ferroku_logplex::{Filter, LogLine, Logplex};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;
use uuid::Uuid;

const TOTAL: u64 = 10_000;
const FOLDER: &str = "FERROKU_TEST_LOG_FOLDER";
const FIRST: &str = "FERROKU_TEST_LOG_FIRST";
/// Where the child waits to be killed: a parent that gets little of the processor would be too late otherwise.
const LAST: &str = "FERROKU_TEST_LOG_LAST";

fn app() -> AppId {
    AppId(Uuid::from_u128(1))
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime")
}

/// The child; an ordinary run of the tests finds no environment and has nothing to do.
#[test]
fn writer_process() {
    let (Ok(folder), Ok(first)) = (std::env::var(FOLDER), std::env::var(FIRST)) else { return };
    let first: u64 = first.parse().expect("a number");
    let last: u64 = std::env::var(LAST).expect("set").parse().expect("a number");
    runtime().block_on(async {
        let logplex = Logplex::open(folder.into()).expect("opens");
        for sequence in first..=last.min(TOTAL) {
            let line = LogLine::new(0, "app", "web.1", format!("line {sequence}"));
            logplex.append_dyno(app(), DynoId(Uuid::from_u128(2)), sequence, line);
            if sequence % 7 == 0 || sequence == TOTAL {
                logplex.flush().await.expect("written");
                let mut out = std::io::stdout();
                writeln!(out, "ack {sequence}").and_then(|()| out.flush()).expect("the parent reads");
            }
        }
        if last < TOTAL {
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    });
}

#[test]
fn numbered_lines_are_all_there_once_whenever_the_writer_is_killed() {
    let folder = tempfile::tempdir().expect("folder");
    let logs = folder.path().join("logs");
    let mut acknowledged = 0;
    let mut kills = 0;
    while acknowledged < TOTAL {
        let kill_after = acknowledged + 100 + (kills * 137) % 900;
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "writer_process", "--nocapture"])
            .env(FOLDER, &logs)
            .env(FIRST, (acknowledged.saturating_sub(20) + 1).to_string())
            .env(LAST, (kill_after + 200).to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut killed = false;
        for line in lines {
            let line = line.expect("readable");
            let Some((_, number)) = line.split_once("ack ") else { continue };
            acknowledged = acknowledged.max(number.parse().expect("a number"));
            if acknowledged >= kill_after && !killed {
                std::thread::sleep(Duration::from_micros(kills * 211 % 1_500));
                child.kill().expect("killable");
                killed = true;
            }
        }
        child.wait().expect("ends");
        kills += u64::from(killed);
        let kept = runtime().block_on(async {
            let logplex = Logplex::open(logs.clone()).expect("opens");
            logplex.history(app(), usize::MAX, Filter::default()).await.expect("history")
        });
        let numbers: Vec<u64> = kept
            .iter()
            .map(|line| line.message.strip_prefix("line ").expect("ours").parse().expect("a number"))
            .collect();
        let written = numbers.len() as u64;
        assert!(written >= acknowledged, "{acknowledged} were confirmed, {written} are there");
        assert_eq!(numbers, (1..=written).collect::<Vec<_>>(), "after kill {kills}");
    }
    assert!(kills > 8, "only {kills} kills");
}
