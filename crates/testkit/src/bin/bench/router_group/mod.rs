//! The group `router`: the router against nginx, HAProxy and Caddy, in front of the same two dynos.
//!
//! The dynos are a real app's, each an nginx that answers from memory; the peers run as the router's user, for no one
//! else may connect to a dyno. Every proxy has one core (the first), keeps connections to the dynos and writes its
//! log; `wrk`, the dynos and control share the others. In the rows "all cores" every proxy has a worker for each core,
//! and all programs share them. Ours and the peers take turns in each row, round by round, and
//! a ratio is of the medians. Of two cores that other programs use as well only ratios mean anything.
//!
//! CPU is what the kernel has accounted to the proxy's processes; to Ferroku's also what control needs for the log.

mod load;
pub mod machine;
mod peers;
mod tls;

use crate::Figure;
use ferroku_testkit::TestNode;
use load::{Load, Run};
use machine::{Cores, idle_connections, resident_kb};
use peers::{Kind, Peer, Proxy, Setup};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tls::{Certificate, Connections};

/// How often ours and the peers take turns in a row.
const ROUNDS: usize = 3;
/// Kept connections for the row about memory.
const IDLE_CONNECTIONS: usize = 10_000;
/// The same by TLS: opened within the time that the router lets one be idle.
const IDLE_TLS_CONNECTIONS: usize = 5_000;
/// Apps for the rows about the table.
const MANY_APPS: usize = 1_000;

/// The app: an nginx that answers from memory.
const PROCFILE: &str = "web: ./serve\n";
const SERVE: &str = r#"#!/bin/bash
mkdir -p tmp
small=$(head -c 1024 /dev/zero | tr '\0' x)
head -c 102400 /dev/zero | tr '\0' x >large
cat >nginx.conf <<END
worker_processes 1;
daemon off;
pid tmp/pid;
error_log stderr;
events { worker_connections 4096; }
http {
  access_log off;
  client_body_temp_path tmp/body;
  proxy_temp_path tmp/proxy;
  fastcgi_temp_path tmp/fastcgi;
  uwsgi_temp_path tmp/uwsgi;
  scgi_temp_path tmp/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 300;
  client_body_buffer_size 256k;
  sendfile on;
  open_file_cache max=10;
  server {
    listen 0.0.0.0:$PORT backlog=4096;
    location /small { return 200 "$small"; }
    location /large { root /app; try_files /large =404; }
    location /post { return 200 "$small"; }
  }
}
END
exec /usr/sbin/nginx -p /app -c /app/nginx.conf
"#;

/// One kind of load, and how Ferroku must compare in it.
struct Row {
    name: &'static str,
    load: Load,
}

fn rows() -> Vec<Row> {
    let get = |name, path, connections| Row { name, load: Load::get(path, connections) };
    vec![
        get("1 KB, 1 connection", "/small", 1),
        get("1 KB, 32 connections", "/small", 32),
        get("1 KB, 256 connections", "/small", 256),
        get("100 KB, 1 connection", "/large", 1),
        get("100 KB, 32 connections", "/large", 32),
        get("100 KB, 256 connections", "/large", 256),
        Row { name: "POST 64 KB, 32 connections", load: Load::post("/post", 64 * 1024, 32) },
        Row { name: "TLS, 1 KB, 32 connections", load: Load::get("/small", 32).by_tls() },
        Row { name: "TLS, 100 KB, 32 connections", load: Load::get("/large", 32).by_tls() },
    ]
}

fn rows_on_all_cores() -> Vec<Row> {
    vec![
        Row { name: "all cores, 1 KB, 32 connections", load: Load::get("/small", 32) },
        Row { name: "all cores, 1 KB, 256 connections", load: Load::get("/small", 256) },
        Row { name: "all cores, TLS, 1 KB, 32 connections", load: Load::get("/small", 32).by_tls() },
    ]
}

