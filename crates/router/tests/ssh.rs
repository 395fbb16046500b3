//! SSH clients that come to the router's port.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use common::{Dyno, Node, PATIENCE, app};
use ferroku_router::socket;

#[test]
fn they_are_handed_over_byte_for_byte_and_told_apart_from_http() {
    let dyno = Dyno::saying("hello");
    let node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let mut client = node.connect();
    client.write_all(b"SSH-2.0-nobody listens\r\n").unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "This server takes no SSH sessions now; try again.\r\n");

    let control = socket::bind(&node.folder.path().join("ssh.sock")).unwrap();
    let mut client = node.connect();
    // However it comes in pieces.
    for piece in [&b"S"[..], b"SH-2", b".0-test\r\n"] {
        client.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    let (mut server, _) = control.accept().unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let expected = format!("{}\nSSH-2.0-test\r\n", client.local_addr().unwrap());
    let mut come = vec![0; expected.len()];
    server.read_exact(&mut come).unwrap();
    assert_eq!(String::from_utf8(come).unwrap(), expected);
    let large = vec![7u8; 1_000_000];
    let (mut sender, bytes) = (client.try_clone().unwrap(), large.clone());
    let sending =
        std::thread::spawn(move || sender.write_all(&bytes).and_then(|()| sender.shutdown(Shutdown::Write)));
    let mut come = Vec::new();
    server.read_to_end(&mut come).unwrap();
    assert!(come == large, "and the end of one direction alone");
    sending.join().unwrap().unwrap();
    server.write_all(&large).unwrap();
    drop(server);
    let mut came = Vec::new();
    client.read_to_end(&mut came).unwrap();
    assert!(came == large);

    // What only begins like it is HTTP, and answered as such.
    let answer = node.send("SSH-2.1 / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.status, 200, "a method like any other");
    assert_eq!(node.get("/").status, 200);
}

#[test]
fn one_that_never_closes_is_closed_when_control_has_closed() {
    let limits = ferroku_router::limits::ConnectionLimits { per_address: 1, ..Default::default() };
    let node = Node::start_limited(common::patient(), limits, Vec::new());
    let control = socket::bind(&node.folder.path().join("ssh.sock")).unwrap();
    let mut client = node.connect();
    client.write_all(b"SSH-2.0-test\r\n").unwrap();
    drop(control.accept().unwrap());
    assert_eq!(client.read(&mut [0; 16]).unwrap_or(0), 0, "told the end");
    // The only place of this address is free again, though `client` lives on.
    let begun = std::time::Instant::now();
    let answered = || {
        let mut other = node.connect();
        let _ = other.write_all(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n");
        other.read(&mut [0; 16]).unwrap_or(0) > 0
    };
    while !answered() {
        assert!(begun.elapsed() < PATIENCE, "its place is held");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(client);
}

#[test]
fn they_do_not_hold_up_a_router_that_leaves() {
    let mut node = Node::start(Vec::new());
    let control = socket::bind(&node.folder.path().join("ssh.sock")).unwrap();
    let mut client = node.connect();
    client.write_all(b"SSH-2.0-test\r\n").unwrap();
    let (_server, _) = control.accept().unwrap();
    let router = node.router.take().unwrap();
    router.leave();
    router.wait();
    assert_eq!(client.read(&mut [0; 16]).unwrap_or(0), 0, "closed");
}
