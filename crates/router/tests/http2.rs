//! HTTP/2 from clients (by TLS: `tls.rs`; with prior knowledge: here) and to dynos that ask for it, and what is
//! done about its abuse.
#![allow(clippy::unwrap_used)]

mod common;

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Dyno, Node, PATIENCE, app, header, patient};
use ferroku_core::DynoId;
use ferroku_core::protocol::router::{RouteApp, Target, TargetState};
use ferroku_router::limits::Timeouts;
use futures::StreamExt;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;
use uuid::Uuid;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn curl(node: &Node, arguments: &[&str], path: &str) -> String {
    let own_host = arguments.iter().any(|argument| argument.starts_with("Host:"));
    let host: &[&str] = if own_host { &[] } else { &["-H", "Host: shop.localhost"] };
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "20", "--http2-prior-knowledge"])
        .args(host)
        .args(arguments)
        .arg(format!("http://{}{path}", node.address))
        .output()
        .unwrap();
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_request_in_http2_reaches_the_dyno_in_http1_and_is_logged_as_what_it_was() {
    let dyno = Dyno::answering(|head, body| {
        let text = format!("{} {}", head.lines().next().unwrap(), body.len());
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: x-secret\r\nKeep-Alive: timeout=5\r\nX-Secret: 1\r\n\r\n{text}",
            text.len()
        )
    });
    let mut node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    let file = node.folder.path().join("body");
    std::fs::write(&file, "x".repeat(300_000)).unwrap();
    let body = format!("@{}", file.display());
    let answer =
        curl(&node, &["-i", "-H", "Cookie: a=1", "-H", "Cookie: b=2", "--data-binary", &body], "/p?q=1");
    assert!(answer.starts_with("HTTP/2 200"), "{answer}");
    assert!(answer.ends_with("POST /p?q=1 HTTP/1.1 300000"), "{answer}");
    assert!(!answer.contains("keep-alive") && !answer.contains("x-secret"), "{answer}");
    let head = dyno.last_head();
    assert_eq!(header(&head, "host"), Some("shop.localhost"));
    assert_eq!(header(&head, "via"), Some("2.0 ferroku-router"));
    assert_eq!(header(&head, "x-forwarded-proto"), Some("http"));
    assert_eq!(header(&head, "cookie"), Some("a=1; b=2"));
    let line = node.control.line("/p?q=1");
    assert!(line.ends_with("status=200 bytes=27 protocol=http2.0 tls=false"), "{line}");
    assert!(curl(&node, &["-I"], "/head").starts_with("HTTP/2 200"));
    assert!(curl(&node, &["-H", "Host: other.localhost", "-i"], "/").starts_with("HTTP/2 404"));
}

#[test]
fn the_routers_own_answers_are_the_same_in_http2() {
    let dyno = Dyno::once("HTTP/1.1 200\r\n");
    let mut node = Node::start(vec![RouteApp { maintenance: true, ..app(vec![dyno.target("web.1")]) }]);
    let answer = curl(&node, &["-i"], "/m");
    assert!(answer.starts_with("HTTP/2 503") && answer.contains("Offline for maintenance"), "{answer}");
    assert!(node.control.line("/m").starts_with("at=info code=H80 "));
    on_runtime(async {
        let mut sender = connect::<Full<Bytes>>(node.address).await;
        let request = Request::connect("shop.localhost:443").body(Full::default()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), 405);
    });
}

/// A dyno that speaks HTTP/2 in clear text and nothing else: says each message that it gets again at once, and
/// ends with trailers.
struct Http2Dyno {
    target: Target,
    connections: mpsc::UnboundedReceiver<SocketAddr>,
}

async fn http2_dyno() -> Http2Dyno {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, connections) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, client)) = listener.accept().await {
            connected.send(client).unwrap();
            let service = hyper::service::service_fn(echo);
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let target = Target {
        dyno_id: DynoId(Uuid::new_v4()),
        name: "web.1".into(),
        address,
        state: TargetState::Healthy,
        asleep: None,
    };
    Http2Dyno { target, connections }
}

type Frames = std::pin::Pin<Box<dyn futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

async fn echo(request: Request<Incoming>) -> Result<Response<StreamBody<Frames>>, Infallible> {
    assert_eq!(request.version(), Version::HTTP_2);
    let mut response = Response::builder().header("content-type", "application/grpc");
    for name in ["te", "x-forwarded-for", "content-type", "via"] {
        if let Some(value) = request.headers().get(name) {
            response = response.header(format!("seen-{name}"), value);
        }
    }
    response = response.header("seen-authority", request.uri().authority().unwrap().as_str());
    assert!(!request.headers().contains_key("transfer-encoding") && !request.headers().contains_key("host"));
    let frames =
        http_body_util::BodyStream::new(request.into_body()).filter_map(async |frame| frame.ok().map(Ok));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let end = futures::stream::once(async { Ok(Frame::trailers(trailers)) });
    let frames: Frames = Box::pin(
        frames
            .filter(|frame: &Result<Frame<Bytes>, _>| {
                futures::future::ready(frame.as_ref().is_ok_and(Frame::is_data))
            })
            .chain(end),
    );
    Ok(response.body(StreamBody::new(frames)).unwrap())
}