/// Measures all of it.
pub fn measure() -> Vec<Figure> {
    machine::allow_many_files();
    let cores = Cores::split();
    // Whatever is started from here on has the proxies' core; the router has a worker for each core that it may use.
    cores.proxies.take();
    let node = TestNode::start();
    deploy(&node);
    cores.others.take();
    let dynos = dynos(&node);
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).expect("our own folder");
    let certificate = Certificate::make(folder.path());
    certificate.add_to(&node);
    let ours = Proxy::ferroku(&node);
    ours.log_pids.iter().for_each(|pid| cores.others.give(*pid));
    machine::dyno_processes(&node.data).into_iter().for_each(|pid| cores.others.give(pid));
    let mut setup = Setup { dynos: &dynos, workers: 1, certificate: &certificate };
    let peers = start_peers(folder.path(), &setup, &cores.proxies);
    let mut figures = Vec::new();
    for row in rows() {
        compare(&row, &ours, &peers, &mut figures);
    }
    compare_connections(&ours, &peers, &mut figures);
    drop(peers);
    figures.extend(table_figures(&node, &ours));
    figures.extend(memory(&node));
    if cores.count > 1 {
        setup.workers = cores.count;
        use_all_cores(&node, &cores);
        let ours = Proxy::ferroku(&node);
        let peers = start_peers(folder.path(), &setup, &cores.all);
        for row in rows_on_all_cores() {
            compare(&row, &ours, &peers, &mut figures);
        }
    }
    figures.extend(tls_memory(&node));
    node.stop();
    figures
}

fn start_peers(folder: &Path, setup: &Setup<'_>, cores: &machine::Core) -> Vec<Peer> {
    Kind::ALL.into_iter().map(|kind| Peer::start(kind, folder, setup, cores)).collect()
}

/// Lets every program have every core, and the router a worker for each.
fn use_all_cores(node: &TestNode, cores: &Cores) {
    cores.all.take();
    let control = node.pid_of("control").expect("it runs");
    let dynos = machine::dyno_processes(&node.data);
    for pid in [machine::parent(control), control].into_iter().chain(dynos) {
        cores.all.give(pid);
    }
    node.kill_process("router");
}

fn deploy(node: &TestNode) {
    let app = node.work.join("bench");
    fs::create_dir(&app).expect("our own folder");
    fs::write(app.join("Procfile"), PROCFILE).expect("our own folder");
    fs::write(app.join("serve"), SERVE).expect("our own folder");
    fs::set_permissions(app.join("serve"), fs::Permissions::from_mode(0o755)).expect("our own folder");
    node.run(
        "heroku create bench --no-remote && cd bench && git init -q -b main && git add . && \
         git commit -qm first && heroku git:remote -a bench && git push heroku main && heroku ps:scale web=2",
    )
    .succeeded();
    node.wait_for("both dynos", || dynos(node).len() == 2);
}

/// The addresses of the app's dynos, as the router has them.
fn dynos(node: &TestNode) -> Vec<SocketAddr> {
    let table = fs::read_to_string(node.data.join("router/table.json")).unwrap_or_default();
    let table: Value = serde_json::from_str(&table).unwrap_or_default();
    let apps = table["apps"].as_array().cloned().unwrap_or_default();
    let targets = apps.iter().filter_map(|app| app["targets"].as_array()).flatten();
    targets.filter_map(|target| target["address"].as_str()?.parse().ok()).collect()
}

