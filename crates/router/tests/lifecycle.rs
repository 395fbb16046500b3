//! Tables that change under load, routers that replace each other, controls that come and go.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Answer, Control, Dyno, Node, PATIENCE, app, held_dyno, patient, start_router};
use ferroku_core::protocol::router::RouteApp;
use ferroku_router::handback::take_listeners;
use ferroku_router::limits::Timeouts;

/// Clients that send requests without pause, half of them over kept connections. A kept connection that the
/// router closed between two requests is opened again, as every HTTP client does.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn start(address: SocketAddr, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicUsize::new(0));
        let threads = (0..clients)
            .map(|number| {
                let (stop, served) = (stop.clone(), served.clone());
                std::thread::spawn(move || client(address, number % 2 == 0, number, &stop, &served))
            })
            .collect();
        Self { stop, served, threads }
    }

    fn wait_for(&self, more: usize) {
        let goal = self.served.load(Ordering::SeqCst) + more;
        let deadline = Instant::now() + PATIENCE;
        while self.served.load(Ordering::SeqCst) < goal {
            if self.threads.iter().any(JoinHandle::is_finished) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the load stands still at {} of {goal}",
                self.served.load(Ordering::SeqCst)
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many requests were served, and what went wrong.
    fn finish(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let failures = self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        (self.served.load(Ordering::SeqCst), failures)
    }
}

fn client(
    address: SocketAddr,
    keeps: bool,
    number: usize,
    stop: &AtomicBool,
    served: &AtomicUsize,
) -> Vec<String> {
    let mut failures = Vec::new();
    let mut kept: Option<BufReader<TcpStream>> = None;
    let mut count = 0;
    while !stop.load(Ordering::SeqCst) {
        count += 1;
        let reused = kept.is_some();
        let mut reader = kept.take().unwrap_or_else(|| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            BufReader::new(stream)
        });
        let close = if keeps { "" } else { "Connection: close\r\n" };
        let request = format!("GET /{number}/{count} HTTP/1.1\r\nHost: shop.localhost\r\n{close}\r\n");
        let answer = reader
            .get_mut()
            .write_all(request.as_bytes())
            .and_then(|()| Answer::try_read(&mut reader, false));
        match answer {
            Ok(answer) if answer.status == 200 => {
                served.fetch_add(1, Ordering::SeqCst);
                if keeps && answer.header("connection") != Some("close") {
                    kept = Some(reader);
                }
            }
            // The first failure is what is to be seen; going on would only hide it.
            Ok(answer) => {
                failures.push(format!("{} {}", answer.status, answer.body));
                return failures;
            }
            Err(_) if reused => count -= 1,
            Err(error) => failures.push(error.to_string()),
        }
    }
    failures
}

#[test]
fn no_request_fails_while_dynos_are_replaced_and_drained_ones_get_nothing_more() {
    let mut dynos = vec![Dyno::saying("0")];
    let mut node = Node::start(vec![app(vec![dynos[0].target("web.1")])]);
    let load = Load::start(node.address, 8);
    for round in 1..=20 {
        load.wait_for(50);
        dynos.push(Dyno::saying(&round.to_string()));
        let (old, new) = (&dynos[round - 1], &dynos[round]);
        node.control.publish(vec![app(vec![old.draining("web.1"), new.target("web.1")])]);
        let id = old.id;
        node.control.until("the old dyno to be drained", |control| control.drained.contains(&id));
        let seen = old.heads.lock().unwrap().len();
        load.wait_for(20);
        assert_eq!(old.heads.lock().unwrap().len(), seen, "a drained dyno got a request");
        // Every second time it leaves the table without having been named as draining again.
        if round % 2 == 0 {
            node.control.publish(vec![app(vec![new.target("web.1")])]);
        }
    }
    let (served, failures) = load.finish();
    assert!(failures.is_empty(), "{failures:?}");
    node.control.until("every record", |control| control.records.len() == served);
    assert!(node.control.records.iter().all(|record| record.line.starts_with("at=info ")));
}

