//! A router on a free port, dynos that do as they are told, a control that speaks the protocol, and clients
//! over plain TCP.
#![allow(clippy::unwrap_used, dead_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferroku_core::protocol::frame::Decoder;
use ferroku_core::protocol::router::{
    Acknowledge, Certificate, CertificateUse, FromRouter, Hello, MetricsReport, PROTOCOL_VERSION, Probed,
    RequestRecord, Role, RouteApp, RouteTable, Target, TargetState, ToRouter,
};
use ferroku_core::{AppId, DynoId};
use ferroku_router::limits::{ConnectionLimits, Timeouts};
use ferroku_router::{Listener, Router, RouterConfig, socket};
use tempfile::TempDir;
use uuid::Uuid;

/// Longest time anything here waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Times that nothing runs into, on a busy machine either: a test shortens what it provokes. Only the end of a router is
/// as short as a test wants it.
pub fn patient() -> Timeouts {
    Timeouts {
        connect: PATIENCE,
        quarantine: Duration::from_millis(400),
        connect_budget: PATIENCE,
        first_byte: PATIENCE,
        idle: PATIENCE,
        boot: PATIENCE,
        client_keep_alive: PATIENCE,
        leave_idle: Duration::from_millis(300),
        drain: Duration::from_secs(3),
        ..Timeouts::default()
    }
}

pub struct Node {
    pub folder: TempDir,
    pub listener: TcpListener,
    pub address: SocketAddr,
    pub router: Option<Router>,
    pub control: Control,
}

impl Node {
    /// A patient router and a connected control that has published `apps`.
    pub fn start(apps: Vec<RouteApp>) -> Self {
        Self::start_with(patient(), apps)
    }

    pub fn start_with(timeouts: Timeouts, apps: Vec<RouteApp>) -> Self {
        Self::start_limited(timeouts, ConnectionLimits::default(), apps)
    }

    pub fn start_limited(timeouts: Timeouts, limits: ConnectionLimits, apps: Vec<RouteApp>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let router = start_router_with(folder.path(), &listener, timeouts, limits);
        let mut control = Control::connect(&folder.path().join("router.sock"));
        control.publish(apps);
        Self { folder, listener, address, router: Some(router), control }
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n"))
    }

    /// Sends the bytes as they are and reads one answer.
    pub fn send(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        Answer::read(&mut BufReader::new(stream), request.starts_with("HEAD "))
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("router.sock")
    }

    /// What the router has counted, once it is so: a control that connects gets a report at once.
    pub fn report(&mut self, is_so: impl Fn(&MetricsReport) -> bool) -> MetricsReport {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.control.disconnect();
            self.control = Control::connect(&self.socket());
            self.control.until("a report", |control| control.metrics.is_some());
            let report = self.control.metrics.clone().unwrap();
            if is_so(&report) {
                return report;
            }
            assert!(Instant::now() < deadline, "{report:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(router) = self.router.take() {
            router.leave();
            router.wait();
        }
    }
}

pub fn start_router(folder: &Path, listener: &TcpListener, timeouts: Timeouts) -> Router {
    start_router_with(folder, listener, timeouts, ConnectionLimits::default())
}

pub fn start_router_with(
    folder: &Path,
    listener: &TcpListener,
    timeouts: Timeouts,
    connection_limits: ConnectionLimits,
) -> Router {
    let api: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
    Router::start(RouterConfig {
        listeners: vec![Listener { listener: listener.try_clone().unwrap(), public_port: None }],
        api_listener: Some(api),
        control: socket::bind(&folder.join("router.sock")).unwrap(),
        state_folder: folder.to_owned(),
        binary_digest: "test".into(),
        workers: 2,
        trusted_uid: rustix::process::geteuid().as_raw(),
        timeouts,
        connection_limits,
        ssh_socket: Some(folder.join("ssh.sock")),
    })
    .unwrap()
}

/// Control's end of the router's socket.
pub struct Control {
    stream: UnixStream,
    heard: Receiver<FromRouter>,
    pub records: Vec<RequestRecord>,
    pub drained: Vec<DynoId>,
    pub woken: Vec<AppId>,
    pub probed: Vec<Probed>,
    pub metrics: Option<MetricsReport>,
    pub applied: u64,
    pub left: bool,
    pub acknowledges: bool,
    pub instance: u64,
    version: u64,
}

