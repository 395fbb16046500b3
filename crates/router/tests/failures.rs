//! Every way a request fails: its status, its page and its log line.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Answer, Dyno, Node, PATIENCE, app, patient, patiently, read_head, refusing};
use ferroku_core::protocol::router::RouteApp;
use ferroku_router::limits::{REUSE_UNSAFE_WITHIN, Timeouts};

/// The end of every error line that no dyno was asked for.
fn unasked(code: &str, description: &str, level: &str, status: u16) -> String {
    format!(
        "at={level} code={code} desc=\"{description}\" method=GET path=\"/f\" host=shop.localhost request_id=UUID \
         fwd=\"127.0.0.1\" dyno= connect= service= status={status} bytes= protocol=http1.1 tls=false"
    )
}

/// The same with a dyno.
fn asked(start: &str, status: u16, bytes: usize) -> String {
    format!(
        "{start} method=GET path=\"/f\" host=shop.localhost request_id=UUID fwd=\"127.0.0.1\" dyno=web.1 connect=Nms \
         service=Nms status={status} bytes={bytes} protocol=http1.1 tls=false"
    )
}

#[test]
fn what_the_apps_state_says_is_answered_at_once() {
    let dyno = Dyno::saying("ok");
    let up = app(vec![dyno.target("web.1")]);
    let down = app(vec![]);
    let cases = [
        (RouteApp { crashed: true, ..down.clone() }, "H10", "App crashed", "error", 503, "Application error"),
        (
            RouteApp { web_quantity: 0, ..down.clone() },
            "H14",
            "No web processes running",
            "error",
            503,
            "Application error",
        ),
        (
            RouteApp { maintenance: true, ..up.clone() },
            "H80",
            "Maintenance mode",
            "info",
            503,
            "Offline for maintenance",
        ),
        (
            RouteApp { out_of_hours: true, asleep: true, ..down.clone() },
            "H82",
            "You've used up your dyno hour pool",
            "info",
            503,
            "Application error",
        ),
        (RouteApp { blank: true, ..down }, "H81", "Blank app", "info", 502, "Nothing here yet"),
    ];
    for (app, code, description, level, status, title) in cases {
        let mut node = Node::start(vec![app]);
        let answer = node.get("/f");
        assert_eq!(answer.status, status, "{code}");
        assert!(answer.body.contains(&format!("<title>{title}</title>")), "{code}: {}", answer.body);
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"));
        assert_eq!(answer.header("cache-control"), Some("no-cache, no-store"));
        assert_eq!(node.control.line("/f"), unasked(code, description, level, status));
    }
}

#[test]
fn an_apps_own_pages_are_shown_in_a_frame() {
    let app = RouteApp {
        crashed: true,
        error_page_url: Some("https://example.com/e?a=1&b=\"2".into()),
        maintenance_page_url: Some("https://example.com/m".into()),
        ..app(vec![])
    };
    let mut node = Node::start(vec![app.clone()]);
    let answer = node.get("/");
    assert_eq!(answer.status, 503);
    assert!(
        answer.body.contains("<iframe src=\"https://example.com/e?a=1&amp;b=&quot;2\">"),
        "{}",
        answer.body
    );
    node.control.publish(vec![RouteApp { maintenance: true, ..app }]);
    assert!(node.get("/").body.contains("<iframe src=\"https://example.com/m\">"));
}

