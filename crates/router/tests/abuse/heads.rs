//! One check of arbitrary bytes, for the property test and for the fuzzer: whatever a client sends, what reaches the
//! dyno are the requests that the router has accepted, each at most once and as one.
//!
//! "Accepted" is what the router has logged; that each of them had a request line of its own is counted in the bytes.

use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ferroku_router::limits::Timeouts;

use super::recorder::{Recorder, Seen};
use crate::common::{Answer, Node, PATIENCE, app, header, patient, patiently};

/// Ends most of what is left open, and is itself the request that a smuggler would like to prefix.
const END: &[u8] = b"\r\n\r\nGET /end HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n";

/// Records that are remembered for what the dyno has not shown yet: a request that was cut off is seen when its
/// connection ends, which may be after the next check has begun.
const LATE_RECORDS: usize = 64;

/// A router with a strict dyno behind it.
pub struct Heads {
    node: Node,
    recorder: Recorder,
    count: u64,
    /// Those of the checks before.
    late: Vec<String>,
}

impl Heads {
    pub fn start() -> Self {
        let recorder = Recorder::start();
        // What never becomes a request is given up soon.
        let timeouts = Timeouts {
            client_keep_alive: Duration::from_millis(40),
            idle: Duration::from_millis(100),
            ..patient()
        };
        let node = Node::start_with(timeouts, vec![app(vec![recorder.dyno.target("web.1")])]);
        Self { node, recorder, count: 0, late: Vec::new() }
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
        self.probe(&probe);
        let shown = String::from_utf8_lossy(&wire).into_owned();
        let seen = self.seen(&format!("GET {probe}"));
        let broken = self.recorder.broken();
        assert!(broken.is_empty(), "{broken:?} reached the dyno from {shown:?}");
        // A record may come a moment after the end of its connection, and after the probe's.
        let deadline = Instant::now() + PATIENCE;
        let unexplained = loop {
            let records = &self.node.control.records;
            let lines = records.iter().map(|record| &record.line).chain(&self.late);
            let lines: Vec<&str> = lines.map(String::as_str).collect();
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
        self.late.splice(0..0, records);
        self.late.truncate(LATE_RECORDS);
    }

    /// Asks until it is answered: with so little time, a connection may end before its request was written.
    fn probe(&self, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n");
        patiently(|| {
            let mut stream = self.node.connect();
            let _ = stream.write_all(request.as_bytes());
            let answer = Answer::try_read(&mut BufReader::new(stream), false);
            answer.is_ok_and(|answer| answer.status == 200)
        });
    }

    /// What reached the dyno before the probe.
    fn seen(&self, probe: &str) -> Vec<Seen> {
        let deadline = Instant::now() + PATIENCE;
        while !self.recorder.seen().iter().any(|seen| seen.line == probe) {
            assert!(Instant::now() < deadline, "the probe is not seen");
            std::thread::sleep(Duration::from_millis(1));
        }
        self.recorder.take().into_iter().filter(|seen| seen.line != probe).collect()
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
fn first_unexplained(seen: &[Seen], records: &[&str]) -> Option<String> {
    let mut unused = records.to_vec();
    let is_unexplained = |seen: &&Seen| {
        let (method, target) = seen.line.split_once(' ').expect("a request line");
        let method = format!(" method={method} ");
        // Whose it is: the rightmost address is the router's word.
        let client = header(&seen.head, "x-forwarded-for").and_then(|all| all.split(", ").last());
        let client = format!("{}\" dyno=", client.unwrap_or_default());
        let place = unused.iter().position(|record| {
            record.contains(&method) && record.contains(&client) && has_target(record, target)
        });
        place.map(|place| unused.swap_remove(place)).is_none()
    };
    seen.iter().find(is_unexplained).map(|seen| seen.line.clone())
}

/// The log escapes some bytes; a target that has them is not compared.
fn has_target(record: &str, target: &str) -> bool {
    let is_plain = target.bytes().all(|byte| (0x21..0x7f).contains(&byte) && byte != b'"');
    !is_plain || record.contains(&format!(" path=\"{target}\" "))
}
