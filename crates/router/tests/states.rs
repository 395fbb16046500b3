//! What a table says of an app beyond its dynos: asleep, limited, pinned; dynos that are being added; and
//! what is counted.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Answer, Control, Dyno, Node, app, held_dyno, patient, refusing};
use ferroku_core::DynoId;
use ferroku_core::protocol::router::{Asleep, LATENCY_BOUNDS_MS, RouteApp, Target, TargetState};
use ferroku_router::limits::Timeouts;
use uuid::Uuid;

fn begin(node: &Node, path: &str) -> std::thread::JoinHandle<Answer> {
    let mut stream = node.connect();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n").unwrap();
    std::thread::spawn(move || Answer::read(&mut BufReader::new(stream), false))
}

#[test]
fn a_request_wakes_a_sleeping_app_and_is_served_when_it_is_up() {
    let dyno = Dyno::saying("good morning");
    let asleep = RouteApp { asleep: true, ..app(vec![]) };
    let mut node = Node::start(vec![asleep.clone()]);
    node.control.hear(Duration::from_millis(300));
    assert!(node.control.woken.is_empty(), "nobody has asked for it");
    let held = begin(&node, "/");
    node.control.until("the app to be woken", |control| !control.woken.is_empty());
    assert_eq!(node.control.woken[0], asleep.app_id);
    // A control that comes later is told as well.
    node.control.disconnect();
    node.control = Control::connect(&node.socket());
    node.control.until("the next control to be told", |control| control.woken.contains(&asleep.app_id));
    assert!(!held.is_finished());
    node.control.publish(vec![app(vec![dyno.target("web.1")])]);
    assert_eq!(held.join().unwrap().body, "good morning");
}

/// Stands for a dyno-init: notes which sleeps it was asked to end, and says that it has.
struct Door {
    folder: tempfile::TempDir,
    woken: Arc<Mutex<Vec<u64>>>,
}

impl Door {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("wake")).unwrap();
        let woken = Arc::new(Mutex::new(Vec::new()));
        let seen = woken.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut sleep_id = [0; 8];
                if stream.read_exact(&mut sleep_id).is_ok() {
                    seen.lock().unwrap().push(u64::from_le_bytes(sleep_id));
                    let _ = stream.write_all(&[1]);
                }
            }
        });
        Self { folder, woken }
    }

    /// The dyno as it is while this sleep lasts.
    fn target(&self, dyno: &Dyno, sleep_id: u64) -> Target {
        let asleep = Asleep { wake_socket: self.folder.path().join("wake"), sleep_id };
        Target { asleep: Some(asleep), ..dyno.target("web.1") }
    }

    fn woken(&self) -> Vec<u64> {
        self.woken.lock().unwrap().clone()
    }
}

#[test]
fn a_frozen_dyno_is_woken_before_it_gets_a_request_and_once_for_each_sleep() {
    let dyno = Dyno::saying("good morning");
    let door = Door::open();
    let mut node = Node::start(vec![app(vec![door.target(&dyno, 7)])]);
    // The router itself wakes it, so that nobody else need be there.
    node.control.disconnect();
    assert_eq!(begin(&node, "/first").join().unwrap().body, "good morning");
    assert_eq!(begin(&node, "/second").join().unwrap().body, "good morning");
    assert_eq!(door.woken(), [7]);
    node.control = Control::connect(&node.socket());
    // What control has not heard of yet, and the next sleep.
    node.control.publish(vec![app(vec![door.target(&dyno, 7)])]);
    assert_eq!(begin(&node, "/third").join().unwrap().status, 200);
    assert_eq!(door.woken(), [7]);
    node.control.publish(vec![app(vec![door.target(&dyno, 8)])]);
    assert_eq!(begin(&node, "/fourth").join().unwrap().status, 200);
    assert_eq!(door.woken(), [7, 8]);
}

#[test]
fn a_dyno_that_is_put_to_sleep_while_it_answers_is_kept_awake() {
    let (dyno, release) = held_dyno();
    let door = Door::open();
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let running = begin(&node, "/");
    dyno.wait_for_heads(1);
    node.control.publish(vec![app(vec![door.target(&dyno, 3)])]);
    // Control freezes as soon as it knows that this table is served: by then the dyno has been woken.
    assert_eq!(door.woken(), [3]);
    release.store(true, Ordering::SeqCst);
    assert_eq!(running.join().unwrap().status, 200);
}

