//! Smuggling and abuse over HTTP/1, case by case from `abuse/http1.txt`; slow clients; floods of connections.
//!
//! The dyno reads what it gets by a strict parser of its own that shares nothing with the router's, and keeps
//! every byte: whatever a client sends, it never sees a request that the table does not name.
#![allow(clippy::unwrap_used)]

mod abuse {
    pub mod case;
    pub mod recorder;
}
mod common;

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use abuse::case::{After, Case};
use abuse::recorder::{Recorder, Seen};
use common::{Answer, Node, PATIENCE, app, header, patient};
use ferroku_router::limits::{ConnectionLimits, Timeouts};

/// Short enough that cases which wait for the end of patience end soon.
fn timeouts() -> Timeouts {
    Timeouts { client_keep_alive: Duration::from_secs(2), idle: Duration::from_millis(900), ..patient() }
}

/// Plays one case. What went wrong, if anything.
fn play(case: &Case, node: &mut Node, recorder: &Recorder, number: usize) -> Result<(), String> {
    let mut stream = node.connect();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    // A router that has refused the beginning need not take the rest.
    let _ = stream.write_all(&case.wire);
    for (index, allowed) in case.statuses.iter().enumerate() {
        let answer = Answer::try_read(&mut reader, index == 0 && case.wire.starts_with(b"HEAD "));
        let status = answer.as_ref().map_or_else(|_| "none".to_owned(), |answer| answer.status.to_string());
        if !allowed.split('|').any(|allowed| allowed == status) {
            return Err(format!("answer {} is {status}, not {allowed}: {answer:?}", index + 1));
        }
    }
    let after = format!("/after-{number}");
    let mut expected = case.reaches.clone();
    if case.after != After::Closed {
        let _ = write!(stream, "GET {after} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n");
    }
    match Answer::try_read(&mut reader, false) {
        Ok(answer) if case.after != After::Closed => {
            if answer.header("seen") != Some(&format!("GET {after}")) {
                return Err(format!("the next request got the answer of another: {answer:?}"));
            }
            expected.push(Seen::whole(&format!("GET {after}"), 0));
        }
        Ok(answer) => return Err(format!("one more answer came: {answer:?}")),
        Err(error) if case.after == After::Open => return Err(format!("the connection was closed: {error}")),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Err("it stays open".into()),
        Err(_) => {}
    }
    drop((stream, reader));
    let probe = format!("/probe-{number}");
    node.get(&probe);
    expected.push(Seen::whole(&format!("GET {probe}"), 0));
    check(case, &expected, recorder)
}

