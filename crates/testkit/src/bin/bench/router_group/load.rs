//! `wrk` against one proxy, and what the proxy's processes used meanwhile.

use super::machine::cpu_seconds;
use super::peers::Proxy;
use super::tls::HOST;
use crate::wrk::Report;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// One run.
const SECONDS: u64 = 3;
/// A generator busier than this measures itself.
pub const GENERATOR_LIMIT: f64 = 0.9;
/// Log records reach control and its log within this after the last request.
const LOG_LAG: Duration = Duration::from_millis(300);

/// What is asked.
pub struct Load {
    path: &'static str,
    connections: usize,
    /// Bytes of a POST's body; 0 for a GET.
    body_bytes: usize,
    by_tls: bool,
}

/// The host of the TLS rows resolves nowhere; its name is what the certificate is for.
const RESOLVE: &str =
    "function wrk.resolve(host, service) wrk.addrs = wrk.lookup('127.0.0.1', service) end\n";

/// What came of one run.
#[derive(Debug, Clone, Default)]
pub struct Run {
    pub requests_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub cpu_s_per_100k: f64,
    /// The part of it that is the log's.
    pub log_cpu_s_per_100k: f64,
    /// The generator was too busy, or requests failed.
    pub is_void: bool,
}

impl Run {
    /// Of each figure its median.
    pub fn median(runs: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(runs, figure);
        Self {
            requests_per_second: of(|run| run.requests_per_second),
            p50_ms: of(|run| run.p50_ms),
            p99_ms: of(|run| run.p99_ms),
            cpu_s_per_100k: of(|run| run.cpu_s_per_100k),
            log_cpu_s_per_100k: of(|run| run.log_cpu_s_per_100k),
            is_void: is_mostly(runs, |run| run.is_void),
        }
    }
}

/// The median of a figure of each run.
pub fn median<T>(runs: &[T], figure: fn(&T) -> f64) -> f64 {
    crate::median(runs.iter().map(figure).collect())
}

/// Whether it is so of more than half of the runs.
pub fn is_mostly<T>(runs: &[T], is_so: fn(&T) -> bool) -> bool {
    runs.iter().filter(|run| is_so(run)).count() * 2 > runs.len()
}

impl Load {
    pub fn get(path: &'static str, connections: usize) -> Self {
        Self { path, connections, body_bytes: 0, by_tls: false }
    }

    /// The same by TLS, on kept connections.
    pub fn by_tls(self) -> Self {
        Self { by_tls: true, ..self }
    }

    pub fn post(path: &'static str, body_bytes: usize, connections: usize) -> Self {
        Self { path, connections, body_bytes, by_tls: false }
    }

    /// Runs it against `proxy`.
    pub fn run(&self, proxy: &Proxy) -> Run {
        let script = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut command = Command::new("wrk");
        command.args(["-t", "1", "--latency", "--timeout", "10"]);
        command.args(["-c", &self.connections.to_string(), "-d", &SECONDS.to_string()]);
        let (host, url) = match self.by_tls {
            true => (HOST, format!("https://{HOST}:{}", proxy.tls.port())),
            false => ("bench.localhost", proxy.url.clone()),
        };
        command.arg("-H").arg(format!("Host: {host}"));
        let mut text = String::new();
        if self.by_tls {
            text.push_str(RESOLVE);
        }
        if self.body_bytes > 0 {
            text.push_str(&format!("wrk.method = 'POST'\nwrk.body = string.rep('x', {})\n", self.body_bytes));
        }
        if !text.is_empty() {
            std::fs::write(script.path(), text).expect("our own file");
            command.arg("-s").arg(script.path());
        }
        command.arg(format!("{url}{}", self.path));
        let (cpu, log_cpu) = (cpu_seconds(&proxy.pids()), cpu_seconds(&proxy.log_pids));
        let own = children_cpu_seconds();
        let began = Instant::now();
        let output =
            command.stdin(Stdio::null()).output().expect("wrk is installed by scripts/setup.sh bench");
        let busy = (children_cpu_seconds() - own) / began.elapsed().as_secs_f64();
        let cpu = cpu_seconds(&proxy.pids()) - cpu;
        std::thread::sleep(LOG_LAG);
        let log_cpu = cpu_seconds(&proxy.log_pids) - log_cpu;
        let report = String::from_utf8_lossy(&output.stdout);
        let run = self.read(&report, cpu, log_cpu, busy);
        run.unwrap_or_else(|| panic!("wrk against {} said:\n{report}", proxy.name))
    }

    fn read(&self, report: &str, cpu: f64, log_cpu: f64, busy: f64) -> Option<Run> {
        let report = Report::read(report)?;
        let per_100k = |seconds: f64| seconds * 100_000.0 / report.requests.max(1.0);
        Some(Run {
            requests_per_second: report.requests_per_second,
            p50_ms: report.p50_ms,
            p99_ms: report.p99_ms,
            cpu_s_per_100k: per_100k(cpu + log_cpu),
            log_cpu_s_per_100k: per_100k(log_cpu),
            is_void: busy > GENERATOR_LIMIT || report.has_failures,
        })
    }
}

/// CPU seconds of children that have ended.
fn children_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 16 and 17 of proc(5), counted from the one behind the name.
    (ticks(13) + ticks(14)) / super::machine::ticks_per_second()
}
