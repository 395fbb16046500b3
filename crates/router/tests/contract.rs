//! Heroku's HTTP contract where a message is unusual but right: limits, trailers, pipelines, early answers.
#![allow(clippy::unwrap_used)]

mod common;

use std::fmt::Write as _;
use std::io::{BufReader, Read, Write};
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::time::Duration;

use common::{Answer, Dyno, Node, app, header, held_dyno, read_head};
use ferroku_core::protocol::router::RouteApp;

#[test]
fn a_thousand_headers_pass_and_more_do_not() {
    let dyno = Dyno::answering(|head, _| {
        let body = head.lines().filter(|line| line.starts_with("X-H")).count().to_string();
        let headers: String = (0..250).fold(String::new(), |mut all, number| {
            let _ = write!(all, "Y-{number}: 1\r\n");
            all
        });
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
    });
    let node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let request = |count: usize| {
        let mut request = "GET / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n".to_owned();
        (0..count).for_each(|number| write!(request, "X-H{number}: {number}\r\n").unwrap());
        request + "\r\n"
    };
    let answer = node.send(&request(998));
    assert_eq!((answer.status, answer.body.as_str()), (200, "998"));
    assert_eq!(answer.head.lines().filter(|line| line.starts_with("Y-")).count(), 250);
    assert_eq!(node.send(&request(1100)).status, 431);
}

#[test]
fn lines_and_names_and_methods_have_herokus_limits() {
    let dyno = Dyno::saying("ok");
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let end = "Host: shop.localhost\r\nConnection: close\r\n\r\n";
    for (request, status) in [
        (format!("GET /{} HTTP/1.1\r\n{end}", "p".repeat(8191)), 200),
        (format!("GET /{} HTTP/1.1\r\n{end}", "p".repeat(8192)), 414),
        (format!("GET /value HTTP/1.1\r\nX: {}\r\n{end}", "v".repeat(8189)), 200),
        (format!("GET /long-value HTTP/1.1\r\nX: {}\r\n{end}", "v".repeat(8190)), 400),
        (format!("GET /name HTTP/1.1\r\n{}: v\r\n{end}", "n".repeat(1000)), 200),
        (format!("GET /long-name HTTP/1.1\r\n{}: v\r\n{end}", "n".repeat(1001)), 400),
        (format!("{} /method HTTP/1.1\r\n{end}", "M".repeat(127)), 200),
        (format!("{} /long-method HTTP/1.1\r\n{end}", "M".repeat(128)), 400),
        (format!("BREW /any-method HTTP/1.1\r\n{end}"), 200),
    ] {
        assert_eq!(node.send(&request).status, status, "{:.60}", request);
    }
    for path in ["/long-value", "/long-name"] {
        let line = node.control.line(path);
        assert!(line.starts_with("at=error code=H26 desc=\"Request Error\" cause=\"bad header\" "), "{line}");
    }
}

#[test]
fn announced_trailers_pass_both_ways() {
    let (seen, heard) = channel();
    let dyno = Dyno::raw(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let head = read_head(&mut reader).unwrap();
        let mut body = Vec::new();
        while !body.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            reader.read_exact(&mut byte).unwrap();
            body.push(byte[0]);
        }
        seen.send((head, String::from_utf8(body).unwrap())).unwrap();
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    let request = "POST / HTTP/1.1\r\nHost: shop.localhost\r\nTE: trailers\r\nTrailer: X-Check\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\nX-Check: 9\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.to_ascii_lowercase().ends_with("2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer}");
    let (head, body) = heard.recv().unwrap();
    assert_eq!(header(&head, "trailer"), Some("X-Check"));
    assert_eq!(body.to_ascii_lowercase(), "3\r\nabc\r\n0\r\nx-check: 9\r\n\r\n");
}

#[test]
fn an_answer_that_comes_before_the_body_is_passed_on_and_the_body_ends_there() {
    // Reads nothing but the head: what is still on the way is refused.
    let dyno = Dyno::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let _ = read_head(&mut reader);
        let _ = stream.write_all(
            b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbig!",
        );
        let _ = stream.shutdown(std::net::Shutdown::Write);
        std::thread::sleep(Duration::from_millis(500));
    });
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    write!(stream, "POST /up HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 100000000\r\n\r\n").unwrap();
    stream.write_all(&[b'x'; 10_000]).unwrap();
    let answer = Answer::read(&mut BufReader::new(stream.try_clone().unwrap()), false);
    assert_eq!((answer.status, answer.body.as_str()), (413, "big!"));
    let line = node.control.line("/up");
    assert!(line.starts_with("at=info ") && line.contains("status=413 bytes=4 "), "{line}");
    // What comes after is not taken for a request: the connection ends.
    let _ = stream.write_all(&[b'x'; 100]);
    let _ = stream.read_to_end(&mut Vec::new());
    assert_eq!(node.control.records.len(), 1);
}

#[test]
fn a_pipeline_is_answered_in_its_order() {
    let dyno = Dyno::answering(|head, _| {
        // The first ones take longest.
        let number: u64 = head.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
        std::thread::sleep(Duration::from_millis(50 - 10 * number));
        format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}")
    });
    let node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    let requests: String =
        (0..5).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")).collect();
    stream.write_all(requests.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    for number in 0..5 {
        assert_eq!(Answer::read(&mut reader, false).body, number.to_string());
    }
}

#[test]
fn a_client_that_closes_its_sending_side_has_left_as_with_heroku() {
    let (dyno, release) = held_dyno();
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    stream.write_all(b"GET /half HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    dyno.wait_for_heads(1);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let line = node.control.line("/half");
    release.store(true, Ordering::SeqCst);
    assert!(
        line.starts_with("sock=client at=warning code=H27 desc=\"Client Request Interrupted\" "),
        "{line}"
    );
}

#[test]
fn an_exact_host_comes_before_a_wildcard_and_a_wildcard_stands_for_one_label() {
    let dynos = ["exact", "wildcard", "deep"].map(Dyno::saying);
    let named = |index: usize, host: &str| RouteApp {
        app_id: ferroku_core::AppId(uuid::Uuid::from_u128(index as u128)),
        hosts: vec![host.into()],
        ..app(vec![dynos[index].target("web.1")])
    };
    let node = Node::start(vec![
        named(1, "*.example.com"),
        named(0, "www.example.com"),
        named(2, "*.www.example.com"),
    ]);
    for (host, status, body) in [
        ("www.example.com", 200, "exact"),
        ("WWW.Example.COM.:80", 200, "exact"),
        ("shop.example.com", 200, "wildcard"),
        ("a.www.example.com", 200, "deep"),
        ("a.shop.example.com", 404, ""),
        ("example.com", 404, ""),
    ] {
        let answer = node.send(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
        assert_eq!(answer.status, status, "{host}");
        assert!(status == 404 || answer.body == body, "{host}: {}", answer.body);
    }
}