async fn connect<B>(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<B>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

#[test]
fn a_grpc_conversation_streams_both_ways_and_ends_with_trailers() {
    on_runtime(async {
        let dyno = http2_dyno().await;
        let mut node = Node::start(vec![RouteApp { http2: true, ..app(vec![dyno.target.clone()]) }]);
        let mut sender = connect(node.address).await;
        let (messages, queue) = mpsc::unbounded_channel::<Bytes>();
        let queue = futures::stream::unfold(queue, async |mut queue| {
            queue.recv().await.map(|bytes| (Ok::<_, Infallible>(Frame::data(bytes)), queue))
        });
        let request = Request::post("http://shop.localhost/pkg.Service/Chat")
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .body(StreamBody::new(Box::pin(queue)))
            .unwrap();
        messages.send(Bytes::from_static(b"hello")).unwrap();
        let response = tokio::time::timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
        let headers = response.headers().clone();
        assert_eq!(headers["seen-te"], "trailers");
        assert_eq!(headers["seen-authority"], "shop.localhost");
        assert_eq!(headers["seen-via"], "2.0 ferroku-router");
        let mut body = response.into_body();
        // Each message is answered while the request goes on.
        for (said, next) in [("hello", "again"), ("again", "and again"), ("and again", "")] {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), said);
            messages.send(Bytes::from(next)).unwrap();
        }
        drop(messages);
        let trailers = loop {
            let frame = tokio::time::timeout(PATIENCE, body.frame()).await.unwrap().unwrap().unwrap();
            if let Ok(trailers) = frame.into_trailers() {
                break trailers;
            }
        };
        assert_eq!(trailers["grpc-status"], "0");
        let line = node.control.line("/pkg.Service/Chat");
        assert!(line.starts_with("at=info ") && line.contains(" bytes=19 protocol=http2.0 "), "{line}");
    });
}

#[test]
fn an_app_in_http2_serves_clients_in_http1_over_one_connection_a_worker() {
    on_runtime(async {
        let mut dyno = http2_dyno().await;
        let node = Node::start(vec![RouteApp { http2: true, ..app(vec![dyno.target.clone()]) }]);
        let answers = (0..20).map(|number| {
            let request = format!(
                "POST /{number} HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
            );
            let node = &node;
            async move { node.send(&request) }
        });
        for answer in futures::future::join_all(answers).await {
            assert_eq!((answer.status, answer.body.as_str()), (200, "hi"));
            assert_eq!(answer.header("seen-via"), Some("1.1 ferroku-router"));
        }
        let mut connections = 0;
        while dyno.connections.try_recv().is_ok() {
            connections += 1;
        }
        assert!((1..=2).contains(&connections), "{connections} connections for two workers");
    });
}

#[test]
fn h13_when_an_app_that_asks_for_http2_speaks_only_http1() {
    // One that answers what it cannot read, as nginx does, one that takes the preface for a request, and one that hangs up.
    let refusing = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for (number, dyno) in [Dyno::once(refusing), Dyno::saying("ok"), Dyno::once("")].iter().enumerate() {
        let mut node = Node::start(vec![RouteApp { http2: true, ..app(vec![dyno.target("web.1")]) }]);
        let path = format!("/{number}");
        assert_eq!(node.get(&path).status, 503);
        let answer = curl(&node, &["-o", "/dev/null", "-w", "%{http_code}"], &format!("{path}/2"));
        assert_eq!(answer, "503");
        for path in [path.clone(), format!("{path}/2")] {
            let line = node.control.line(&path);
            let h13 = "at=error code=H13 desc=\"Connection closed without response\" ";
            assert!(line.starts_with(h13), "{line}");
        }
    }
}

#[test]
fn a_slow_reader_of_one_response_does_not_hold_up_another_on_the_same_connection() {
    on_runtime(async {
        let dyno = http2_dyno().await;
        let node = Node::start(vec![RouteApp { http2: true, ..app(vec![dyno.target.clone()]) }]);
        let mut sender = connect(node.address).await;
        let request = |size: usize| {
            let body = Full::new(Bytes::from(vec![b'x'; size]));
            Request::post("http://shop.localhost/").body(body).unwrap()
        };
        // Not read: its window fills up.
        let stalled = sender.send_request(request(50_000)).await.unwrap();
        for _ in 0..50 {
            let answer =
                tokio::time::timeout(PATIENCE, sender.send_request(request(2_000))).await.unwrap().unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 2_000);
        }
        assert_eq!(stalled.into_body().collect().await.unwrap().to_bytes().len(), 50_000);
    });
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `GET /` on `shop.localhost`, with the static table and literals only (RFC 7541).
fn head() -> Vec<u8> {
    let mut block = vec![0x82, 0x86, 0x84, 0x41, 14];
    block.extend(b"shop.localhost");
    block
}