/// One row: requests/s, p99 and CPU against each peer.
fn compare(row: &Row, ours: &Proxy, peers: &[Peer], figures: &mut Vec<Figure>) {
    let mut all: Vec<Vec<Run>> = vec![Vec::new(); peers.len() + 1];
    for _ in 0..ROUNDS {
        all[0].push(row.load.run(ours));
        for (peer, runs) in peers.iter().zip(&mut all[1..]) {
            runs.push(row.load.run(&peer.proxy));
        }
    }
    let medians: Vec<Run> = all.iter().map(|runs| Run::median(runs)).collect();
    let our = &medians[0];
    for (peer, theirs) in peers.iter().zip(&medians[1..]) {
        let void = our.is_void || theirs.is_void || !peer.writes_log();
        let figure = |what: &str, unit, ours, theirs| {
            let figure = Figure::against(format!("{}: {what}", row.name), unit, ours, peer.name(), theirs);
            if void { figure.void() } else { figure }
        };
        let (requests, p99, cpu) = peer.kind.targets();
        figures.push(
            figure("requests", "1/s", our.requests_per_second, theirs.requests_per_second)
                .ratio_at_least(requests),
        );
        figures.push(figure("p50", "ms", our.p50_ms, theirs.p50_ms));
        figures.push(figure("p99", "ms", our.p99_ms, theirs.p99_ms).ratio_at_most(p99));
        figures.push(
            figure("CPU for 100,000", "s", our.cpu_s_per_100k, theirs.cpu_s_per_100k).ratio_at_most(cpu),
        );
    }
    figures.push(Figure::new(format!("{}: CPU of it for the log", row.name), "s", our.log_cpu_s_per_100k));
}

/// A connection by TLS, with a full handshake, for each request.
fn compare_connections(ours: &Proxy, peers: &[Peer], figures: &mut Vec<Figure>) {
    let proxies: Vec<&Proxy> = std::iter::once(ours).chain(peers.iter().map(|peer| &peer.proxy)).collect();
    let mut all: Vec<Vec<Connections>> = vec![Vec::new(); proxies.len()];
    for _ in 0..ROUNDS {
        for (proxy, runs) in proxies.iter().zip(&mut all) {
            runs.push(Connections::measure(proxy));
        }
    }
    let medians: Vec<Connections> = all.iter().map(|runs| Connections::median(runs)).collect();
    let our = medians[0];
    for (peer, theirs) in peers.iter().zip(&medians[1..]) {
        let void = our.is_void || theirs.is_void || !peer.writes_log();
        let figure = |what: &str, unit, ours, theirs| {
            let name = format!("TLS, a handshake for each request: {what}");
            let figure = Figure::against(name, unit, ours, peer.name(), theirs);
            if void { figure.void() } else { figure }
        };
        let (requests, _, cpu) = peer.kind.targets();
        figures.push(figure("requests", "1/s", our.per_second, theirs.per_second).ratio_at_least(requests));
        figures.push(figure("CPU of one", "ms", our.cpu_ms_each, theirs.cpu_ms_each).ratio_at_most(cpu));
    }
}

/// What 1,000 apps in the table cost, and what it costs to replace that table while requests come.
fn table_figures(node: &TestNode, ours: &Proxy) -> Vec<Figure> {
    let load = Load::get("/small", 32);
    let median = |between: &dyn Fn()| {
        let runs: Vec<Run> = (0..ROUNDS)
            .map(|_| {
                between();
                load.run(ours)
            })
            .collect();
        Run::median(&runs)
    };
    let few = median(&|| ());
    make_apps(node);
    let many = median(&|| ());
    let toggles = Toggles::start(node);
    let swapped = median(&|| ());
    let (tables, seconds) = toggles.finish();
    let one = "Ferroku, one app";
    let same = "Ferroku, no swap";
    let against =
        |name: &str, unit, ours, peer, theirs| Figure::against(name.to_owned(), unit, ours, peer, theirs);
    vec![
        against("1,000 apps: requests", "1/s", many.requests_per_second, one, few.requests_per_second)
            .ratio_at_least(Some(0.95)),
        against("1,000 apps: p99", "ms", many.p99_ms, one, few.p99_ms),
        against("1,000 apps: CPU for 100,000", "s", many.cpu_s_per_100k, one, few.cpu_s_per_100k),
        against(
            "tables swapped: requests",
            "1/s",
            swapped.requests_per_second,
            same,
            many.requests_per_second,
        ),
        against("tables swapped: p99", "ms", swapped.p99_ms, same, many.p99_ms),
        against("tables swapped: CPU for 100,000", "s", swapped.cpu_s_per_100k, same, many.cpu_s_per_100k),
        Figure::new("tables swapped: tables a second".to_owned(), "1/s", tables / seconds),
    ]
}