#[test]
fn h12_when_the_first_byte_takes_too_long() {
    let dyno = Dyno::raw(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let timeouts = Timeouts { first_byte: Duration::from_millis(500), ..patient() };
    let mut node = Node::start_with(timeouts, vec![app(vec![dyno.target("web.1")])]);
    let begun = Instant::now();
    assert_eq!(node.get("/f").status, 503);
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    assert_eq!(node.control.line("/f"), asked("at=error code=H12 desc=\"Request timeout\"", 503, 0));
}

#[test]
fn an_upload_that_goes_on_is_no_timeout_and_one_that_stalls_is_h28() {
    let dyno = Dyno::answering(|_, body| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Got: {}\r\n\r\n", body.len())
    });
    let short = Duration::from_secs(3);
    let timeouts = Timeouts { first_byte: short, idle: short, ..patient() };
    let mut node = Node::start_with(timeouts, vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    stream.write_all(b"POST /slow HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 6\r\n\r\n").unwrap();
    for _ in 0..6 {
        std::thread::sleep(short / 5);
        stream.write_all(b"x").unwrap();
    }
    let answer = Answer::read(&mut BufReader::new(stream), false);
    assert_eq!((answer.status, answer.header("x-got")), (200, Some("6")));
    let stalled = node.send("POST /stalled HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 6\r\n\r\nxxx");
    assert_eq!(stalled.status, 499);
    let line = node.control.line("/stalled");
    assert!(line.starts_with("at=warning code=H28 desc=\"Client Connection Idle\" method=POST"), "{line}");
}

#[test]
fn h13_when_the_dyno_closes_without_an_answer_also_on_a_kept_connection() {
    let dyno = Dyno::raw(|stream| drop(read_head(&mut BufReader::new(stream))));
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    assert_eq!(node.get("/f").status, 503);
    assert_eq!(
        node.control.line("/f"),
        asked("at=error code=H13 desc=\"Connection closed without response\"", 503, 0)
    );
    assert_eq!(*dyno.connections.lock().unwrap(), 1, "a request that may have arrived is not sent again");
}

#[test]
fn h13_when_the_dyno_closes_every_connection_at_once() {
    let dyno = Dyno::raw(drop);
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    for number in 0..20 {
        assert_eq!(node.get(&format!("/{number}")).status, 503);
        let line = node.control.line(&format!("/{number}"));
        assert!(line.contains("code=H13") || line.contains("code=H21"), "{line}");
    }
}

#[test]
fn a_kept_connection_that_the_dyno_closes_costs_a_reader_nothing_and_is_never_repeated_for_a_writer() {
    // Answers one request on each connection, then closes when the second one comes.
    let dyno = Dyno::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let _ = read_head(&mut reader);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let _ = read_head(&mut reader);
    });
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    for round in 0..5 {
        assert_eq!(node.get(&format!("/{round}")).status, 200);
    }
    assert_eq!(*dyno.connections.lock().unwrap(), 5);
    // A fresh connection is in the pool now; the POST uses it, and its fate is unknown. One that has become old is left.
    for round in 0.. {
        let (begun, path) = (Instant::now(), format!("/post-{round}"));
        assert_eq!(node.get("/fresh").status, 200);
        let before = *dyno.connections.lock().unwrap();
        let post = node.send(&format!(
            "POST {path} HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        ));
        if begun.elapsed() < REUSE_UNSAFE_WITHIN {
            assert_eq!(post.status, 503);
            assert!(node.control.line(&path).contains("code=H13"));
            assert_eq!(*dyno.connections.lock().unwrap(), before);
            break;
        }
        assert!(round < 60, "never within {REUSE_UNSAFE_WITHIN:?}");
    }
}

#[test]
fn h15_when_a_response_stops_moving() {
    let dyno = Dyno::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let _ = read_head(&mut reader);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        std::thread::sleep(Duration::from_secs(1));
        let _ = stream.write_all(b"d");
        let _ = reader.read_to_end(&mut Vec::new());
    });
    let timeouts = Timeouts { idle: Duration::from_secs(3), ..patient() };
    let mut node = Node::start_with(timeouts, vec![app(vec![dyno.target("web.1")])]);
    let begun = Instant::now();
    let mut stream = node.connect();
    stream.write_all(b"GET /f HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    assert!(text.ends_with("abcd"), "{text}");
    assert!(
        begun.elapsed() >= Duration::from_millis(3900),
        "each byte starts the time anew: {:?}",
        begun.elapsed()
    );
    assert_eq!(node.control.line("/f"), asked("at=error code=H15 desc=\"Idle connection\"", 200, 4));
}