/// Sends the preface, settings and then `next(n)` again and again, until the router has closed the connection;
/// `None` when it took them all.
fn flood(node: &Node, rounds: u32, next: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    let mut stream = node.connect();
    let mut reader = stream.try_clone().unwrap();
    let closed = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while reader.read(&mut buffer).is_ok_and(|count| count > 0) {}
    });
    stream.write_all(PREFACE).unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    let broken = (0..rounds).find(|round| stream.write_all(&next(*round)).is_err());
    // Sooner than a connection is closed for another reason.
    let deadline = Instant::now() + PATIENCE / 2;
    while !closed.is_finished() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    (broken.is_some() || closed.is_finished()).then_some(broken.unwrap_or(rounds))
}

#[test]
fn floods_end_their_connection_and_reach_no_dyno() {
    let dyno = Dyno::answering(|_, _| {
        std::thread::sleep(Duration::from_millis(300));
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into()
    });
    let node = Node::start(vec![app(vec![dyno.target("web.1")])]);
    // Rapid reset: a request and its end in one breath.
    let reset = flood(&node, 20_000, |round| {
        let stream = 2 * round + 1;
        [frame(1, 0x5, stream, &head()), frame(3, 0, stream, &8u32.to_be_bytes())].concat()
    });
    assert!(reset.is_some(), "resets without end were taken");
    // CONTINUATION without end: the head never ends, and is never kept.
    let continued = flood(&node, 20_000, |round| match round {
        0 => frame(1, 0x1, 1, &head()),
        _ => frame(9, 0, 1, &[&[0x00, 1, b'a', 127][..], &[0], &[b'x'; 127]].concat()),
    });
    assert!(continued.is_some(), "a head without end was taken");
    // Empty ones do not even count as bytes.
    let empty = flood(&node, 100_000, |round| match round {
        0 => frame(1, 0x1, 1, &head()),
        _ => frame(9, 0, 1, &[]),
    });
    assert!(empty.is_some(), "empty CONTINUATION frames without end were taken");
    // A header bomb: one long field in the dynamic table, then named again and again.
    let before = dyno.heads.lock().unwrap().len();
    let bomb = {
        let mut block = head();
        block.extend([0x40, 1, b'a', 127, 0x81, 0x1e]);
        block.extend(vec![b'x'; 127 + 0x0f01 - 1]);
        block.extend(vec![0xbe; 12_000]);
        block
    };
    let mut stream = node.connect();
    stream.write_all(PREFACE).unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    let _ = stream.write_all(&frame(1, 0x5, 1, &bomb));
    let _ = stream.read(&mut [0; 4096]);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(dyno.heads.lock().unwrap().len(), before, "a head of megabytes reached the dyno");
    assert_eq!(node.get("/after").status, 200, "the router lives on");
}

#[test]
fn an_idle_http2_connection_is_closed() {
    let node =
        Node::start_with(Timeouts { client_keep_alive: Duration::from_millis(300), ..patient() }, vec![]);
    let mut stream = node.connect();
    stream.write_all(PREFACE).unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert!(!all.is_empty());
}

#[test]
fn h28_when_a_client_stops_taking_one_response_of_an_http2_connection() {
    let dyno = Dyno::answering(|_, _| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n{}", "x".repeat(3_000_000))
    });
    let timeouts = Timeouts { idle: Duration::from_millis(900), ..patient() };
    let mut node = Node::start_with(timeouts, vec![app(vec![dyno.target("web.1")])]);
    let mut stream = node.connect();
    stream.write_all(PREFACE).unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).unwrap();
    // The window of 64 KB is never opened again.
    stream.write_all(&frame(1, 0x5, 1, &head())).unwrap();
    let mut reader = stream.try_clone().unwrap();
    std::thread::spawn(move || while reader.read(&mut [0; 65536]).is_ok_and(|count| count > 0) {});
    let line = node.control.line("/");
    assert!(line.starts_with("at=warning code=H28 desc=\"Client Connection Idle\" "), "{line}");
    assert_eq!(node.get("/after").status, 200);
}

#[test]
fn events_arrive_as_they_are_sent_in_http2_too() {
    let dyno = Dyno::raw(|mut stream| {
        let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
        let _ = common::read_head(&mut reader);
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        for number in 0..3 {
            let event = format!("data: {number}\n\n");
            let _ = write!(stream, "{:x}\r\n{event}\r\n", event.len());
            // The next one is sent only after the client has had time to get this one.
            std::thread::sleep(Duration::from_millis(300));
        }
        let _ = stream.write_all(b"0\r\n\r\n");
    });
    on_runtime(async {
        let node = Node::start(vec![app(vec![dyno.target("web.1")])]);
        let mut sender = connect::<Full<Bytes>>(node.address).await;
        let request = Request::get("http://shop.localhost/events").body(Full::default()).unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        let mut arrivals = Vec::new();
        while let Some(frame) = body.frame().await {
            if frame.unwrap().data_ref().is_some_and(|data| !data.is_empty()) {
                arrivals.push(Instant::now());
            }
        }
        assert_eq!(arrivals.len(), 3);
        assert!(arrivals[2] - arrivals[0] >= Duration::from_millis(300), "they came together: {arrivals:?}");
    });
}
