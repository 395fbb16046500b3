//! One check of arbitrary bytes, for the property test and for the fuzzer: whatever a client sends, what reaches the
//! dyno are the requests that the router has accepted, each at most once and as one.
//!
//! "Accepted" is what the router has logged; that each of them had a request line of its own is counted in the bytes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ferroku_router::limits::Timeouts;

use super::recorder::Recorder;
use crate::common::{Node, PATIENCE, app, short_timeouts};

/// Ends most of what is left open, and is itself the request that a smuggler would like to prefix.
const END: &[u8] = b"\r\n\r\nGET /end HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n";

/// A router with a strict dyno behind it.
pub struct Heads {
    node: Node,
    recorder: Recorder,
    count: u64,
}

impl Heads {
    pub fn start() -> Self {
        let recorder = Recorder::start();
        // What never becomes a request is given up soon.
        let timeouts = Timeouts {
            client_keep_alive: Duration::from_millis(40),
            idle: Duration::from_millis(100),
            ..short_timeouts()
        };
        let node = Node::start_with(timeouts, vec![app(vec![recorder.dyno.target("web.1")])]);
        Self { node, recorder, count: 0 }
    }

    /// Sends the bytes over one connection.
    ///
    /// # Panics
    /// When something else reached the dyno than was accepted.
    pub fn check(&mut self, wire: &[u8]) {
        self.count += 1;
        // An address of its own, by which its records are known: some come late.
        let client = Ipv4Addr::new(127, 0, 1 + (self.count / 250 % 250) as u8, 1 + (self.count % 250) as u8);
        let mut stream = connect_from(client, self.node.address);
        let wire = [wire, END].concat();
        // A router that has refused the beginning need not take the rest.
        let _ = stream.write_all(&wire);
        let mut answers = Vec::new();
        let _ = stream.read_to_end(&mut answers);
        drop(stream);
        let probe = format!("/probe-{}", self.count);
        assert_eq!(self.node.get(&probe).status, 200);
        let shown = String::from_utf8_lossy(&wire).into_owned();
        let seen = self.seen(&format!("GET {probe}"));
        let broken = self.recorder.broken();
        assert!(broken.is_empty(), "{broken:?} reached the dyno from {shown:?}");
        // A record may come a moment after the end of its connection, and after the probe's.
        let deadline = Instant::now() + PATIENCE;
        let unexplained = loop {
            let records = &self.node.control.records;
            let lines: Vec<&str> = records.iter().map(|record| record.line.as_str()).collect();
            let is_probe_there = lines.iter().any(|line| line.contains(&format!("path=\"{probe}\"")));
            let unexplained = first_unexplained(&seen, &lines);
            if (is_probe_there && unexplained.is_none()) || Instant::now() > deadline {
                break unexplained;
            }
            self.node.control.hear(Duration::from_millis(20));
        };
        let records: Vec<String> = self.node.control.records.drain(..).map(|record| record.line).collect();
        assert_eq!(
            unexplained, None,
            "reached the dyno from {shown:?}, of which these were accepted: {records:#?}"
        );
        let request_lines = shown.matches("HTTP/1.").count();
        let of_this = records.iter().filter(|line| line.contains(&format!("{client}\" dyno="))).count();
        assert!(of_this <= request_lines, "{records:#?} were made of {shown:?}");
    }

    /// What reached the dyno before the probe.
    fn seen(&self, probe: &str) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        while !self.recorder.seen().iter().any(|seen| seen.line == probe) {
            assert!(Instant::now() < deadline, "the probe is not seen");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.recorder.take().into_iter().map(|seen| seen.line).filter(|line| line != probe).collect()
    }
}

fn connect_from(client: Ipv4Addr, router: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((client, 0))).unwrap();
    connect(&socket, &router).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The first request that the dyno saw and that no record of its own tells of.
fn first_unexplained(seen: &[String], records: &[&str]) -> Option<String> {
    let mut unused = records.to_vec();
    seen.iter()
        .find(|line| {
            let (method, target) = line.split_once(' ').expect("a request line");
            let method = format!(" method={method} ");
            let place =
                unused.iter().position(|record| record.contains(&method) && has_target(record, target));
            place.map(|place| unused.swap_remove(place)).is_none()
        })
        .cloned()
}

/// The log escapes some bytes; a target that has them is not compared.
fn has_target(record: &str, target: &str) -> bool {
    let is_plain = target.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'"');
    !is_plain || record.contains(&format!(" path=\"{target}\" "))
}
