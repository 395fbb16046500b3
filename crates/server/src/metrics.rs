//! Metrics: what the routers count, added up, and their text for Prometheus.
//!
//! In: the newest report of each connected router, every few seconds. Out: sums that only rise while this process
//! lives, because a router that was replaced still counts. After a restart of control they begin with what the routers
//! then connected say, which Prometheus takes for a counter's reset.
//!
//! Names follow <https://prometheus.io/docs/practices/naming/>; `docs/metrics.md` lists them.

use crate::node::Node;
use ferroku_core::AppId;
use ferroku_core::protocol::router::{AppMetrics, LATENCY_BOUNDS_MS, MetricsReport};
use ferroku_core::sni_endpoint::SniEndpoint;
use ferroku_store::dynos::DynoCount;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the routers' reports are taken in; they come every 5 s.
const SAMPLE: Duration = Duration::from_secs(5);
/// Runs of a router that are remembered one by one; older ones are added up. More than two are connected only while
/// upgrades follow each other within seconds.
const REMEMBERED_RUNS: usize = 8;
/// Status classes, in the order of [`AppMetrics::statuses`].
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

/// The sums. The default one has seen no router.
#[derive(Debug, Default)]
pub struct Metrics {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By run of a router, oldest first; a run that is gone keeps its last report.
    runs: Vec<MetricsReport>,
    /// Runs that are connected now.
    connected: BTreeSet<u64>,
    /// Of runs that are not remembered any more.
    accepted_before: u64,
    apps_before: BTreeMap<AppId, AppMetrics>,
    /// Some of `apps_before` may be of apps that are gone.
    unpruned: bool,
}

/// Everything that routers counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    pub open_connections: u64,
    pub accepted_connections: u64,
    pub apps: BTreeMap<AppId, AppMetrics>,
}

/// What is known beside the routers' counts.
#[derive(Debug, Default)]
pub struct Facts {
    /// Names of the apps that there are.
    pub names: BTreeMap<AppId, String>,
    pub dynos: Vec<DynoCount>,
    pub certificates: Vec<SniEndpoint>,
}

impl Metrics {
    /// Takes in the newest report of each connected router.
    pub fn take(&self, reports: Vec<MetricsReport>) {
        let mut state = self.lock();
        state.connected = reports.iter().map(|report| report.instance).collect();
        for report in reports {
            match state.runs.iter_mut().find(|run| run.instance == report.instance) {
                Some(run) => *run = report,
                None => state.runs.push(report),
            }
        }
        while state.runs.len() > REMEMBERED_RUNS {
            let oldest = state.runs.remove(0);
            state.accepted_before += oldest.accepted_connections;
            for mut app in oldest.apps {
                app.open_requests = 0;
                add(&mut state.apps_before, &app);
                state.unpruned = true;
            }
        }
    }

    /// Whether [`Self::retain`] is due: no router says of an older one's apps which are gone.
    pub fn is_unpruned(&self) -> bool {
        self.lock().unpruned
    }

    /// Forgets what older routers counted of any app but these.
    pub fn retain(&self, apps: &BTreeSet<AppId>) {
        let mut state = self.lock();
        state.apps_before.retain(|app_id, _| apps.contains(app_id));
        state.unpruned = false;
    }