/// Creates many apps without code; each is in the table with its host.
fn make_apps(node: &TestNode) {
    let line = format!(
        "seq {MANY_APPS} | xargs -P 4 -I NUMBER curl -sS --fail -o /dev/null -X POST -H \"Authorization: Bearer $HEROKU_API_KEY\" \
         -H 'Content-Type: application/json' -d '{{\"name\":\"many-NUMBER\"}}' \"$HEROKU_HOST/apps\""
    );
    node.run_unchecked(&line).succeeded();
    node.wait_for("all apps in the table", || {
        let table = fs::read_to_string(node.data.join("router/table.json")).unwrap_or_default();
        table.matches("\"many-").count() >= MANY_APPS
    });
}

/// Turns another app's maintenance on and off, each of which makes a new table.
struct Toggles {
    child: std::process::Child,
    count: std::path::PathBuf,
    began: std::time::Instant,
}

impl Toggles {
    fn start(node: &TestNode) -> Self {
        let count = node.work.join("toggled");
        let line = "for i in $(seq 100000); do for on in true false; do \
            curl -s -o /dev/null -X PATCH -H \"Authorization: Bearer $HEROKU_API_KEY\" -H 'Content-Type: application/json' \
            -d \"{\\\"maintenance\\\":$on}\" \"$HEROKU_HOST/apps/many-1\"; echo >>toggled; sleep 0.05; done; done";
        let child = node.shell(line).spawn().expect("bash runs");
        Self { child, count, began: std::time::Instant::now() }
    }

    /// How many tables were made in how many seconds.
    fn finish(mut self) -> (f64, f64) {
        let seconds = self.began.elapsed().as_secs_f64();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let lines = fs::read_to_string(self.count).unwrap_or_default().lines().count();
        (lines as f64, seconds)
    }
}

/// Kept connections without a request.
fn memory(node: &TestNode) -> Vec<Figure> {
    let router = node.pid_of("router").expect("it runs");
    let before = resident_kb(router);
    let connections = idle_connections(node.router, "bench.localhost", IDLE_CONNECTIONS);
    let after = resident_kb(router);
    let each = (after - before) / connections.len() as f64;
    vec![
        Figure::new("memory of the router after all that".to_owned(), "MB", before / 1024.0),
        Figure::new("memory with 10,000 idle connections".to_owned(), "MB", after / 1024.0)
            .at_most(20.0 + IDLE_CONNECTIONS as f64 * 12.0 / 1024.0),
        Figure::new("memory of one idle connection".to_owned(), "KB", each).at_most(12.0),
    ]
}

/// The same by TLS. A router of its own, whose memory no connections before have stretched.
fn tls_memory(node: &TestNode) -> Vec<Figure> {
    node.kill_process("router");
    let router = node.pid_of("router").expect("it runs");
    // The first ones bring what every router has.
    drop(tls::idle_connections(node.router, 32));
    let before = resident_kb(router);
    let connections = tls::idle_connections(node.router, IDLE_TLS_CONNECTIONS);
    let after = resident_kb(router);
    let each = (after - before) / connections.len() as f64;
    vec![
        Figure::new("memory with 5,000 idle TLS connections".to_owned(), "MB", after / 1024.0)
            .at_most(20.0 + IDLE_TLS_CONNECTIONS as f64 * 40.0 / 1024.0),
        Figure::new("memory of one idle TLS connection".to_owned(), "KB", each).at_most(40.0),
    ]
}