/// Compares what reached the dyno with what may.
fn check(case: &Case, expected: &[Seen], recorder: &Recorder) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    let seen = loop {
        let seen = recorder.seen();
        if seen.iter().filter(|seen| seen.body.is_some()).count()
            >= expected.iter().filter(|seen| seen.body.is_some()).count()
            || Instant::now() > deadline
        {
            break recorder.take();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let broken = recorder.broken();
    if !broken.is_empty() {
        return Err(format!("the dyno got what no request is: {broken:#?}"));
    }
    let names = |seen: &[Seen], whole: bool| -> Vec<String> {
        let chosen = seen.iter().filter(|seen| seen.body.is_some() == whole);
        chosen.map(|seen| format!("{} {:?}", seen.line, seen.body)).collect()
    };
    if names(&seen, true) != names(expected, true) {
        return Err(format!("the dyno got {:#?}", names(&seen, true)));
    }
    // A request that is cut off may become known only when its connection ends, amid a later case.
    let mut cut = recorder.cut.lock().unwrap();
    cut.extend(names(expected, false));
    if let Some(more) = names(&seen, false).iter().find(|name| !cut.contains(name)) {
        return Err(format!("the dyno got half of {more}"));
    }
    for wanted in &case.headers {
        let head = seen.iter().find(|seen| wanted.of == seen.line).map_or("", |seen| &seen.head);
        match &wanted.value {
            Some(value) if header(head, &wanted.name) != Some(value) => {
                return Err(format!("{} is not {value} in {head}", wanted.name));
            }
            None if header(head, &wanted.name).is_some() => {
                return Err(format!("{} is in {head}", wanted.name));
            }
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn every_case_of_the_table_is_answered_or_closed_and_reaches_the_dyno_as_what_it_is() {
    let recorder = Recorder::start();
    let mut node = Node::start_with(timeouts(), vec![app(vec![recorder.dyno.target("web.1")])]);
    let cases = Case::parse(include_str!("abuse/http1.txt"));
    assert!(cases.len() > 100, "the table is read to its end: {}", cases.len());
    let mut failures = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        if let Err(failure) = play(case, &mut node, &recorder, number) {
            failures.push(format!("{}: {failure}", case.name));
        }
        recorder.take();
    }
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Reads until the router closes; how long that took and what came.
fn until_closed(mut stream: &TcpStream) -> (Duration, String) {
    let began = Instant::now();
    let mut text = Vec::new();
    let result = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(
        result.as_ref().map_err(std::io::Error::kind) != Err(std::io::ErrorKind::WouldBlock),
        "it stays open: {text}"
    );
    (began.elapsed(), text)
}

#[test]
fn a_head_that_comes_byte_by_byte_is_given_up_however_steadily_it_comes() {
    let recorder = Recorder::start();
    let node = Node::start_with(timeouts(), vec![app(vec![recorder.dyno.target("web.1")])]);
    let mut stream = node.connect();
    let reader = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let head = format!("GET /slow HTTP/1.1\r\nHost: shop.localhost\r\nX: {}", "a".repeat(5000));
        let mut sent = 0;
        for byte in head.bytes() {
            std::thread::sleep(Duration::from_millis(20));
            if stream.write_all(&[byte]).is_err() {
                break;
            }
            sent += 1;
        }
        sent
    });
    let (took, text) = until_closed(&reader);
    assert!(took >= timeouts().client_keep_alive, "it was given up after {took:?} only");
    assert!(!text.contains(" 200 "), "{text}");
    drop(reader);
    assert!(writer.join().unwrap() < 5000, "it was let go on for ever");
    assert!(recorder.seen().is_empty(), "half a head reached the dyno");
}

#[test]
fn a_body_that_stalls_is_given_up_and_a_slow_one_is_not() {
    let recorder = Recorder::start();
    let limit = Duration::from_secs(3);
    let timeouts = Timeouts { first_byte: limit, idle: limit, ..timeouts() };
    let pause = limit / 18;
    let mut node = Node::start_with(timeouts, vec![app(vec![recorder.dyno.target("web.1")])]);
    let begin = |path: &str| {
        let mut stream = node.connect();
        write!(stream, "POST {path} HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 20\r\n\r\n").unwrap();
        stream
    };
    let (mut slow, stalled) = (begin("/slow"), begin("/stalled"));
    // Longer in all than the limit for a stall, each byte well within it.
    for _ in 0..20 {
        std::thread::sleep(pause);
        slow.write_all(b"x").unwrap();
    }
    assert_eq!(Answer::read(&mut BufReader::new(slow), false).status, 200);
    let (_, text) = until_closed(&stalled);
    assert!(!text.contains(" 200 "), "{text}");
    assert!(node.control.line("/stalled").contains("code=H28 "), "{:?}", node.control.records);
    let whole: Vec<_> = recorder.seen().into_iter().filter(|seen| seen.body.is_some()).collect();
    assert_eq!(whole.len(), 1, "{whole:?}");
}

/// A connection from one of this machine's own many addresses.
fn connect_from(last: u8, to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, last], 0))).unwrap();
    connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(mut stream: &TcpStream) -> Option<u16> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").ok()?;
    Answer::try_read(&mut BufReader::new(stream), false).ok().map(|answer| answer.status)
}

#[test]
fn one_address_cannot_take_every_connection() {
    let recorder = Recorder::start();
    let limits = ConnectionLimits { per_address: 10, ..ConnectionLimits::default() };
    let node = Node::start_limited(patient(), limits, vec![app(vec![recorder.dyno.target("web.1")])]);
    let mut flood: Vec<_> = (0..10).map(|_| connect_from(2, node.address)).collect();
    for stream in &flood {
        assert_eq!(ask(stream), Some(200));
    }
    for _ in 0..20 {
        assert_eq!(ask(&connect_from(2, node.address)), None, "the eleventh is closed");
    }
    assert_eq!(ask(&connect_from(3, node.address)), Some(200), "another address is served meanwhile");
    flood.pop();
    let deadline = Instant::now() + PATIENCE;
    while ask(&connect_from(2, node.address)).is_none() {
        assert!(Instant::now() < deadline, "a place that became free is not given again");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(flood.iter().all(|stream| ask(stream) == Some(200)), "those that were there are not disturbed");
}

#[test]
fn beyond_the_limit_of_all_connections_new_ones_wait_and_are_then_served() {
    let recorder = Recorder::start();
    let limits = ConnectionLimits { in_all: 10, per_address: 10 };
    let node = Node::start_limited(patient(), limits, vec![app(vec![recorder.dyno.target("web.1")])]);
    let mut first: Vec<_> = (0..10).map(|number| connect_from(2 + number % 2, node.address)).collect();
    for stream in &first {
        assert_eq!(ask(stream), Some(200));
    }
    // Each of the two workers may have been about to accept one more.
    first.extend([connect_from(4, node.address), connect_from(4, node.address)]);
    let waiting = connect_from(4, node.address);
    waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(ask(&waiting), None, "there is no place for it");
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    first.drain(..4);
    let answer = Answer::try_read(&mut BufReader::new(&waiting), false).unwrap();
    assert_eq!(answer.status, 200, "the request that waited is answered");
}