    /// What all routers have counted until now.
    pub fn totals(&self) -> Totals {
        let state = self.lock();
        let mut totals = Totals {
            open_connections: 0,
            accepted_connections: state.accepted_before,
            apps: state.apps_before.clone(),
        };
        for run in &state.runs {
            let connected = state.connected.contains(&run.instance);
            totals.accepted_connections += run.accepted_connections;
            totals.open_connections += if connected { run.open_connections } else { 0 };
            for app in &run.apps {
                let open_requests = if connected { app.open_requests } else { 0 };
                add(&mut totals.apps, &AppMetrics { open_requests, ..app.clone() });
            }
        }
        totals
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes in reports for as long as the node lives.
pub async fn run(node: Arc<Node>) {
    loop {
        tokio::time::sleep(SAMPLE).await;
        node.metrics.take(node.router.metrics());
        // An error is for the next time.
        if node.metrics.is_unpruned()
            && let Ok(apps) = ferroku_store::apps::list(&node.store).await
        {
            node.metrics.retain(&apps.iter().map(|app| app.id).collect());
        }
    }
}

/// The text that Prometheus reads (exposition format 0.0.4).
pub fn render(totals: &Totals, facts: &Facts) -> String {
    let mut text = String::new();
    let named: Vec<(&str, &AppMetrics)> = totals
        .apps
        .iter()
        // A destroyed app's counts are nobody's.
        .filter_map(|(id, app)| facts.names.get(id).map(|name| (name.as_str(), app)))
        .collect();
    head(&mut text, "ferroku_build_info", "gauge", "The version of this node's program.");
    line(&mut text, "ferroku_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    head(&mut text, "ferroku_router_connections", "gauge", "Clients' connections that are open.");
    line(&mut text, "ferroku_router_connections", &[], totals.open_connections);
    head(&mut text, "ferroku_router_connections_total", "counter", "Clients' connections accepted.");
    line(&mut text, "ferroku_router_connections_total", &[], totals.accepted_connections);
    render_requests(&mut text, &named);
    render_durations(&mut text, &named);
    render_facts(&mut text, facts);
    text
}

fn render_requests(text: &mut String, apps: &[(&str, &AppMetrics)]) {
    let name = "ferroku_router_requests_total";
    head(text, name, "counter", "Ended requests, by the class of their status.");
    for (app, counts) in apps {
        for (class, count) in CLASSES.iter().zip(counts.statuses).filter(|(_, count)| *count > 0) {
            line(text, name, &[("app", app), ("status", class)], count);
        }
    }
    let name = "ferroku_router_errors_total";
    head(text, name, "counter", "Ended requests that the router logged with an error code.");
    for (app, counts) in apps {
        for (code, count) in &counts.failures {
            line(text, name, &[("app", app), ("code", code)], *count);
        }
    }
    type Field = fn(&AppMetrics) -> u64;
    let fields: [(&str, &str, &str, Field); 3] = [
        ("ferroku_router_open_requests", "gauge", "Requests under way.", |app| app.open_requests),
        ("ferroku_router_request_bytes_total", "counter", "Bytes of requests' bodies.", |app| app.bytes_in),
        ("ferroku_router_response_bytes_total", "counter", "Bytes of responses' bodies.", |app| {
            app.bytes_out
        }),
    ];
    for (name, kind, help, field) in fields {
        head(text, name, kind, help);
        for (app, counts) in apps {
            line(text, name, &[("app", app)], field(counts));
        }
    }
}

fn render_durations(text: &mut String, apps: &[(&str, &AppMetrics)]) {
    let name = "ferroku_router_request_duration_seconds";
    head(text, name, "histogram", "Time from a request's arrival to the end of its response.");
    for (app, counts) in apps {
        let mut sum = 0;
        for (index, count) in counts.latency_counts.iter().enumerate() {
            sum += count;
            let bound = LATENCY_BOUNDS_MS.get(index).map_or_else(|| "+Inf".to_owned(), |ms| seconds(*ms));
            line(text, &format!("{name}_bucket"), &[("app", app), ("le", &bound)], sum);
        }
        line(text, &format!("{name}_sum"), &[("app", app)], seconds(counts.latency_sum_ms));
        line(text, &format!("{name}_count"), &[("app", app)], sum);
    }
}

fn render_facts(text: &mut String, facts: &Facts) {
    let name = "ferroku_dynos";
    head(text, name, "gauge", "Dynos that have not ended, by their state.");
    for count in &facts.dynos {
        let Some(app) = facts.names.get(&count.app_id) else { continue };
        let labels = [
            ("app", app.as_str()),
            ("process_type", count.process_type.as_str()),
            ("state", count.state.as_str()),
        ];
        line(text, name, &labels, count.dynos);
    }
    let name = "ferroku_certificate_expiry_timestamp_seconds";
    head(text, name, "gauge", "When a certificate expires.");
    for endpoint in &facts.certificates {
        let Some(app) = facts.names.get(&endpoint.app_id) else { continue };
        let managed = if endpoint.acm { "true" } else { "false" };
        let labels = [("app", app.as_str()), ("name", endpoint.name.as_str()), ("managed", managed)];
        line(text, name, &labels, endpoint.certificate.expires_at / 1000);
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    let _ = match labels.is_empty() {
        true => writeln!(text, "{name} {value}"),
        false => writeln!(text, "{name}{{{}}} {value}", labels.join(",")),
    };
}

/// Milliseconds as seconds, without digits that say nothing.
fn seconds(ms: u64) -> String {
    match ms % 1000 {
        0 => (ms / 1000).to_string(),
        rest => format!("{}.{rest:03}", ms / 1000).trim_end_matches('0').to_owned(),
    }
}

fn add(sums: &mut BTreeMap<AppId, AppMetrics>, app: &AppMetrics) {
    let Some(sum) = sums.get_mut(&app.app_id) else {
        sums.insert(app.app_id, app.clone());
        return;
    };
    sum.open_requests += app.open_requests;
    for (total, count) in sum.statuses.iter_mut().zip(app.statuses) {
        *total += count;
    }
    for (code, count) in &app.failures {
        *sum.failures.entry(code.clone()).or_default() += count;
    }
    if sum.latency_counts.len() < app.latency_counts.len() {
        sum.latency_counts.resize(app.latency_counts.len(), 0);
    }
    for (total, count) in sum.latency_counts.iter_mut().zip(&app.latency_counts) {
        *total += count;
    }
    sum.latency_sum_ms += app.latency_sum_ms;
    sum.bytes_in += app.bytes_in;
    sum.bytes_out += app.bytes_out;
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn report(instance: u64, requests: u64) -> MetricsReport {
        let mut latency_counts = vec![0; LATENCY_BOUNDS_MS.len() + 1];
        latency_counts[1] = requests - 1;
        latency_counts[LATENCY_BOUNDS_MS.len()] = 1;
        MetricsReport {
            instance,
            open_connections: 2,
            accepted_connections: requests,
            apps: vec![AppMetrics {
                app_id: AppId(Uuid::from_u128(1)),
                open_requests: 1,
                statuses: [0, requests - 1, 0, 0, 1],
                failures: [("H12".to_owned(), 1)].into(),
                latency_counts,
                latency_sum_ms: 1500 * requests,
                bytes_in: 3,
                bytes_out: 4,
            }],
        }
    }

    #[test]
    fn sums_never_fall_whatever_routers_come_and_go() {
        let metrics = Metrics::default();
        let mut before = 0;
        for run in 1..30 {
            for requests in [5, 9] {
                metrics.take(vec![report(run, requests)]);
                let totals = metrics.totals();
                assert_eq!(totals.open_connections, 2, "only the connected one's");
                assert_eq!(totals.apps.values().map(|app| app.open_requests).sum::<u64>(), 1);
                assert!(totals.accepted_connections > before);
                before = totals.accepted_connections;
            }
            // The router goes, and the same run comes back: it is not counted twice.
            metrics.take(Vec::new());
            assert_eq!(
                (metrics.totals().accepted_connections, metrics.totals().open_connections),
                (before, 0)
            );
            metrics.take(vec![report(run, 9)]);
            assert_eq!(metrics.totals().accepted_connections, before);
        }
        let app_id = AppId(Uuid::from_u128(1));
        assert!(metrics.is_unpruned());
        metrics.retain(&[app_id].into());
        assert!(!metrics.is_unpruned());
        let app = &metrics.totals().apps[&app_id];
        assert_eq!((before, app.statuses, app.failures["H12"]), (29 * 9, [0, 29 * 8, 0, 0, 29], 29));
        // Of an app that is gone nothing is left but what the last routers said.
        metrics.retain(&BTreeSet::new());
        assert_eq!(metrics.totals().apps[&app_id].failures["H12"], REMEMBERED_RUNS as u64);
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        metrics.take(vec![report(1, 5)]);
        let id = AppId(Uuid::from_u128(1));
        let facts = Facts {
            names: [(id, "shop".to_owned())].into(),
            dynos: vec![DynoCount { app_id: id, process_type: "web".into(), state: "up".into(), dynos: 2 }],
            certificates: Vec::new(),
        };
        let text = render(&metrics.totals(), &facts);
        for line in [
            "# TYPE ferroku_router_requests_total counter",
            "ferroku_router_connections 2",
            "ferroku_router_connections_total 5",
            r#"ferroku_router_requests_total{app="shop",status="2xx"} 4"#,
            r#"ferroku_router_errors_total{app="shop",code="H12"} 1"#,
            r#"ferroku_router_request_duration_seconds_bucket{app="shop",le="0.001"} 0"#,
            r#"ferroku_router_request_duration_seconds_bucket{app="shop",le="0.005"} 4"#,
            r#"ferroku_router_request_duration_seconds_bucket{app="shop",le="30"} 4"#,
            r#"ferroku_router_request_duration_seconds_bucket{app="shop",le="+Inf"} 5"#,
            r#"ferroku_router_request_duration_seconds_sum{app="shop"} 7.5"#,
            r#"ferroku_router_request_duration_seconds_count{app="shop"} 5"#,
            r#"ferroku_dynos{app="shop",process_type="web",state="up"} 2"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').expect("a value");
            assert!(value.parse::<f64>().is_ok() && name.starts_with("ferroku_"), "{line}");
        }
        let nobody = render(&metrics.totals(), &Facts::default());
        assert!(!nobody.contains("app="), "a destroyed app is not shown: {nobody}");
    }
}