#[test]
fn of_a_dyno_that_cannot_be_woken_control_is_told_and_the_next_table_decides() {
    let dyno = Dyno::saying("another one");
    let mut gone = dyno.target("web.1");
    gone.asleep = Some(Asleep { wake_socket: "/nonexistent/wake".into(), sleep_id: 1 });
    let mut node = Node::start(vec![app(vec![gone.clone()])]);
    let held = begin(&node, "/");
    node.control.until("control to be told", |control| !control.woken.is_empty());
    assert!(dyno.heads.lock().unwrap().is_empty() && !held.is_finished());
    node.control.publish(vec![app(vec![dyno.target("web.1")])]);
    assert_eq!(held.join().unwrap().body, "another one");

    let timeouts = Timeouts { boot: Duration::from_millis(500), ..patient() };
    let mut node = Node::start_with(timeouts, vec![app(vec![gone])]);
    assert_eq!(begin(&node, "/late").join().unwrap().status, 503);
    assert!(node.control.line("/late").starts_with("at=error code=H20 "));
}

#[test]
fn an_app_with_a_limit_of_its_own_answers_h11_beyond_it() {
    let (dyno, release) = held_dyno();
    let limited = RouteApp { max_requests: Some(2), ..app(vec![dyno.target("web.1")]) };
    let mut node = Node::start(vec![limited.clone()]);
    let running: Vec<_> = (0..2).map(|number| begin(&node, &format!("/{number}"))).collect();
    dyno.wait_for_heads(2);
    assert_eq!(begin(&node, "/over").join().unwrap().status, 503);
    let line = node.control.line("/over");
    assert!(line.starts_with("at=error code=H11 desc=\"Backlog too deep\" "), "{line}");
    release.store(true, Ordering::SeqCst);
    for running in running {
        assert_eq!(running.join().unwrap().status, 200);
    }
    // Those that wait for a dyno count too.
    node.control.publish(vec![RouteApp { booting: true, targets: vec![], ..limited }]);
    let held: Vec<_> = (0..2).map(|number| begin(&node, &format!("/held-{number}"))).collect();
    node.report(|report| report.apps.iter().any(|app| app.open_requests == 2));
    assert_eq!(begin(&node, "/one-more").join().unwrap().status, 503);
    assert!(node.control.line("/one-more").contains("code=H11"));
    node.control.publish(vec![app(vec![dyno.target("web.1")])]);
    for held in held {
        assert_eq!(held.join().unwrap().status, 200);
    }
}

