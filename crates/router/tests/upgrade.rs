//! Upgraded connections, websockets among them.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufReader, Read, Write};
use std::time::Duration;

use common::{Dyno, Node, app, header, patient, read_head};
use ferroku_router::limits::Timeouts;

/// Answers the handshake and echoes every byte, until it reads `q`.
fn echo() -> Dyno {
    Dyno::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let head = read_head(&mut reader).unwrap();
        assert_eq!(header(&head, "connection"), Some("upgrade"));
        let protocol = header(&head, "upgrade").unwrap();
        let key = header(&head, "sec-websocket-key").unwrap_or_default();
        // The first bytes of the new protocol come in one packet with the answer.
        write!(
            stream,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: {protocol}\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {key}\r\n\r\nhi"
        )
        .unwrap();
        let mut buffer = [0; 65536];
        while let Ok(count) = reader.read(&mut buffer) {
            if count == 0 || buffer[..count].contains(&b'q') {
                return;
            }
            stream.write_all(&buffer[..count]).unwrap();
        }
    })
}

#[test]
fn bytes_go_both_ways_after_an_upgrade_to_anything() {
    let dyno = echo();
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    for (method, protocol) in [("GET", "websocket"), ("GET", "tcp"), ("HEAD", "websocket")] {
        let path = format!("/{method}/{protocol}");
        let mut stream = node.connect();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: shop.localhost\r\nUpgrade: {protocol}\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Key: abc\r\n\r\n"
        )
        .unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let head = read_head(&mut reader).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
        assert_eq!(header(&head, "upgrade"), Some(protocol));
        assert_eq!(header(&head, "connection"), Some("upgrade"));
        assert_eq!(header(&head, "sec-websocket-accept"), Some("abc"));
        let mut two = [0; 2];
        reader.read_exact(&mut two).unwrap();
        assert_eq!(&two, b"hi");
        let sent = "0123456789".repeat(20_000);
        let mut writer = stream.try_clone().unwrap();
        let bytes = sent.clone();
        let writing = std::thread::spawn(move || writer.write_all(bytes.as_bytes()).unwrap());
        let mut echoed = vec![0; sent.len()];
        reader.read_exact(&mut echoed).unwrap();
        writing.join().unwrap();
        assert_eq!(String::from_utf8(echoed).unwrap(), sent);
        stream.write_all(b"q").unwrap();
        assert_eq!(reader.read(&mut two).unwrap(), 0, "the dyno's end reaches the client");
        drop(stream);
        drop(reader);
        let line = node.control.line(&path);
        assert!(line.starts_with(&format!("at=info method={method} ")), "{line}");
        assert!(line.contains("dyno=web.1 connect=Nms service=Nms status=101 bytes=200002"), "{line}");
    }
}

#[test]
fn an_upgraded_connection_without_traffic_is_closed_as_h15() {
    let dyno = echo();
    let timeouts = Timeouts { idle: Duration::from_millis(900), ..patient() };
    let mut node = Node::start_with(timeouts, vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    stream
        .write_all(
            b"GET /i HTTP/1.1\r\nHost: shop.localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        )
        .unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    let line = node.control.line("/i");
    assert!(line.starts_with("at=error code=H15 desc=\"Idle connection\""), "{line}");
    assert!(line.contains("status=101 bytes=2"), "{line}");
}

#[test]
fn a_dyno_that_does_not_upgrade_answers_as_usual_and_clear_text_http2_is_not_offered() {
    let dyno = Dyno::saying("no");
    let node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    for protocol in ["websocket", "h2c"] {
        let answer = node.send(&format!(
            "GET / HTTP/1.1\r\nHost: shop.localhost\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AA\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n"
        ));
        assert_eq!((answer.status, answer.body.as_str()), (200, "no"));
        assert_eq!(header(&dyno.last_head(), "upgrade").is_some(), protocol == "websocket");
    }
}

#[test]
fn a_websocket_counts_as_in_flight_until_it_is_closed() {
    let dyno = echo();
    let next = Dyno::saying("ok");
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    stream
        .write_all(
            b"GET /w HTTP/1.1\r\nHost: shop.localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        )
        .unwrap();
    read_head(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
    node.control.publish(vec![app(vec![dyno.draining("web.1"), next.target("web.1")])]);
    node.control.hear(Duration::from_millis(200));
    assert!(node.control.drained.is_empty());
    drop(stream);
    node.control.until("the dyno to be drained", |control| control.drained == [dyno.id]);
}