impl Control {
    pub fn connect(socket: &Path) -> Self {
        let mut stream = ferroku_router::socket::connect(socket).unwrap();
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            binary_digest: String::new(),
            instance: 0,
            role: Role::Control,
        };
        stream.write_all(&ToRouter::Hello(hello).encode().unwrap()).unwrap();
        let (sender, heard) = channel();
        let mut reader = stream.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut decoder = Decoder::default();
            let mut buffer = [0; 65536];
            while let Ok(count) = reader.read(&mut buffer) {
                if count == 0 {
                    return;
                }
                decoder.push(&buffer[..count]);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    if let Some(message) = FromRouter::decode(&frame).unwrap()
                        && sender.send(message).is_err()
                    {
                        return;
                    }
                }
            }
        });
        Self {
            stream,
            heard,
            records: Vec::new(),
            drained: Vec::new(),
            woken: Vec::new(),
            probed: Vec::new(),
            metrics: None,
            applied: 0,
            left: false,
            acknowledges: true,
            instance: 0,
            version: 0,
        }
    }

    /// Publishes a table and waits until it is served.
    pub fn publish(&mut self, apps: Vec<RouteApp>) {
        self.publish_table(RouteTable { apps, ..RouteTable::default() });
    }

    /// As [`Self::publish`], with certificates for hosts, sent anew.
    pub fn publish_certificates(&mut self, apps: Vec<RouteApp>, certificates: &[(Certificate, Vec<String>)]) {
        for (certificate, _) in certificates {
            self.say(&ToRouter::Certificate(certificate.clone()));
        }
        self.publish_table(RouteTable { apps, certificates: shown(certificates), ..RouteTable::default() });
    }

    /// As [`Self::publish`], with all that a table can have.
    pub fn publish_table(&mut self, table: RouteTable) {
        self.version += 1;
        let version = self.version;
        self.say(&ToRouter::Table(RouteTable { version, ..table }));
        self.until("the table to be applied", |control| control.applied == version);
    }

    pub fn say(&mut self, message: &ToRouter) {
        self.stream.write_all(&message.encode().unwrap()).unwrap();
    }

    /// Ends the connection, as a killed control does.
    pub fn disconnect(&mut self) {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
    }

    pub fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}; records: {:#?}", self.records);
            self.hear(Duration::from_millis(100));
        }
    }

    /// Takes in what came within `time`.
    pub fn hear(&mut self, time: Duration) {
        match self.heard.recv_timeout(time) {
            Ok(FromRouter::TableApplied(applied)) => self.applied = applied.version,
            Ok(FromRouter::Drained(drained)) => self.drained.push(drained.dyno_id),
            Ok(FromRouter::RequestLog(log)) => {
                let sequence = log.records.last().unwrap().sequence;
                self.records.extend(log.records);
                if self.acknowledges {
                    let acknowledge = Acknowledge { instance: log.instance, sequence };
                    let _ = self.stream.write_all(&ToRouter::Acknowledge(acknowledge).encode().unwrap());
                }
            }
            Ok(FromRouter::Leaving) => self.left = true,
            Ok(FromRouter::Hello(hello)) => self.instance = hello.instance,
            Ok(FromRouter::Wake(wake)) => self.woken.push(wake.app_id),
            Ok(FromRouter::Probed(probed)) => self.probed.push(probed),
            Ok(FromRouter::Metrics(report)) => self.metrics = Some(report),
            Ok(FromRouter::Listeners) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    /// The only line of a request to `path`, with ids and times masked.
    pub fn line(&mut self, path: &str) -> String {
        let wanted = format!("path=\"{path}\"");
        self.until(&wanted, |control| control.records.iter().any(|record| record.line.contains(&wanted)));
        let lines: Vec<_> = self.records.iter().filter(|record| record.line.contains(&wanted)).collect();
        assert_eq!(lines.len(), 1, "{lines:#?}");
        mask(&lines[0].line)
    }
}

/// What a table says of certificates.
pub fn shown(certificates: &[(Certificate, Vec<String>)]) -> Vec<CertificateUse> {
    certificates.iter().map(|(certificate, hosts)| certificate.shown_to(hosts.clone())).collect()
}

/// Replaces ids and times.
pub fn mask(line: &str) -> String {
    let masked = line.split(' ').map(|field| match field.split_once('=') {
        Some(("request_id", id)) if Uuid::parse_str(id).is_ok() => "request_id=UUID".to_owned(),
        Some((name @ ("connect" | "service"), time)) if time.ends_with("ms") => {
            time.trim_end_matches("ms").parse::<u64>().unwrap();
            format!("{name}=Nms")
        }
        _ => field.to_owned(),
    });
    masked.collect::<Vec<_>>().join(" ")
}

/// One HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// Reads one answer; panics when it is cut short.
    pub fn read(stream: &mut impl BufRead, no_body: bool) -> Self {
        Self::try_read(stream, no_body).unwrap()
    }

    pub fn try_read(stream: &mut impl BufRead, no_body: bool) -> std::io::Result<Self> {
        let head = read_head(stream)?;
        if head.is_empty() {
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "no answer came"));
        }
        if !head.starts_with("HTTP/1.") {
            // A frame of HTTP/2, or a TLS alert.
            return Err(std::io::Error::other(format!("what came is no answer in HTTP/1: {head:?}")));
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut answer = Self { status, head, body: String::new() };
        let mut body = Vec::new();
        if no_body || status == 304 || status == 204 || status < 200 {
        } else if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let mut size = String::new();
                stream.read_line(&mut size)?;
                let size = usize::from_str_radix(size.trim(), 16)
                    .map_err(|_| std::io::Error::other("the chunked body was cut short"))?;
                let mut chunk = vec![0; size + 2];
                stream.read_exact(&mut chunk)?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&chunk[..size]);
            }
        } else if let Some(length) = answer.header("content-length") {
            body = vec![0; length.parse().unwrap()];
            stream.read_exact(&mut body)?;
        } else {
            stream.read_to_end(&mut body)?;
        }
        answer.body = String::from_utf8(body).unwrap();
        Ok(answer)
    }

    /// The only header of this name; panics when there are more.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut found = head.lines().skip(1).filter_map(|line| {
        let (given, value) = line.split_once(':')?;
        given.eq_ignore_ascii_case(name).then(|| value.trim())
    });
    let first = found.next();
    assert!(found.next().is_none(), "more than one {name} in {head}");
    first
}

