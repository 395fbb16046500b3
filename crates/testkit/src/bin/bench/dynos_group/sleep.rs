//! How long a request takes that wakes its app, seen by its client: examples/procfile-only, one process of Python.

use crate::Figure;
use crate::median;
use ferroku_testkit::{NodeOptions, TestNode};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Requests from frozen; each waits a few seconds until the app sleeps again.
const FROZEN: usize = 15;
/// Requests from stopped; each boots the app.
const STOPPED: usize = 5;
const PATIENCE: Duration = Duration::from_secs(80);

/// Measures on one node after the other.
pub fn measure() -> Vec<Figure> {
    let (node, awake) = start("1d");
    let frozen = median((0..FROZEN).map(|_| after_sleep(&node, |state| state == "idle")).collect());
    node.stop();
    let (node, _) = start("1s");
    let stopped = median((0..STOPPED).map(|_| after_sleep(&node, |_| has_ended(&node))).collect());
    node.stop();
    vec![
        Figure::new("request to an app that is awake, median", "ms", awake),
        Figure::new("wake from frozen, request to answer, median", "ms", frozen).at_most(5.0),
        Figure::new("wake from stopped, request to answer, median", "ms", stopped),
    ]
}

/// A node whose only app sleeps after a second, and how long a request takes while it is awake.
fn start(stop_after: &str) -> (TestNode, f64) {
    let arguments = ["--idle-after", "1s", "--stop-idle-after", stop_after].map(str::to_owned).to_vec();
    let node = TestNode::start_with(NodeOptions { arguments, ..NodeOptions::default() });
    node.make_app("sleeper");
    node.run("heroku features:enable sleep-when-idle -a sleeper && cd sleeper && git push heroku main")
        .succeeded();
    node.wait_until_up("sleeper");
    let awake = median((0..50).map(|_| request(&node)).collect());
    (node, awake)
}

/// A request once the app's web dyno is in the state wanted, in milliseconds.
fn after_sleep(node: &TestNode, sleeps: impl Fn(&str) -> bool) -> f64 {
    node.wait_for("the app to sleep", || sleeps(&state(node)));
    // Until what was done for it is over.
    std::thread::sleep(Duration::from_millis(200));
    request(node)
}

fn state(node: &TestNode) -> String {
    let dyno = node.get("/apps/sleeper/dynos/web.1");
    dyno["state"].as_str().unwrap_or_default().to_owned()
}

/// Whether no process of a dyno is left: the app is asleep, and has been stopped.
fn has_ended(node: &TestNode) -> bool {
    let dynos = std::fs::read_dir(node.data.join("run/dynos")).into_iter().flatten();
    dynos.count() == 0
}

fn request(node: &TestNode) -> f64 {
    let began = Instant::now();
    let mut stream = TcpStream::connect(node.router).expect("the router listens");
    let answer = ask(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    began.elapsed().as_secs_f64() * 1000.0
}

fn ask(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    let request = "GET / HTTP/1.1\r\nHost: sleeper.localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("the router reads");
    let mut answer = Vec::new();
    // What has come until then is looked at.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
