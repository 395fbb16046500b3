//! What a dyno and a client see of each other's headers and bodies.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufReader, Read, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Answer, Dyno, Node, app, header};

#[test]
fn a_request_is_passed_on_with_herokus_headers_and_logged_in_herokus_form() {
    let dyno = Dyno::saying("Hello, world!");
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let answer = node.get("/x?y=1");
    assert_eq!((answer.status, answer.body.as_str()), (200, "Hello, world!"));
    assert_eq!(answer.header("via"), Some("1.1 ferroku-router"));
    assert_eq!(answer.header("server"), Some("Ferroku"));
    let head = dyno.last_head();
    assert!(head.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "host"), Some("shop.localhost"));
    assert_eq!(header(&head, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(header(&head, "x-forwarded-proto"), Some("http"));
    assert_eq!(header(&head, "x-forwarded-port"), Some(node.address.port().to_string().as_str()));
    assert_eq!(header(&head, "via"), Some("1.1 ferroku-router"));
    assert_eq!(header(&head, "x-request-id").unwrap().len(), 36);
    assert_eq!(header(&head, "connection"), None);
    let start: u128 = header(&head, "x-request-start").unwrap().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    assert!(now.abs_diff(start) < 10_000, "{start} is no time in milliseconds");
    assert_eq!(
        node.control.line("/x?y=1"),
        "at=info method=GET path=\"/x?y=1\" host=shop.localhost request_id=UUID fwd=\"127.0.0.1\" dyno=web.1 \
         connect=Nms service=Nms status=200 bytes=13 protocol=http1.1 tls=false"
    );
}

#[test]
fn given_ids_and_chains_are_kept_and_hop_by_hop_headers_end_here() {
    let dyno = Dyno::answering(|_, _| {
        "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive, X-Inner\r\n\
         X-Inner: 1\r\nServer: gunicorn\r\nVia: 1.1 inner\r\nSet-Cookie: a=1\r\n\r\nok"
            .into()
    });
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let answer = node.send(
        "GET /kept HTTP/1.1\r\nHost: SHOP.localhost:8080\r\nX-Request-Id: abcdefghij0123456789\r\n\
         X-Forwarded-For: 185.244.159.14, 141.101.104.98\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\n\
         Keep-Alive: 1\r\nTE: gzip\r\nProxy-Connection: keep-alive\r\nConnection: close, X-Secret\r\nX-Secret: 1\r\n\r\n",
    );
    let head = dyno.last_head();
    for gone in ["keep-alive", "te", "proxy-connection", "connection", "x-secret"] {
        assert_eq!(header(&head, gone), None, "{gone}");
    }
    assert_eq!(header(&head, "host"), Some("SHOP.localhost:8080"));
    assert_eq!(header(&head, "x-request-id"), Some("abcdefghij0123456789"));
    assert_eq!(header(&head, "x-forwarded-for"), Some("185.244.159.14, 141.101.104.98, 127.0.0.1"));
    assert_eq!(header(&head, "x-forwarded-proto"), Some("http"));
    assert_eq!(header(&head, "x-forwarded-port"), Some(node.address.port().to_string().as_str()));
    assert!(answer.head.starts_with("HTTP/1.1 200 Fine\r\n"), "{}", answer.head);
    for gone in ["keep-alive", "x-inner"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    assert_eq!(answer.header("server"), Some("gunicorn"));
    assert_eq!(answer.header("set-cookie"), Some("a=1"));
    assert_eq!(answer.head.matches("ia: 1.1 ").count(), 2, "{}", answer.head);
    let line = node.control.line("/kept");
    assert!(line.contains("host=shop.localhost request_id=abcdefghij0123456789"), "{line}");
    assert!(line.contains("fwd=\"185.244.159.14,141.101.104.98,127.0.0.1\""), "{line}");
}

#[test]
fn what_a_client_sends_cannot_break_out_of_its_log_line() {
    let dyno = Dyno::saying("ok");
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    node.send(
        "GET /a\"b HTTP/1.1\r\nHost: shop.localhost\r\nX-Forwarded-For: 1.1.1.1\" dyno=evil \u{e9}\r\nConnection: close\r\n\r\n",
    );
    let line = node.control.line("/a%22b");
    assert!(line.contains("fwd=\"1.1.1.1%22dyno=evil%C3%A9,127.0.0.1\" dyno=web.1 "), "{line}");
}

#[test]
fn a_host_that_no_app_has_is_404_and_a_request_without_one_400() {
    let dyno = Dyno::saying("ok");
    let node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let answer = node.send("GET / HTTP/1.1\r\nHost: other.localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.status, 404);
    assert!(answer.body.contains("No such app"), "{}", answer.body);
    assert_eq!(node.send("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").status, 400);
    assert_eq!(
        node.send("GET / HTTP/1.1\r\nHost: shop.localhost\r\nHost: b\r\nConnection: close\r\n\r\n").status,
        400
    );
    let absolute =
        node.send("GET http://shop.localhost/p HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n");
    assert_eq!(absolute.status, 200);
    assert!(dyno.last_head().starts_with("GET /p HTTP/1.1\r\n"));
    assert_eq!(header(&dyno.last_head(), "host"), Some("shop.localhost"));
}

#[test]
fn bodies_go_both_ways_by_length_and_in_chunks() {
    let dyno = Dyno::answering(|head, body| {
        let chunked = header(head, "transfer-encoding").is_some();
        assert!(chunked != header(head, "content-length").is_some(), "one framing: {head}");
        let body = String::from_utf8_lossy(body);
        if chunked {
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                body.len()
            )
        } else {
            format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
    });
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let stream = node.connect();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    for method in ["POST", "GET", "PATCH", "BREW"] {
        write!(stream, "{method} /length HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 5\r\n\r\nhello")
            .unwrap();
        let answer = Answer::read(&mut reader, false);
        assert_eq!((answer.status, answer.body.as_str()), (201, "hello"), "{method}");
        write!(
            stream,
            "{method} /chunked HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
        )
        .unwrap();
        let answer = Answer::read(&mut reader, false);
        assert_eq!((answer.status, answer.body.as_str()), (200, "abcde"), "{method}");
    }
    node.control.until("eight records", |control| control.records.len() == 8);
    assert!(node.control.records.iter().all(|record| record.line.contains("bytes=5 ")));
    assert!(*dyno.connections.lock().unwrap() < 8, "connections to dynos are kept");
}

#[test]
fn a_large_upload_and_download_arrive_whole() {
    let size = 20 * 1024 * 1024;
    let dyno = Dyno::answering(move |_, body| {
        assert_eq!(body.len(), size);
        format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n{}", "r".repeat(size))
    });
    let node = Node::start_with(Default::default(), vec![app(vec![dyno.target("web.1")])]);
    let answer = node.send(&format!(
        "POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n{}",
        "u".repeat(size)
    ));
    assert_eq!((answer.status, answer.body.len()), (200, size));
}

#[test]
fn head_and_304_answers_keep_their_length_and_have_no_body() {
    let dyno = Dyno::answering(|head, _| {
        let path = head.split(' ').nth(1).unwrap();
        match path {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".into(),
            "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            "/cached" => "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n".into(),
            _ => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        }
    });
    let node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let stream = node.connect();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    let mut ask = |method: &str, path: &str| {
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").unwrap();
        Answer::read(&mut reader, method == "HEAD")
    };
    assert_eq!(ask("HEAD", "/length").header("content-length"), Some("1234"));
    assert_eq!(ask("HEAD", "/chunked").header("content-length"), None);
    let cached = ask("GET", "/cached");
    assert_eq!(
        (cached.status, cached.header("content-length"), cached.header("etag")),
        (304, None, Some("\"a\""))
    );
    let empty = ask("GET", "/empty");
    assert_eq!(
        (empty.status, empty.header("content-length"), empty.header("transfer-encoding")),
        (204, None, None)
    );
}

#[test]
fn an_http_1_0_client_gets_an_answer_it_can_read() {
    let dyno = Dyno::answering(|_, _| {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".into()
    });
    let node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let answer = node.send("GET / HTTP/1.0\r\nHost: shop.localhost\r\n\r\n");
    assert_eq!((answer.header("transfer-encoding"), answer.body.as_str()), (None, "abc"));
    assert!(dyno.last_head().starts_with("GET / HTTP/1.1"));
}

#[test]
fn expect_100_continue_is_answered_by_the_router_and_others_refused() {
    let dyno = Dyno::answering(|_, body| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", body.len(), String::from_utf8_lossy(body))
    });
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    stream
        .write_all(
            b"POST /c HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
        )
        .unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    assert_eq!(Answer::read(&mut reader, true).status, 100);
    stream.write_all(b"hi").unwrap();
    assert_eq!(Answer::read(&mut reader, false).body, "hi");
    assert_eq!(header(&dyno.last_head(), "expect"), None);
    let refused = node.send("POST /e HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 0\r\nExpect: 200-ok\r\nConnection: close\r\n\r\n");
    assert_eq!(refused.status, 417);
    let line = node.control.line("/e");
    assert!(
        line.starts_with(
            "at=error code=H26 desc=\"Request Error\" cause=\"unsupported expect header value\" method=POST"
        ),
        "{line}"
    );
}

#[test]
fn events_arrive_as_they_are_sent() {
    let dyno = Dyno::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        common::read_head(&mut reader).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n").unwrap();
        // The next event comes only when the client has told that it saw the first one.
        let mut heard = [0];
        if reader.read_exact(&mut heard).is_ok() {
            let _ = stream.write_all(b"data: 2\n\n");
        }
    });
    let node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    stream.write_all(b"POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 1\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    assert!(common::read_head(&mut reader).unwrap().contains("text/event-stream"));
    let mut first = vec![0; 3 + 9 + 2];
    reader.read_exact(&mut first).unwrap();
    assert_eq!(first, b"9\r\ndata: 1\n\n\r\n");
    stream.write_all(b"x").unwrap();
    reader.read_exact(&mut first).unwrap();
    assert_eq!(first, b"9\r\ndata: 2\n\n\r\n");
}

#[test]
fn messages_whose_end_is_in_doubt_are_refused_or_made_plain() {
    let dyno = Dyno::answering(|head, body| {
        assert!(
            !(header(head, "content-length").is_some() && header(head, "transfer-encoding").is_some()),
            "{head}"
        );
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", body.len(), String::from_utf8_lossy(body))
    });
    let node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let request = |headers: &str, body: &str| {
        format!("POST /s HTTP/1.1\r\nHost: shop.localhost\r\n{headers}\r\n{body}")
    };
    for refused in [
        request("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"),
        request("Content-Length: 3, 3\r\n", "abc"),
        request("Content-Length: +3\r\n", "abc"),
        request("Content-Length: 0x3\r\n", "abc"),
        request("Transfer-Encoding: gzip\r\n", "abc"),
        request("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        request("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        request("X: 1\r\n folded\r\n", ""),
        "POST /s HTTP/1.0\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        "GET /s HTTP/1.1\r\nHost: shop.localhost\r\nX:\u{0}\r\n\r\n".into(),
        "GET /s HTTP/3.1\r\nHost: shop.localhost\r\n\r\n".into(),
        format!("GET /{} HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n", "a".repeat(8192)),
        format!(
            "GET / HTTP/1.1\r\nHost: shop.localhost\r\nX: {}\r\nConnection: close\r\n\r\n",
            "a".repeat(8192)
        ),
        "CONNECT shop.localhost:443 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n".into(),
    ] {
        let status = node.send(&refused).status;
        assert!(
            [400, 405, 414, 431].contains(&status),
            "{status} for {:?}",
            &refused[..refused.len().min(99)]
        );
    }
    assert!(dyno.heads.lock().unwrap().is_empty(), "none of them reached the dyno");
    // Chunked wins over a length, which the dyno never sees; the connection is not used again.
    let smuggled = "Content-Length: 30\r\nTransfer-Encoding: chunked\r\n";
    let mut stream = node.connect();
    stream
        .write_all(
            request(smuggled, "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: shop.localhost\r\n\r\n").as_bytes(),
        )
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("HTTP/1.1").count(), 1, "{text}");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(dyno.heads.lock().unwrap().len(), 1);
}