#[test]
fn responses_that_break_the_rules_are_h17_and_h25() {
    let cookie: &'static str = Box::leak(
        format!("HTTP/1.1 200 OK\r\nSet-Cookie: {}\r\nContent-Length: 0\r\n\r\n", "c".repeat(8193)).into(),
    );
    let header: &'static str =
        Box::leak(format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(600_000)).into());
    for (bytes, start, status) in [
        // Heroku wants a reason phrase.
        (
            "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
            "at=error code=H17 desc=\"Poorly formatted HTTP response\"",
            503,
        ),
        ("SSH-2.0-dropbear\r\n\r\n", "at=error code=H17 desc=\"Poorly formatted HTTP response\"", 503),
        (
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
            "at=error code=H17 desc=\"Poorly formatted HTTP response\"",
            503,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "at=error code=H25 desc=\"HTTP restriction: invalid content length\"",
            502,
        ),
        (cookie, "at=error code=H25 desc=\"HTTP restriction: oversized cookie\"", 502),
        (header, "at=error code=H25 desc=\"HTTP restriction: oversized header\"", 502),
    ] {
        let dyno = Dyno::once(bytes);
        let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
        let answer = node.get("/f");
        assert_eq!((answer.status, node.control.line("/f")), (status, asked(start, status, 0)));
    }
}

#[test]
fn h18_when_the_dyno_breaks_off_and_the_client_can_tell() {
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let body = if head.starts_with('C') { "abc" } else { "3\r\nabc\r\n" };
        let bytes: &'static str = Box::leak(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").into());
        let dyno = Dyno::once(bytes);
        let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
        let mut stream = node.connect();
        stream.write_all(b"GET /f HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
        assert!(Answer::try_read(&mut BufReader::new(stream), false).is_err(), "{head}");
        assert_eq!(
            node.control.line("/f"),
            asked("sock=backend at=error code=H18 desc=\"Server Request Interrupted\"", 200, 3)
        );
    }
}

#[test]
fn h19_when_a_dyno_takes_no_connection() {
    // A full backlog leaves further connections unanswered.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let _filling: Vec<_> = (0..3)
        .map(|_| {
            let socket = rustix::net::socket_with(
                rustix::net::AddressFamily::INET,
                rustix::net::SocketType::STREAM,
                rustix::net::SocketFlags::NONBLOCK,
                None,
            )
            .unwrap();
            let _ = rustix::net::connect(&socket, &address);
            socket
        })
        .collect();
    let mut target = Dyno::saying("").target("web.1");
    target.address = address;
    let timeouts = Timeouts {
        connect: Duration::from_millis(300),
        connect_budget: Duration::from_millis(1500),
        ..patient()
    };
    let mut node = Node::start_with(timeouts, vec![app(vec![target])]);
    assert_eq!(node.get("/f").status, 503);
    let line = node.control.line("/f");
    assert!(line.starts_with("at=error code=H19 desc=\"Backend connection timeout\""), "{line}");
}