#[test]
fn a_dyno_that_leaves_the_table_is_reported_when_its_last_request_has_ended() {
    let (dyno, release) = held_dyno();
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    stream.write_all(b"GET /long HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    dyno.wait_for_heads(1);
    node.control.publish(vec![RouteApp { web_quantity: 0, ..app(vec![]) }]);
    node.control.hear(Duration::from_millis(100));
    assert!(node.control.drained.is_empty(), "its request still runs");
    assert_eq!(node.get("/f").status, 503);
    release.store(true, Ordering::SeqCst);
    node.control.until("the dyno to be drained", |control| control.drained == [dyno.id]);
    assert_eq!(Answer::read(&mut BufReader::new(stream), false).status, 200);
}

#[test]
fn what_is_drained_is_told_to_every_control_that_connects() {
    let dyno = Dyno::saying("ok");
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    for _ in 0..3 {
        node.control.publish(vec![app(vec![dyno.draining("web.1")])]);
        node.control.until("the dyno to be drained", |control| control.drained == [dyno.id]);
        node.control.disconnect();
        node.control = Control::connect(&node.socket());
    }
}

#[test]
fn one_router_replaces_another_and_no_request_fails_and_no_record_is_lost() {
    let dyno = Dyno::answering(|head, _| {
        if head.starts_with("GET /long") {
            std::thread::sleep(Duration::from_millis(1200));
        }
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into()
    });
    let timeouts = Timeouts { drain: PATIENCE, ..patient() };
    let mut node = Node::start_with(timeouts.clone(), vec![app(vec![dyno.target("web.1")])]);
    let load = Load::start(node.address, 8);
    let mut long = node.connect();
    let mut old_controls = Vec::new();
    for _ in 0..3 {
        load.wait_for(200);
        long.write_all(b"GET /long HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let old = node.router.take().unwrap();
        old.leave();
        // The next one serves from the table on disk until a control connects.
        node.router = Some(start_router(node.folder.path(), &node.listener, timeouts.clone()));
        assert_eq!(
            Answer::read(&mut BufReader::new(long), false).status,
            200,
            "the old one ends what it began"
        );
        let control = Control::connect(&node.socket());
        old_controls.push(std::mem::replace(&mut node.control, control));
        let leaving = old_controls.last_mut().unwrap();
        let waiting = std::thread::spawn(move || old.wait());
        leaving.until("the old router to say that it leaves", |control| control.left);
        while !waiting.is_finished() {
            leaving.hear(Duration::from_millis(10));
        }
        long = node.connect();
    }
    let (served, failures) = load.finish();
    assert!(failures.is_empty(), "{failures:?}");
    let before: usize = old_controls.iter().map(|control| control.records.len()).sum();
    node.control.until("every record", |control| before + control.records.len() == served + 3);
    let mut instances: Vec<_> = old_controls.iter().map(|control| control.instance).collect();
    instances.push(node.control.instance);
    assert!(instances.is_sorted() && instances[0] > 0, "{instances:?}");
}

#[test]
fn numbered_requests_are_recorded_once_each_while_controls_come_and_go() {
    let dyno = Dyno::saying("ok");
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let load = Load::start(node.address, 4);
    let mut records = Vec::new();
    for round in 0..10 {
        load.wait_for(100);
        // Every second control dies with what it got unacknowledged and unstored.
        if round % 2 == 0 {
            node.control.acknowledges = false;
            let known = node.control.records.len();
            node.control.until("a batch", |control| control.records.len() > known);
            node.control.records.truncate(known);
        }
        node.control.disconnect();
        records.append(&mut node.control.records);
        load.wait_for(20);
        node.control = Control::connect(&node.socket());
    }
    let (served, failures) = load.finish();
    assert!(failures.is_empty(), "{failures:?}");
    // What a control had stored but could not acknowledge comes again with the same sequence.
    let deadline = Instant::now() + PATIENCE;
    let mut sequences: BTreeSet<u64> = records.iter().map(|record| record.sequence).collect();
    let mut paths: BTreeSet<String> = BTreeSet::new();
    while sequences.len() < served {
        assert!(Instant::now() < deadline, "{} of {served} records came", sequences.len());
        node.control.hear(Duration::from_millis(50));
        sequences.extend(node.control.records.iter().map(|record| record.sequence));
    }
    records.append(&mut node.control.records);
    paths.extend(records.iter().map(|record| record.line.split('"').nth(1).unwrap().to_owned()));
    assert_eq!((sequences.len(), paths.len()), (served, served), "each request once, under one sequence");
}

#[test]
fn records_that_nobody_took_are_sent_on_by_the_next_router() {
    let dyno = Dyno::saying("ok");
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    node.control.disconnect();
    for number in 0..5 {
        assert_eq!(node.get(&format!("/{number}")).status, 200);
    }
    let old = node.router.take().unwrap();
    old.leave();
    old.wait();
    node.router = Some(start_router(node.folder.path(), &node.listener, patient()));
    node.control = Control::connect(&node.socket());
    for number in 0..5 {
        node.control.line(&format!("/{number}"));
    }
    let folder = node.folder.path().to_owned();
    node.control.until("the acknowledged file to go", |_| {
        !std::fs::read_dir(&folder)
            .unwrap()
            .any(|entry| entry.unwrap().file_name().to_str().unwrap().starts_with("records-"))
    });
}

#[test]
fn the_last_table_is_served_from_disk_and_without_any_the_answer_is_503() {
    let dyno = Dyno::saying("ok");
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let table = node.folder.path().join("table.json");
    let restart = |node: &mut Node, boot: Duration| {
        let old = node.router.take().unwrap();
        old.leave();
        old.wait();
        let timeouts = Timeouts { boot, ..patient() };
        node.router = Some(start_router(node.folder.path(), &node.listener, timeouts));
    };
    restart(&mut node, PATIENCE);
    assert_eq!(node.get("/").status, 200);
    std::fs::write(&table, "{ damaged").unwrap();
    restart(&mut node, Duration::from_millis(700));
    assert_eq!(node.get("/").status, 503, "no table is no reason to say that the app does not exist");
    restart(&mut node, PATIENCE);
    let mut waiting = node.connect();
    waiting.write_all(b"GET /waits HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    node.control = Control::connect(&node.socket());
    node.control.publish(vec![app(vec![dyno.target("web.1")])]);
    assert_eq!(
        Answer::read(&mut BufReader::new(waiting), false).status,
        200,
        "it waited for the first table"
    );
}

#[test]
fn listeners_are_given_back_and_serve_on() {
    let dyno = Dyno::saying("ok");
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let listeners = take_listeners(&node.socket()).unwrap();
    assert!(listeners.router_tls.is_none());
    let (router, api) = (listeners.router, listeners.api);
    assert_eq!(TcpListener::from(api).local_addr().unwrap().ip().to_string(), "127.0.0.1");
    let router = TcpListener::from(router);
    assert_eq!(router.local_addr().unwrap(), node.address);
    // The one who took it can start the next router on it, and control stays connected meanwhile.
    let old = node.router.take().unwrap();
    old.leave();
    old.wait();
    node.router = Some(start_router(node.folder.path(), &router, patient()));
    assert_eq!(node.get("/").status, 200);
    let gone = take_listeners(&node.folder.path().join("nothing.sock")).unwrap_err();
    assert!(gone.to_string().contains("nothing.sock"), "{gone}");
}

#[test]
fn a_client_that_sends_no_whole_request_is_closed_and_one_that_waits_for_its_answer_is_not() {
    let dyno = Dyno::answering(|_, _| {
        std::thread::sleep(Duration::from_millis(2500));
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into()
    });
    let timeouts = Timeouts { client_keep_alive: Duration::from_secs(2), ..patient() };
    let node = Node::start_with(timeouts, vec![app(vec![dyno.target("web.1")])]);
    for beginning in ["", "GET / HTTP/1.1\r\nHo"] {
        let mut stream = node.connect();
        stream.write_all(beginning.as_bytes()).unwrap();
        let begun = Instant::now();
        let _ = stream.read(&mut [0; 512]);
        let elapsed = begun.elapsed();
        assert!(
            elapsed >= Duration::from_millis(1900) && elapsed < PATIENCE / 2,
            "{beginning:?}: {elapsed:?}"
        );
    }
    let mut stream = node.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    assert_eq!(Answer::read(&mut reader, false).status, 200);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    assert_eq!(Answer::read(&mut reader, false).status, 200, "the connection was kept");
}

#[test]
fn a_stranger_may_not_command_the_router() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("router.sock");
    let router = ferroku_router::Router::start(ferroku_router::RouterConfig {
        listeners: vec![ferroku_router::Listener {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            public_port: None,
        }],
        api_listener: None,
        control: ferroku_router::socket::bind(&socket).unwrap(),
        state_folder: folder.path().to_owned(),
        binary_digest: String::new(),
        workers: 1,
        trusted_uid: rustix::process::geteuid().as_raw() + 1,
        timeouts: patient(),
        connection_limits: ferroku_router::limits::ConnectionLimits::default(),
        ssh_socket: None,
    })
    .unwrap();
    assert!(take_listeners(&socket).is_err());
    router.leave();
    router.wait();
}

#[test]
fn what_does_not_end_in_time_is_closed_and_logged_as_h24() {
    let (dyno, _) = held_dyno();
    let timeouts = Timeouts { drain: Duration::from_secs(4), ..patient() };
    let mut node = Node::start_with(timeouts, vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    stream.write_all(b"GET /never HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    let mut idle = node.connect();
    dyno.wait_for_heads(1);
    node.report(|report| report.accepted_connections == 2);
    let begun = Instant::now();
    let router = node.router.take().unwrap();
    router.leave();
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);
    assert!(
        begun.elapsed() < Duration::from_millis(3500),
        "idle connections go first: {:?}",
        begun.elapsed()
    );
    router.wait();
    let line = node.control.line("/never");
    assert!(line.starts_with("at=error code=H24 desc=\"Forced close\" method=GET"), "{line}");
    assert!(line.contains("dyno=web.1 connect=Nms service=Nms status= bytes=0"), "{line}");
}