/// Reads up to the empty line; empty at the end of the stream.
pub fn read_head(stream: &mut impl BufRead) -> std::io::Result<String> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok(head);
        }
        head.push_str(&line);
    }
}

/// Dynos that answer only once the flag is set.
pub fn held_dyno() -> (Dyno, Arc<AtomicBool>) {
    let release = Arc::new(AtomicBool::new(false));
    let go = release.clone();
    let dyno = Dyno::answering(move |_, _| {
        patiently(|| go.load(Ordering::SeqCst));
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into()
    });
    (dyno, release)
}

/// A web dyno: calls `serve` with each connection, on a thread of its own.
pub struct Dyno {
    pub address: SocketAddr,
    pub id: DynoId,
    pub heads: Arc<Mutex<Vec<String>>>,
    pub connections: Arc<Mutex<usize>>,
}

impl Dyno {
    pub fn raw(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = Arc::new(serve);
        let connections = Arc::new(Mutex::new(0));
        let counter = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                stream.set_nodelay(true).unwrap();
                *counter.lock().unwrap() += 1;
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { address, id: DynoId(Uuid::new_v4()), heads: Arc::default(), connections }
    }

    /// Answers every request with what `answer` makes of its head and body, keeping connections open.
    pub fn answering(answer: impl Fn(&str, &[u8]) -> String + Send + Sync + 'static) -> Self {
        let heads: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = heads.clone();
        let mut dyno = Self::raw(move |stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut stream = stream;
            while let Ok(head) = read_head(&mut reader)
                && !head.is_empty()
            {
                seen.lock().unwrap().push(head.clone());
                let body = read_body(&mut reader, &head);
                if stream.write_all(answer(&head, &body).as_bytes()).is_err() {
                    return;
                }
            }
        });
        dyno.heads = heads;
        dyno
    }

    /// Answers 200 with `body`.
    pub fn saying(body: &str) -> Self {
        let body = body.to_owned();
        Self::answering(move |_, _| {
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        })
    }

    /// Answers every connection with these bytes and closes it.
    pub fn once(bytes: &'static str) -> Self {
        Self::raw(move |stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let _ = read_head(&mut reader);
            let mut stream = stream;
            let _ = stream.write_all(bytes.as_bytes());
        })
    }

    pub fn target(&self, name: &str) -> Target {
        Target {
            dyno_id: self.id,
            name: name.into(),
            address: self.address,
            state: TargetState::Healthy,
            asleep: None,
        }
    }

    pub fn draining(&self, name: &str) -> Target {
        Target { state: TargetState::Draining, ..self.target(name) }
    }

    /// Waits for its next requests, until it has had as many.
    pub fn wait_for_heads(&self, count: usize) {
        patiently(|| self.heads.lock().unwrap().len() >= count);
    }

    pub fn last_head(&self) -> String {
        self.heads.lock().unwrap().last().cloned().unwrap()
    }
}

/// A socket whose address is its own and which does not listen: connections to it are refused.
pub fn refusing() -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    socket.into()
}

/// Returns once it is so, or when patience ran out: what follows tells.
pub fn patiently(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn read_body(reader: &mut impl BufRead, head: &str) -> Vec<u8> {
    let mut body = Vec::new();
    if header(head, "transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).unwrap();
            let Ok(size) = usize::from_str_radix(size.trim(), 16) else { return body };
            let mut chunk = vec![0; size + 2];
            if reader.read_exact(&mut chunk).is_err() || size == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }
    let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
    body.resize(length, 0);
    let _ = reader.read_exact(&mut body);
    body
}

/// An app with the host `shop.localhost`.
pub fn app(targets: Vec<Target>) -> RouteApp {
    RouteApp {
        web_quantity: 1,
        targets,
        ..RouteApp::new(AppId(Uuid::from_u128(1)), "shop", vec!["shop.localhost".into()])
    }
}
