//! `kill -9` of every process, and at every named point: nothing acknowledged is lost, and what was under way can be
//! done again.

use ferroku_server::crash_point;
use ferroku_testkit::requests::{call, expect_status};
use ferroku_testkit::{NodeOptions, TestNode};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How often a command that met a crash is tried again before that counts as a loss.
const TRIES: u32 = 600;

/// Runs a command until it succeeds: the crash that is tested may hit it, once.
fn until_done(node: &TestNode, line: &str) {
    let mut last = String::new();
    for _ in 0..TRIES {
        let output = node.run_unchecked(line);
        if output.status == 0 {
            return;
        }
        last = output.text;
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("`{line}` never succeeded; the last time it said:\n{last}\nand the node:\n{}", node.log());
}

fn web_ids(node: &TestNode, app: &str) -> String {
    let line = format!(
        "heroku ps -a {app} --json | python3 -c 'import json,sys; print(sorted(d[\"id\"] for d in json.load(sys.stdin)))'"
    );
    node.run_unchecked(&line).succeeded().text
}

#[test]
fn dynos_and_requests_survive_a_kill_of_each_process() {
    let mut node = TestNode::start();
    node.make_app("steady");
    node.run("cd steady && git push heroku main").succeeded();
    node.wait_until_up("steady");
    let dynos = web_ids(&node, "steady");

    let control = node.pid_of("control").expect("it runs");
    node.kill_process("control");
    assert_ne!(node.pid_of("control"), Some(control));
    assert_eq!(web_ids(&node, "steady"), dynos, "control was killed");
    assert_eq!(node.status_of("steady"), "200");

    node.kill_process("router");
    node.wait_until_up("steady");
    assert_eq!(web_ids(&node, "steady"), dynos, "the router was killed");

    let (control, router) = (node.pid_of("control"), node.pid_of("router"));
    node.kill_supervisor();
    assert_eq!(node.status_of("steady"), "200", "nobody needs the supervisor to serve");
    node.run("heroku config:set WITHOUT=supervisor -a steady").succeeded();
    node.start_again();
    assert_eq!((node.pid_of("control"), node.pid_of("router")), (control, router), "both are adopted");
    node.wait_for("the dyno of the new release, alone", || {
        let all = node.get("/apps/steady/dynos");
        all.as_array()
            .is_some_and(|all| all.len() == 1 && all[0]["state"] == "up" && all[0]["release"]["version"] == 4)
    });

    let dynos = web_ids(&node, "steady");
    let data = node.data.display().to_string();
    let program = ferroku_testkit::node::program();
    node.run(&format!("{} restart --data {data}", program.display())).succeeded();
    assert_ne!(node.pid_of("control"), control, "restart replaces control");
    assert_ne!(node.pid_of("router"), router, "restart replaces the router");
    assert_eq!(web_ids(&node, "steady"), dynos, "restart leaves dynos alone");
    assert_eq!(node.status_of("steady"), "200");
    node.stop();
}

#[test]
fn a_second_start_finds_everything_again() {
    let mut node = TestNode::start();
    node.make_app("again");
    node.run("cd again && git push heroku main && heroku config:set KEPT=yes -a again").succeeded();
    node.wait_until_up("again");
    node.stop_supervisor();
    node.start_again();
    node.wait_until_up("again");
    assert_eq!(node.run("heroku config:get KEPT -a again").succeeded().text, "yes\n");
    let log = node.run("heroku logs -n 1500 -a again").succeeded().text;
    assert!(log.contains("Set KEPT config vars"), "logs are kept over a restart:\n{log}");
    node.stop();
}

/// All that changes state, once; each step may meet the crash.
fn everyday_work(node: &TestNode, app: &str, with_garbage: bool) {
    let path = format!("/apps/{app}");
    let exists = expect_status("GET", &path, "200");
    until_done(node, &format!("{exists} || {}", call("POST", "/apps", &format!(r#"{{"name":"{app}"}}"#))));
    let change =
        |method, below: &str, body: &str| until_done(node, &call(method, &format!("{path}{below}"), body));
    node.run(&format!(
        "cp -r \"$EXAMPLES/procfile-only\" {app} && cd {app} && echo 'release: echo migrated' >>Procfile && git init -q -b main && git add . && \
         git commit -qm first && git remote add heroku \"${{HEROKU_HOST/http:/https:}}/{app}.git\""
    ))
    .succeeded();
    until_done(node, &format!("cd {app} && git push heroku main"));
    node.wait_until_up(app);
    change("PATCH", "/config-vars", r#"{"COLOUR":"green"}"#);
    change("PATCH", "/formation", r#"{"updates":[{"type":"web","quantity":2}]}"#);
    node.kill_process("control");
    change("PATCH", "/formation", r#"{"updates":[{"type":"web","quantity":1}]}"#);
    change("DELETE", "/dynos", "");
    change("POST", "/dynos", r#"{"command":"echo done","attach":false}"#);
    change("PUT", "/buildpack-installations", r#"{"updates":[]}"#);
    change("PATCH", "", r#"{"maintenance":false}"#);
    domains_and_certificates(node, app);
    node.wait_until_up(app);
    // What was acknowledged is there, however often control ended meanwhile.
    until_done(node, &format!("{} | grep -q green", call("GET", &format!("{path}/config-vars"), "")));
    until_done(node, &format!("cd {app} && git commit -q --allow-empty -m second && git push heroku main"));
    change("POST", "/releases", r#"{"release":"3"}"#);
    node.wait_until_up(app);
    if with_garbage {
        garbage(node, app);
    }
    let gone = expect_status("GET", &path, "404");
    until_done(node, &format!("{gone} || {}; {gone}", call("DELETE", &path, "")));
}

/// A slug made by hand: announced, uploaded and released, until its app answers.
fn uploaded_slug(node: &TestNode, app: &str) {
    node.run("cp -r \"$EXAMPLES/procfile-only\" app && tar czf slug.tgz ./app").succeeded();
    until_done(node, &call("POST", "/apps", &format!(r#"{{"name":"{app}"}}"#)));
    let types = r#"{"process_types":{"web":"./serve.sh"}}"#;
    until_done(node, &format!("{} >slug.json", call("POST", &format!("/apps/{app}/slugs"), types)));
    let field =
        |path: &str| format!(r#"$(python3 -c "import json; print(json.load(open('slug.json')){path})")"#);
    let put = format!(
        "curl -sS --fail-with-body -m 60 -X PUT --data-binary @slug.tgz \"{}\"",
        field("['blob']['url']")
    );
    until_done(node, &put);
    let body = format!("printf '{{\"slug\": \"%s\"}}' {} >release.json", field("['id']"));
    node.run(&body).succeeded();
    until_done(node, &call("POST", &format!("/apps/{app}/releases"), "@release.json"));
    node.wait_until_up(app);
    assert_eq!(node.status_of(app), "200");
}

/// More releases than are kept, and what they leave removed.
fn garbage(node: &TestNode, app: &str) {
    for number in 0..3 {
        let push =
            format!("echo {number} >number && git add . && git commit -qm {number} && git push heroku main");
        let is_there = r#"[ "$(git ls-remote heroku main | cut -f1)" = "$(git rev-parse HEAD)" ]"#;
        until_done(node, &format!("cd {app} && {{ {push} || git push heroku main; {is_there}; }}"));
    }
    // The newest three stay, the current one among them, and what a dyno that drains still runs.
    node.wait_for("the older slugs to go", || {
        until_done(node, &call("POST", "/admin/garbage", ""));
        fs::read_dir(node.data.join("slugs")).expect("there").count() <= 3
    });
}

/// A domain with a certificate of its owner's, automatic certificates on and off, and all of it removed again.
fn domains_and_certificates(node: &TestNode, app: &str) {
    let domains = format!("/apps/{app}/domains");
    let domain = format!("{domains}/www.example.com");
    let endpoints = format!("/apps/{app}/sni-endpoints");
    let there = expect_status("GET", &domain, "200");
    let add = call("POST", &domains, r#"{"hostname":"www.example.com"}"#);
    until_done(node, &format!("{there} || {add}; {there}"));
    until_done(node, &call("PATCH", &domain, r#"{"sni_endpoint":null}"#));
    node.run_unchecked(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 9 -subj /CN=www.example.com \
         -addext subjectAltName=DNS:www.example.com -keyout key.pem -out chain.pem 2>/dev/null && \
         python3 -c 'import json; print(json.dumps({\"certificate_chain\": open(\"chain.pem\").read(), \"private_key\": open(\"key.pem\").read()}))' >body.json",
    )
    .succeeded();
    let names = format!(
        "names=$({}) && names=$(printf %s \"$names\" | python3 -c 'import json,sys; print(*[one[\"name\"] for one in json.load(sys.stdin)])')",
        call("GET", &endpoints, "")
    );
    until_done(node, &call("POST", &endpoints, "@body.json"));
    let each =
        |method| call(method, &format!("{endpoints}/'$name'"), "@body.json").replace("'$name'", "$name");
    until_done(node, &format!("{names} && for name in $names; do {} || exit 1; done", each("PATCH")));
    until_done(node, &call("POST", &format!("/apps/{app}/acm"), ""));
    until_done(node, &call("DELETE", &format!("/apps/{app}/acm"), ""));
    until_done(
        node,
        &format!("{names} && for name in $names; do {}; done; {names} && [ -z \"$names\" ]", each("DELETE")),
    );
    let gone = expect_status("GET", &domain, "404");
    until_done(node, &format!("{gone} || {}; {gone}", call("DELETE", &domain, "")));
}

#[test]
fn a_kill_at_each_crash_point_loses_nothing() {
    let only = std::env::var("FERROKU_CRASH_POINTS").unwrap_or_default();
    let wanted = |name: &&&str| only.is_empty() || only.split(',').any(|wanted| name.contains(wanted));
    let points: Vec<&str> = crash_point::NAMES.iter().filter(wanted).copied().collect();
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    // A node mostly waits: two at a time take little longer than one.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(name) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !comes_by(name) {
                        missed.lock().expect("no thread panics with it").insert(*name);
                    }
                }
            });
        }
    });
    let missed = missed.into_inner().expect("no thread panicked");
    assert!(missed.is_empty(), "everyday work did not come by these points: {missed:?}");
}

/// Does a day's work on a node that dies at this point once; whether it came by it.
fn comes_by(name: &str) -> bool {
    // The name of the point that a failure is about.
    let _ = writeln!(std::io::stderr(), "crash point {name}");
    let mark = tempfile::tempdir().expect("a temporary folder");
    let once = mark.path().join("hit");
    let environment = vec![
        ("FERROKU_CRASH_AT".to_owned(), name.to_owned()),
        ("FERROKU_CRASH_ONCE".to_owned(), once.display().to_string()),
        // Nobody answers there: automatic certificates can be switched on, and wait.
        ("FERROKU_ACME_DIRECTORY".to_owned(), "https://127.0.0.1:1/directory".to_owned()),
        ("FERROKU_KEEP_RELEASES".to_owned(), "1".to_owned()),
        ("FERROKU_KEEP_SLUGS_FOR".to_owned(), "1s".to_owned()),
    ];
    let node = TestNode::start_with(NodeOptions { environment, ..NodeOptions::default() });
    match name.starts_with("slug_upload.") {
        true => uploaded_slug(&node, "victim"),
        false => everyday_work(&node, "victim", name.starts_with("garbage.")),
    }
    node.stop();
    fs::exists(&once).expect("our own folder")
}

#[test]
fn ten_thousand_lines_arrive_once_over_a_kill_of_control() {
    let node = TestNode::start();
    node.make_app("talker");
    node.run("cd talker && git push heroku main").succeeded();
    node.wait_until_up("talker");
    let tail = node.work.join("tail.txt");
    let mut follower = node.shell(&format!("exec heroku logs --tail -n 1 -a talker >{}", tail.display()));
    let mut follower = follower.spawn().expect("bash runs");
    node.wait_for("the tail to begin", || fs::metadata(&tail).is_ok_and(|file| file.len() > 0));
    node.run(
        "heroku run:detached -a talker -- 'for i in $(seq 10000); do echo number $i.; [ $((i % 500)) = 0 ] && sleep 0.2; done'",
    )
    .succeeded();
    node.wait_for("the first thousand lines", || {
        fs::read_to_string(&tail).is_ok_and(|text| text.contains("number 1000."))
    });
    node.kill_process("control");
    node.wait_for("the last line", || {
        fs::read_to_string(&tail).is_ok_and(|text| text.contains("number 10000."))
    });
    let _ = follower.kill();
    let _ = follower.wait();
    let text = fs::read_to_string(&tail).expect("the tail's file");
    let numbers: Vec<u32> = text
        .lines()
        .filter_map(|line| line.split("number ").nth(1)?.trim_end_matches('.').parse().ok())
        .collect();
    let expected: Vec<u32> = (1..=10_000).collect();
    let seen: BTreeSet<u32> = numbers.iter().copied().collect();
    let missing: Vec<_> = expected.iter().filter(|number| !seen.contains(number)).take(20).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
    assert_eq!(numbers.len(), 10_000, "lines came twice");
    node.stop();
}
