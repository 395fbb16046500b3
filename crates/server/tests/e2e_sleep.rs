//! An app that nobody asks for is frozen, later stopped, and answers the next request, whatever else has been killed.

use ferroku_testkit::{NodeOptions, TestNode};
use std::time::Instant;

/// A master with workers, and a worker process besides.
const APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/apps/sleeper");
/// Shorter than its slow request takes.
const IDLE_AFTER: &str = "--idle-after=3s";

fn start() -> TestNode {
    let arguments = vec![IDLE_AFTER.to_owned(), "--eco-hours=1000".to_owned()];
    let node = TestNode::start_with(NodeOptions { arguments, ..NodeOptions::default() });
    assert_eq!(node.call("POST", "/apps", r#"{"name":"sleeper"}"#).0, 201);
    node.run(&format!(
        "cp -r '{APP}' sleeper && cd sleeper && git init -q -b main && git add . && git commit -qm first && \
         heroku git:remote -a sleeper && git push heroku main"
    ))
    .succeeded();
    let eco = r#"{"updates":[{"type":"web","size":"eco"},{"type":"worker","quantity":1,"size":"eco"}]}"#;
    assert_eq!(node.call("PATCH", "/apps/sleeper/formation", eco).0, 200);
    node
}

/// Name, state and id of each dyno.
fn dynos(node: &TestNode) -> Vec<[String; 3]> {
    let all = node.get("/apps/sleeper/dynos");
    let text = |dyno: &serde_json::Value, field: &str| dyno[field].as_str().unwrap_or_default().to_owned();
    let each = all.as_array().into_iter().flatten();
    each.map(|dyno| ["name", "state", "id"].map(|field| text(dyno, field))).collect()
}

fn wait_until_all(node: &TestNode, state: &str) {
    node.wait_for(&format!("web.1 and worker.1 to be {state}"), || {
        let dynos = dynos(node);
        dynos.len() == 2 && dynos.iter().all(|dyno| dyno[1] == state)
    });
}

/// Asks for a path: the number of the master that answered.
fn ask(node: &TestNode, path: &str) -> String {
    let line = format!(
        "curl -sS -m 80 --fail-with-body -H 'Host: sleeper.localhost' http://127.0.0.1:$ROUTER_PORT{path}"
    );
    let answer = node.run_unchecked(&line).succeeded().text;
    answer.split_whitespace().next().unwrap_or_default().to_owned()
}

fn log(node: &TestNode) -> String {
    let session = node.call("POST", "/apps/sleeper/log-sessions", r#"{"lines":1500}"#).1;
    node.run_unchecked(&format!("curl -sS '{}'", session["logplex_url"].as_str().unwrap_or_default())).text
}

/// What the log says since web.1 fell asleep last.
fn log_since_sleep(node: &TestNode) -> String {
    log(node).rsplit("heroku[web.1]: Idling").next().unwrap_or_default().to_owned()
}

fn signal(pid: i32, signal: &str) {
    let status = std::process::Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
    assert!(status.is_ok_and(|status| status.success()));
}

#[test]
fn an_idle_app_is_frozen_then_stopped_and_each_request_wakes_it() {
    let mut node = start();
    node.wait_until_up("sleeper");
    wait_until_all(&node, "up");
    let master = ask(&node, "/");

    wait_until_all(&node, "idle");
    let asleep = dynos(&node);
    let ps = node.run("heroku ps -a sleeper").succeeded().text;
    assert!(ps.contains("web.1: idle ") && ps.contains("worker.1: idle "), "{ps}");
    assert!(ps.contains("Eco dyno hours quota remaining this month: 999h 5"), "{ps}");
    assert!(ps.contains("Eco dyno usage for this app: 0h "), "{ps}");
    let begun = Instant::now();
    assert_eq!(ask(&node, "/"), master, "the processes that were frozen");
    println!("answered from frozen after {:?}, curl's start included", begun.elapsed());
    wait_until_all(&node, "up");
    let ids = |dynos: Vec<[String; 3]>| dynos.into_iter().map(|[name, _, id]| (name, id)).collect::<Vec<_>>();
    assert_eq!(ids(asleep), ids(dynos(&node)));
    // A row says so before the log does.
    for line in [
        "heroku[web.1]: Idling",
        "heroku[web.1]: State changed from up to down",
        "heroku[worker.1]: Idling",
        "heroku[web.1]: Unidling",
        "heroku[web.1]: State changed from down to up",
    ] {
        node.wait_for(line, || log(&node).contains(line));
    }
    assert!(!log_since_sleep(&node).contains("SIGTERM"), "frozen, not stopped:\n{}", log(&node));

    // One after the other, so that nothing but the second request can keep it awake until that is answered.
    let urls = ["begin", "slow"].map(|path| format!("http://127.0.0.1:{}/{path}", node.router.port()));
    node.run_unchecked(&format!("curl -sS -m 80 --fail -H 'Host: sleeper.localhost' {}", urls.join(" ")))
        .succeeded();
    node.wait_for("the record of the slow request", || log(&node).contains("path=\"/slow\""));
    let lines = log(&node);
    let during = lines.split("path=\"/begin\"").nth(1).and_then(|rest| rest.split("path=\"/slow\"").next());
    assert!(
        during.is_some_and(|during| !during.contains("Idling")),
        "an open request keeps it awake:\n{lines}"
    );

    wait_until_all(&node, "idle");
    let inside = node.run("heroku run:inside web.1 -a sleeper -- 'echo $DYNO is awake'").succeeded().text;
    assert!(inside.contains("web.1 is awake"), "{inside}");
    it_wakes_while_others_are_away(&mut node, &master);
    assert!(!log(&node).contains(" hangs"), "a master has killed its workers:\n{}", log(&node));
    it_is_stopped_when_memory_is_short(&node);
    node.stop();
}

/// The control that it leaves behind finds memory short at any time.
fn it_wakes_while_others_are_away(node: &mut TestNode, master: &str) {
    wait_until_all(node, "idle");
    let control = node.pid_of("control").expect("it runs");
    signal(control, "STOP");
    let answer = ask(node, "/");
    signal(control, "CONT");
    assert_eq!(answer, master, "the router alone has woken it");
    wait_until_all(node, "up");

    wait_until_all(node, "idle");
    let asleep = dynos(node);
    node.kill_process("control");
    node.kill_process("router");
    node.kill_supervisor();
    node.start_again();
    assert_eq!(dynos(node), asleep, "it sleeps on");
    assert_eq!(ask(node, "/"), master);

    // The next control finds memory short.
    node.kill_supervisor();
    node.set_environment(vec![("FERROKU_STOP_IDLE_BELOW".to_owned(), "100".to_owned())]);
    node.start_again();
    node.kill_process("control");
}

fn it_is_stopped_when_memory_is_short(node: &TestNode) {
    node.wait_for("the end of both", || {
        let since = log_since_sleep(node);
        let ended = |name: &&str| since.contains(&format!("heroku[{name}]: Process exited with status"));
        ["web.1", "worker.1"].iter().all(ended)
    });
    wait_until_all(node, "idle");
    assert!(!ask(node, "/").is_empty());
    let since = log_since_sleep(node);
    let expected = [
        "Stopping all processes with SIGTERM",
        "Process exited with status",
        "Unidling",
        "State changed from down to starting",
        "State changed from starting to up",
    ];
    let places: Vec<_> = expected.iter().map(|text| since.find(&format!("heroku[web.1]: {text}"))).collect();
    assert!(places.is_sorted() && places.iter().all(Option::is_some), "{places:?}:\n{since}");
    // What sleeps, however deep, does not hold up the node's end.
    wait_until_all(node, "idle");
}