#[test]
fn h20_when_no_dyno_comes_up_in_time_and_a_request_held_until_then_is_served() {
    let booting = RouteApp { booting: true, ..app(vec![]) };
    let timeouts = Timeouts { boot: Duration::from_millis(700), ..patient() };
    let mut node = Node::start_with(timeouts, vec![booting.clone()]);
    let begun = Instant::now();
    assert_eq!(node.get("/f").status, 503);
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
    assert_eq!(node.control.line("/f"), unasked("H20", "App boot timeout", "error", 503));

    let dyno = Dyno::saying("up");
    let mut node = Node::start(vec![booting]);
    let mut stream = node.connect();
    stream.write_all(b"GET /held HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    node.report(|report| report.apps.iter().any(|app| app.open_requests == 1));
    node.control.publish(vec![app(vec![dyno.target("web.1")])]);
    assert_eq!(Answer::read(&mut BufReader::new(stream), false).body, "up");
}

#[test]
fn h21_when_every_dyno_refuses_and_another_one_is_asked_first() {
    let closed = refusing();
    let dyno = Dyno::saying("ok");
    let mut refusing = Dyno::saying("").target("web.2");
    refusing.address = closed.local_addr().unwrap();
    let timeouts = Timeouts { connect_budget: Duration::from_millis(1500), ..patient() };
    let mut node = Node::start_with(timeouts, vec![app(vec![refusing.clone(), dyno.target("web.1")])]);
    for _ in 0..20 {
        let post = node.send(
            "POST /p HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx",
        );
        assert_eq!(post.status, 200, "nothing was sent to the one that refuses");
    }
    node.control.publish(vec![app(vec![refusing])]);
    // It is quarantined by now: the request waits until it may be asked again.
    assert_eq!(node.get("/f").status, 503);
    let line = node.control.line("/f");
    assert!(line.starts_with("at=error code=H21 desc=\"Backend connection refused\""), "{line}");
}

#[test]
fn h27_when_the_client_leaves_before_or_amid_the_answer() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = seen.clone();
    let dyno = Dyno::raw(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let head = read_head(&mut reader).unwrap();
        counter.fetch_add(1, Ordering::SeqCst);
        if head.starts_with("GET /amid") {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        }
        let _ = reader.read_to_end(&mut Vec::new());
    });
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    stream.write_all(b"GET /before HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    patiently(|| seen.load(Ordering::SeqCst) == 1);
    drop(stream);
    let line = node.control.line("/before");
    assert!(
        line.starts_with("sock=client at=warning code=H27 desc=\"Client Request Interrupted\""),
        "{line}"
    );
    assert!(line.contains("dyno=web.1 connect=Nms service=Nms status=499 bytes=0"), "{line}");
    let mut stream = node.connect();
    stream.write_all(b"GET /amid HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    read_head(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
    drop(stream);
    let line = node.control.line("/amid");
    assert!(
        line.starts_with("sock=client at=warning code=H27") && line.contains("status=499 bytes=3"),
        "{line}"
    );
    let mut stream = node.connect();
    stream
        .write_all(b"POST /upload HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 5\r\n\r\nab")
        .unwrap();
    patiently(|| seen.load(Ordering::SeqCst) == 3);
    drop(stream);
    let line = node.control.line("/upload");
    assert!(line.starts_with("sock=client at=warning code=H27"), "{line}");
}

#[test]
fn h28_when_the_client_takes_no_byte_of_the_answer() {
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", 32 << 20, "x".repeat(32 << 20));
    let dyno = Dyno::answering(move |_, _| answer.clone());
    let timeouts = Timeouts { idle: Duration::from_millis(900), ..patient() };
    let mut node = Node::start_with(timeouts, vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    stream.write_all(b"GET /f HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
    let line = node.control.line("/f");
    assert!(line.starts_with("at=warning code=H28 desc=\"Client Connection Idle\""), "{line}");
}

#[test]
fn h99_when_all_dynos_stay_quarantined() {
    let closed = refusing();
    let mut target = Dyno::saying("").target("web.1");
    target.address = closed.local_addr().unwrap();
    let timeouts = Timeouts { quarantine: PATIENCE, connect_budget: Duration::from_millis(500), ..patient() };
    let mut node = Node::start_with(timeouts, vec![app(vec![target])]);
    assert_eq!(node.get("/first").status, 503);
    assert_eq!(node.get("/f").status, 503);
    assert_eq!(node.control.line("/f"), unasked("H99", "Platform error", "error", 503));
}

#[test]
fn h11_when_too_many_requests_wait_for_a_dyno() {
    let dyno = Dyno::raw(|stream| {
        let mut reader = BufReader::new(stream);
        let _ = reader.read_to_end(&mut Vec::new());
    });
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let waiting: Vec<_> = (0..200)
        .map(|_| {
            let mut stream = node.connect();
            stream.write_all(b"GET /w HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    patiently(|| *dyno.connections.lock().unwrap() == 200);
    assert_eq!(node.get("/f").status, 503);
    assert_eq!(node.control.line("/f"), unasked("H11", "Backlog too deep", "error", 503));
    drop(waiting);
}
