//! Many dynos that have nothing to do: how long the API takes to answer beside them.

use crate::Figure;
use ferroku_testkit::{NodeOptions, TestNode};
use std::time::{Duration, Instant};

/// Apps, and workers of each.
const APPS: usize = 5;
const WORKERS: usize = 100;
const REQUESTS: usize = 200;
/// Looking costs the node something, too.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// What the start of all of them may cost is over by then.
const SETTLED: Duration = Duration::from_secs(10);

/// Measures on a node of its own.
pub fn measure() -> Vec<Figure> {
    let arguments = ["--memory-overcommit", "100"].map(str::to_owned).to_vec();
    let node = TestNode::start_with(NodeOptions { arguments, ..NodeOptions::default() });
    for app in apps() {
        node.make_app(&app);
        node.run(&format!(
            "cd {app} && echo 'worker: exec sleep 100000' >Procfile && git commit -qam idle && git push -q heroku main"
        ))
        .succeeded();
    }
    let began = Instant::now();
    for app in apps() {
        node.run(&format!("heroku ps:scale worker={WORKERS} -a {app}")).succeeded();
    }
    let wanted = APPS * WORKERS;
    node.wait_for("all workers to be up", || {
        std::thread::sleep(LOOK_AGAIN);
        up(&node) >= wanted
    });
    let started = began.elapsed().as_secs_f64();
    std::thread::sleep(SETTLED);
    let mut times: Vec<f64> = (0..REQUESTS).map(|_| answer_ms(&node)).collect();
    times.sort_by(f64::total_cmp);
    let p99 = times[times.len() * 99 / 100];
    node.stop();
    vec![
        Figure::new(format!("{wanted} workers of {APPS} apps, from ps:scale until all are up"), "s", started),
        Figure::new("API beside them: GET of an app, p99", "ms", p99).at_most(50.0),
    ]
}

fn apps() -> impl Iterator<Item = String> {
    (1..=APPS).map(|number| format!("idle{number}"))
}

/// Dynos whose first process runs, by what the node keeps for each.
fn up(node: &TestNode) -> usize {
    let line = "for n in $(seq 5); do curl -s -H \"Authorization: Bearer $HEROKU_API_KEY\" \
        -H 'Range: id ..; max=1000' \"$HEROKU_HOST/apps/idle$n/dynos\"; done | grep -o '\"state\":\"up\"' | wc -l";
    node.run_unchecked(line).text.trim().parse().unwrap_or(0)
}

/// One GET on a connection of its own, as seen by curl.
fn answer_ms(node: &TestNode) -> f64 {
    let line = "curl -s -o /dev/null -w '%{time_total}' -H \"Authorization: Bearer $HEROKU_API_KEY\" \"$HEROKU_HOST/apps/idle1\"";
    let text = node.run_unchecked(line).text;
    let seconds: f64 = text.trim().parse().expect("curl says how long it took");
    seconds * 1000.0
}
