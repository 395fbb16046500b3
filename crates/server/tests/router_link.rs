//! Control's link to real routers: tables, drained dynos and request records over restarts of either side.
#![allow(clippy::unwrap_used)]

mod routers;

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use ferroku_core::protocol::router::{RouteApp, RouteTable, Target, TargetState};
use ferroku_core::{AppId, DynoId};
use ferroku_logplex::{Filter, LogLine, Logplex};
use ferroku_server::router_link::{RouterEvent, RouterLink};
use routers::{end, start_router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);

/// A dyno that answers each connection once, after as many milliseconds as the path says.
async fn dyno() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let count = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..count]).into_owned();
                let pause = head.split(['/', ' ']).nth(2).and_then(|pause| pause.parse().ok()).unwrap_or(0);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await;
            });
        }
    });
    address
}

fn table(dyno_id: DynoId, address: SocketAddr, state: TargetState) -> RouteTable {
    let app = RouteApp {
        web_quantity: 1,
        booting: true,
        targets: vec![Target { dyno_id, name: "web.1".into(), address, state, asleep: None }],
        ..RouteApp::new(AppId(Uuid::from_u128(1)), "shop", vec!["shop.localhost".into()])
    };
    RouteTable { apps: vec![app], ..RouteTable::default() }
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

/// Moves records into the log as the dyno manager does.
fn store(link: &RouterLink, logplex: Logplex) {
    let mut batches = link.take_request_batches().unwrap();
    tokio::spawn(async move {
        while let Some(batch) = batches.recv().await {
            let key = batch.key();
            for record in &batch.log.records {
                let line = LogLine::new(record.at_us, "heroku", "router", record.line.as_str());
                logplex.append_keyed(record.app_id, &key, record.sequence, line);
            }
            logplex.flush().await.unwrap();
            batch.acknowledge();
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_published_before_the_router_exists_is_served_as_soon_as_it_does() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = RouterLink::connect(folder.path().join("router.sock"));
    let first = link.publish(table(DynoId(Uuid::new_v4()), dyno().await, TargetState::Healthy), Vec::new());
    let second = link.publish(table(DynoId(Uuid::new_v4()), dyno().await, TargetState::Healthy), Vec::new());
    assert!(second > first);
    let router = start_router(folder.path(), &listener);
    tokio::time::timeout(PATIENCE, link.wait_applied(second)).await.unwrap();
    assert_eq!(link.applied_version(), second);
    assert!(get(listener.local_addr().unwrap(), "/").await.starts_with("HTTP/1.1 200"));
    end(router).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dyno_is_drained_only_when_the_leaving_router_has_done_with_it_too() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let old = start_router(folder.path(), &listener);
    let link = RouterLink::connect(folder.path().join("router.sock"));
    let mut events = link.subscribe();
    let (dyno_id, target) = (DynoId(Uuid::new_v4()), dyno().await);
    link.wait_applied(link.publish(table(dyno_id, target, TargetState::Healthy), Vec::new())).await;
    let long = tokio::spawn(async move { get(address, "/6000").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let next = start_router(folder.path(), &listener);
    old.leave();
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The next router has nothing in flight to it and says so at once; the old one still has.
    link.wait_applied(link.publish(table(dyno_id, target, TargetState::Draining), Vec::new())).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!link.is_drained(dyno_id) && !long.is_finished());
    let drained = async { while events.recv().await.unwrap() != (RouterEvent::Drained { dyno_id }) {} };
    tokio::time::timeout(PATIENCE, drained).await.unwrap();
    assert!(link.is_drained(dyno_id));
    assert!(long.await.unwrap().starts_with("HTTP/1.1 200"));
    end(old).await;
    end(next).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_one_line_in_the_log_over_restarts_of_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let socket = folder.path().join("router.sock");
    let logs = folder.path().join("logs");
    let (dyno_id, target) = (DynoId(Uuid::new_v4()), dyno().await);
    let mut router = start_router(folder.path(), &listener);
    let mut number = 0;
    for round in 0..6 {
        // Each round is a control of its own; what it leaves unacknowledged comes again.
        let logplex = Logplex::open(logs.clone()).unwrap();
        let link = RouterLink::connect(&socket);
        store(&link, logplex.clone());
        link.wait_applied(link.publish(table(dyno_id, target, TargetState::Healthy), Vec::new())).await;
        for _ in 0..40 {
            number += 1;
            assert!(get(address, &format!("/n/{number}")).await.starts_with("HTTP/1.1 200"));
        }
        if round % 2 == 1 {
            end(router).await;
            router = start_router(folder.path(), &listener);
        }
        drop(link);
        // Nobody holds the link any more: its tasks let go of the log files soon.
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(logplex);
    }
    let logplex = Logplex::open(logs).unwrap();
    let link = RouterLink::connect(&socket);
    store(&link, logplex.clone());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let lines = logplex.history(AppId(Uuid::from_u128(1)), 1500, Filter::default()).await.unwrap();
        if lines.len() >= number {
            let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
            for wanted in 1..=number {
                let path = format!("path=\"/n/{wanted}\"");
                assert_eq!(text.iter().filter(|line| line.contains(&path)).count(), 1, "{path}");
            }
            assert!(text[0].contains(" heroku[router]: at=info method=GET "), "{}", text[0]);
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{} of {number} lines", lines.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    end(router).await;
}