#[test]
fn a_client_stays_with_the_dyno_that_its_cookie_names_for_as_long_as_there_is_one() {
    let dynos = [Dyno::saying("0"), Dyno::saying("1"), Dyno::saying("2")];
    let targets = |dynos: &[Dyno]| dynos.iter().map(|dyno| dyno.target("web.1")).collect();
    let pinned = RouteApp { session_affinity: true, ..app(targets(&dynos)) };
    let mut node = Node::start(vec![pinned.clone()]);
    let get = |node: &Node, cookie: &str| {
        node.send(&format!(
            "GET / HTTP/1.1\r\nHost: shop.localhost\r\nCookie: a=b; {cookie}\r\nConnection: close\r\n\r\n"
        ))
    };
    let first = get(&node, "c=d");
    let cookie = first.header("set-cookie").unwrap().to_owned();
    assert!(cookie.starts_with("heroku-session-affinity=") && cookie.contains("; HttpOnly"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    for _ in 0..20 {
        let next = get(&node, cookie);
        assert_eq!(next.body, first.body);
        assert_eq!(next.header("set-cookie"), None, "it is pinned already");
    }
    // Its dyno goes: another one answers and pins anew.
    let index: usize = first.body.parse().unwrap();
    let rest: Vec<Target> =
        pinned.targets.iter().filter(|target| target.dyno_id != dynos[index].id).cloned().collect();
    node.control.publish(vec![RouteApp { targets: rest, ..pinned.clone() }]);
    let moved = get(&node, cookie);
    assert_ne!(moved.body, first.body);
    assert_ne!(moved.header("set-cookie").unwrap().split(';').next().unwrap(), cookie);
    // Without the feature the cookie means nothing.
    node.control.publish(vec![RouteApp { session_affinity: false, ..pinned }]);
    let bodies: std::collections::BTreeSet<String> = (0..60).map(|_| get(&node, cookie).body).collect();
    assert!(bodies.len() > 1, "{bodies:?}");
    assert_eq!(get(&node, "x=y").header("set-cookie"), None);
}

fn adding(dyno_id: DynoId, address: SocketAddr) -> Target {
    Target { dyno_id, name: "web.2".into(), address, state: TargetState::Adding, asleep: None }
}

#[test]
fn a_dyno_that_is_being_added_is_probed_and_gets_nothing_before_it_is_healthy() {
    let old = Dyno::saying("old");
    // Nobody listens there, until the dyno does.
    let socket = refusing();
    let address = socket.local_addr().unwrap();
    let new = DynoId(Uuid::new_v4());
    let mut node = Node::start(vec![app(vec![old.target("web.1"), adding(new, address)])]);
    node.control.until("the first report", |control| !control.probed.is_empty());
    let report = node.control.probed[0].clone();
    assert!(
        report.dyno_id == new && !report.healthy && report.detail.contains("no connection"),
        "{report:?}"
    );
    for _ in 0..20 {
        assert_eq!(node.get("/").body, "old");
    }
    rustix::net::listen(&socket, 8).unwrap();
    node.control.until("the dyno to be healthy", |control| control.probed.iter().any(|one| one.healthy));
    assert_eq!(node.control.probed.len(), 2, "news only: {:?}", node.control.probed);
    assert!(node.control.drained.is_empty(), "a dyno that never served is not drained");
    // A control that missed it is told again, and a dyno that is no longer added is not probed.
    node.control.disconnect();
    node.control = Control::connect(&node.socket());
    node.control.until("the next control to be told", |control| control.probed.iter().any(|one| one.healthy));
}

#[test]
fn with_a_health_check_path_a_dyno_must_answer_well_on_it() {
    let ready = Arc::new(AtomicBool::new(false));
    let is_ready = ready.clone();
    let dyno = Dyno::answering(move |head, _| {
        assert!(head.starts_with("GET /up?deep=1 HTTP/1.1"), "{head}");
        assert_eq!(common::header(head, "host"), Some("shop.localhost"));
        let status = if is_ready.load(Ordering::SeqCst) { "302 Found" } else { "503 Service Unavailable" };
        format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")
    });
    let target = adding(dyno.id, dyno.address);
    let checked = RouteApp { health_check_path: Some("/up?deep=1".into()), ..app(vec![target]) };
    let mut node = Node::start(vec![checked]);
    node.control.until("the first report", |control| !control.probed.is_empty());
    assert_eq!(node.control.probed[0].detail, "/up?deep=1 answered 503");
    ready.store(true, Ordering::SeqCst);
    node.control.until("the dyno to be healthy", |control| control.probed.iter().any(|one| one.healthy));
    assert_eq!(node.control.probed.len(), 2);
}

#[test]
fn requests_are_counted_by_status_code_time_and_bytes() {
    let dyno = Dyno::answering(|head, body| {
        if head.starts_with("POST /slow") {
            std::thread::sleep(Duration::from_millis(60));
        }
        let status = if head.starts_with("GET /missing") { "404 Not Found" } else { "200 OK" };
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{}", body.len(), "x".repeat(body.len()))
    });
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    for request in [
        "GET / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n",
        "GET /missing HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n",
        "POST /slow HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        "GET / HTTP/1.1\r\nHost: shop.localhost\r\nExpect: cake\r\nConnection: close\r\n\r\n",
    ] {
        node.send(request);
    }
    let open = node.connect();
    node.control.until("every record", |control| control.records.len() == 4);
    // The last connection may still wait to be accepted.
    let report = node.report(|report| report.accepted_connections >= 5);
    assert_eq!(report.instance, node.control.instance);
    assert!(report.open_connections >= 1 && report.accepted_connections == 5, "{report:?}");
    let [app] = report.apps.as_slice() else { panic!("{report:?}") };
    assert_eq!(app.statuses, [0, 2, 0, 2, 0]);
    assert_eq!(app.failures, [("H26".to_owned(), 1)].into());
    assert_eq!((app.bytes_in, app.bytes_out, app.open_requests), (5, 5, 0));
    assert_eq!(app.latency_counts.len(), LATENCY_BOUNDS_MS.len() + 1);
    assert_eq!(app.latency_counts.iter().sum::<u64>(), 4);
    let beyond_50 = LATENCY_BOUNDS_MS.iter().position(|bound| *bound == 50).unwrap() + 1;
    assert!(app.latency_counts[beyond_50..].iter().sum::<u64>() >= 1 && app.latency_sum_ms >= 60, "{app:?}");
    drop(open);
}
