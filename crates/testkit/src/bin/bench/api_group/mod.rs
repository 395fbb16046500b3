//! The group `api`: how fast the API answers on a node of 10,000 apps, and how much memory control takes there.
//!
//! `wrk` asks with one thread; apps and tokens take turns, and each token is of an account of its own, because an account
//! may make only so many requests an hour. A `PATCH` of config vars is a release each time, on disk before its answer.

mod fill;

use crate::Figure;
use crate::main_group::memory_megabytes;
use crate::router_group::machine::cpu_seconds;
use crate::wrk::Report;
use ferroku_testkit::postgres::TestPostgres;
use ferroku_testkit::{NodeOptions, TestNode};
use fill::{APPS, APPS_OF_LISTER, Filled, RELEASES};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One run of `wrk`.
const SECONDS: u64 = 4;
/// Runs of each row; the median counts.
const ROUNDS: usize = 3;
/// Control looks at every app once when it starts; until it is done with that, this is the limit.
const SETTLE_LIMIT: Duration = Duration::from_secs(300);
const SETTLE_LOOK: Duration = Duration::from_secs(2);
/// Of one core: control that uses less has settled.
const SETTLED_BELOW: f64 = 0.15;

/// Measures on SQLite and, when the machine has it, on PostgreSQL.
pub fn measure() -> Vec<Figure> {
    let mut figures =
        of_store("SQLite", NodeOptions::default(), |node| fill::sqlite(&node.data.join("ferroku.sqlite")));
    if let Some(postgres) = TestPostgres::start() {
        let url = postgres.database("bench");
        let options = NodeOptions { database_url: Some(url.clone()), ..NodeOptions::default() };
        figures.extend(of_store("PostgreSQL without fsync", options, |_| fill::postgres(&url)));
    }
    figures
}

fn of_store(store: &str, options: NodeOptions, fill: impl FnOnce(&TestNode) -> fill::Fill) -> Vec<Figure> {
    let mut node = TestNode::start_with(options);
    let filled = Filled::prepare(&node);
    node.stop_supervisor();
    filled.write(&fill(&node));
    let began = Instant::now();
    node.start_again();
    let mut figures = vec![Figure::new(
        format!("{store}: start with {APPS} apps, until it serves"),
        "s",
        began.elapsed().as_secs_f64(),
    )];
    let control = node.pid_of("control").expect("it runs");
    settle(control);
    figures.push(Figure::new(
        format!("{store}: {APPS} apps of {RELEASES} releases, control settled after"),
        "s",
        began.elapsed().as_secs_f64(),
    ));
    figures.push(
        Figure::new(
            format!("{store}: control, proportional, {APPS} apps"),
            "MB",
            memory_megabytes(control, "Pss:"),
        )
        .at_most(150.0),
    );
    for connections in [1, 32] {
        let name = |what: &str| format!("{store}: {what}, {connections} conn.");
        let get = run(&node, connections, &filled.gets());
        figures.extend(times(&name("GET app"), &get, (connections == 32).then_some(5.0)));
        let list = run(&node, connections, &filled.lists());
        figures.extend(times(&name(&format!("list of {APPS_OF_LISTER} apps")), &list, None));
        let patch = run(&node, connections, &filled.patches(connections));
        figures.extend(times(&name("config PATCH"), &patch, None));
        let failed = failed(&patch);
        let rate = Figure::new(name("config PATCH") + failed, "/s", patch.requests_per_second);
        let has_target = store == "SQLite" && connections == 32 && failed.is_empty();
        figures.push(if has_target { rate.at_least(200.0) } else { rate });
    }
    figures.push(
        Figure::new(
            format!("{store}: control, proportional, after all that"),
            "MB",
            memory_megabytes(control, "Pss:"),
        )
        .at_most(150.0),
    );
    node.stop();
    figures
}

/// Behind the name of a figure that tells nothing.
fn failed(report: &Report) -> &'static str {
    if report.has_failures { " (SOME FAILED)" } else { "" }
}

fn times(name: &str, report: &Report, p99_target: Option<f64>) -> Vec<Figure> {
    let failed = failed(report);
    let p99_target = p99_target.filter(|_| failed.is_empty());
    let p99 = Figure::new(format!("{name}, p99{failed}"), "ms", report.p99_ms);
    vec![
        Figure::new(format!("{name}, p50{failed}"), "ms", report.p50_ms),
        p99_target.map_or(p99.clone(), |target| p99.at_most(target)),
    ]
}

/// Waits until control has done what it does at its start.
fn settle(control: i32) {
    let deadline = Instant::now() + SETTLE_LIMIT;
    while Instant::now() < deadline {
        let before = cpu_seconds(&[control]);
        std::thread::sleep(SETTLE_LOOK);
        if (cpu_seconds(&[control]) - before) / SETTLE_LOOK.as_secs_f64() < SETTLED_BELOW {
            return;
        }
    }
}

/// Of several runs of a script the one whose p99 is the median.
fn run(node: &TestNode, connections: usize, script: &str) -> Report {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), script).expect("our own file");
    let mut reports: Vec<Report> = (0..ROUNDS)
        .map(|_| {
            let output = Command::new("wrk")
                .args(["-t", "1", "--latency", "--timeout", "10", "-c", &connections.to_string()])
                .args(["-d", &SECONDS.to_string(), "-s"])
                .arg(file.path())
                .arg(format!("http://{}", node.api))
                .stdin(Stdio::null())
                .output()
                .expect("wrk is installed by scripts/setup.sh bench");
            let text = String::from_utf8_lossy(&output.stdout);
            Report::read(&text).unwrap_or_else(|| panic!("wrk said:\n{text}"))
        })
        .collect();
    reports.sort_by(|one, other| one.p99_ms.total_cmp(&other.p99_ms));
    reports[reports.len() / 2]
}
