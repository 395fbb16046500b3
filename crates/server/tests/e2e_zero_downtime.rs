//! Under load nothing that an owner or an administrator does fails a request, and a release that has been replaced
//! does not answer again.
//!
//! Four clients run through each change: `wrk` over kept connections; one that asks over a new connection each time
//! and looks at the release; one that sends 1 MB slowly; one with a kept connection that is idle meanwhile.

mod traffic {
    pub mod clients;
}

use ferroku_testkit::TestNode;
use std::time::{Duration, Instant};
use traffic::clients::{Asking, Idle, Uploading, Wrk, ask};

/// The app's source.
const APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/apps/releases");
/// How long the load goes on after a change is to be seen, so that what it leaves behind meets requests too: until
/// drained dynos are gone.
const AFTERWARDS: Duration = Duration::from_secs(3);

fn start() -> TestNode {
    let node = TestNode::start();
    node.run("heroku create steady --no-remote").succeeded();
    node.run(&format!(
        "cp -r '{APP}' steady && cd steady && git init -q -b main && git add . && git commit -qm first && \
         heroku git:remote -a steady && git push heroku main && heroku ps:scale web=2 -a steady"
    ))
    .succeeded();
    node.wait_for("both dynos", || up(&node) == 2);
    node
}

/// How many web dynos are up.
fn up(node: &TestNode) -> usize {
    let line = "curl -s -H \"Authorization: Bearer $HEROKU_API_KEY\" \"$HEROKU_HOST/apps/steady/dynos\"";
    let dynos: serde_json::Value = serde_json::from_str(&node.run_unchecked(line).text).unwrap_or_default();
    let is_up = |dyno: &&serde_json::Value| dyno["type"] == "web" && dyno["state"] == "up";
    dynos.as_array().map_or(0, |dynos| dynos.iter().filter(is_up).count())
}

/// Runs `change` under load; then `is_done` must become true. Whether the idle connection may have been closed.
fn under_load(
    node: &mut TestNode,
    what: &str,
    may_close_idle: bool,
    change: impl FnOnce(&mut TestNode),
    is_done: impl Fn(&TestNode) -> bool,
) {
    let router = node.router;
    let mut idle = Idle::open(router);
    let wrk = Wrk::start(router);
    let (asking, uploading) = (Asking::start(router), Uploading::start(router));
    asking.wait_for_more(20);
    change(node);
    node.wait_for(what, || is_done(node));
    std::thread::sleep(AFTERWARDS);
    asking.wait_for_more(20);
    let mut failures = Vec::new();
    failures.extend(asking.finish());
    failures.extend(uploading.finish());
    failures.extend(idle.ask_again(may_close_idle));
    failures.extend(wrk.finish());
    assert!(failures.is_empty(), "{what}:\n{}\nthe node said:\n{}", failures.join("\n"), node.log());
}

/// The release that answers now.
fn release(node: &TestNode) -> u32 {
    ask(node.router).expect("the app answers").0
}

#[test]
fn no_change_of_an_app_fails_a_request() {
    let mut node = start();
    let run = |line: &'static str| move |node: &mut TestNode| drop(node.run(line).succeeded());
    let goes_beyond = |before: u32| move |node: &TestNode| release(node) > before;

    let before = release(&node);
    let push = run("cd steady && git commit -q --allow-empty -m second && git push heroku main");
    under_load(&mut node, "a deploy", false, push, goes_beyond(before));

    let set = run("heroku config:set COLOUR=green -a steady");
    under_load(&mut node, "a config change", false, set, |node| {
        ask(node.router).is_ok_and(|(_, text)| text == "green")
    });

    under_load(&mut node, "a scale-up", false, run("heroku ps:scale web=4 -a steady"), |node| up(node) == 4);
    under_load(&mut node, "a scale-down", false, run("heroku ps:scale web=2 -a steady"), |node| {
        up(node) == 2
    });

    let dynos = web_ids(&node);
    let restarted = move |node: &TestNode| {
        let now = web_ids(node);
        now.len() == 2 && now.iter().all(|dyno| !dynos.contains(dyno)) && up(node) == 2
    };
    under_load(&mut node, "a restart", false, run("heroku ps:restart -a steady"), restarted);

    let before = release(&node);
    under_load(&mut node, "a rollback", false, run("heroku rollback v3 -a steady"), goes_beyond(before));
    assert_eq!(ask(node.router).expect("the app answers").1, "none", "the old config vars are back");
    node.stop();
}

#[test]
fn no_change_of_the_node_fails_a_request() {
    let mut node = start();
    for round in 1..=2 {
        let (router, control) = (node.pid_of("router"), node.pid_of("control"));
        let upgrade = |node: &mut TestNode| {
            let program = ferroku_testkit::node::program();
            node.run(&format!("{} restart --data {}", program.display(), node.data.display())).succeeded();
        };
        let replaced =
            move |node: &TestNode| node.pid_of("router") != router && node.pid_of("control") != control;
        // The leaving router closes idle connections, which clients must expect of any server.
        under_load(&mut node, &format!("upgrade {round} of router and control"), true, upgrade, replaced);
    }

    let kill = |node: &mut TestNode| node.kill_process("control");
    under_load(&mut node, "a killed control", false, kill, |_| true);

    let restart = |node: &mut TestNode| {
        node.kill_supervisor();
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(1) {
            assert!(ask(node.router).is_ok(), "nobody needs the supervisor to serve");
        }
        node.start_again();
    };
    under_load(&mut node, "a restart of the server", false, restart, |node| up(node) == 2);
    node.stop();
}

/// The ids of the web dynos.
fn web_ids(node: &TestNode) -> Vec<String> {
    let line = "curl -s -H \"Authorization: Bearer $HEROKU_API_KEY\" \"$HEROKU_HOST/apps/steady/dynos\"";
    let dynos: serde_json::Value = serde_json::from_str(&node.run_unchecked(line).text).unwrap_or_default();
    let id = |dyno: &serde_json::Value| dyno["id"].as_str().unwrap_or_default().to_owned();
    dynos.as_array().map(|dynos| dynos.iter().map(id).collect()).unwrap_or_default()
}
