//! Probes of targets that are being added: only the router's user may connect to a dyno's port, so it is the
//! router that finds out whether one serves.
//!
//! In: the targets of a table that are `adding`. Out: [`Probed`], once healthy, and whenever the reason why not
//! changes. A probe goes on until the table no longer calls its target adding.

use std::collections::HashMap;
use std::net::SocketAddr;

use ferroku_core::DynoId;
use ferroku_core::protocol::router::{Probed, RouteApp, RouteTable, TargetState};
use http::{HeaderValue, Request, Uri, Version, header};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::body::RequestBody;
use crate::limits::{PROBE_INTERVAL, PROBE_TIMEOUT};
use crate::upstream::{self, Protocol};

/// The probes that run, and what came of them.
#[derive(Debug)]
pub struct Probes {
    running: HashMap<DynoId, (Subject, JoinHandle<()>)>,
    results: HashMap<DynoId, Probed>,
    out: mpsc::UnboundedSender<Probed>,
}

/// What is probed, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subject {
    dyno_id: DynoId,
    address: SocketAddr,
    protocol: Protocol,
    host: String,
    path: Option<String>,
}

impl Probes {
    /// Results go to `out`, to come back in [`Self::take`].
    pub fn new(out: mpsc::UnboundedSender<Probed>) -> Self {
        Self { running: HashMap::new(), results: HashMap::new(), out }
    }

    /// Probes what this table calls adding, and nothing else. Inside a runtime.
    pub fn follow(&mut self, table: &RouteTable) {
        let subjects: HashMap<DynoId, Subject> =
            table.apps.iter().flat_map(subjects).map(|subject| (subject.dyno_id, subject)).collect();
        self.running.retain(|dyno_id, (subject, task)| {
            let wanted = subjects.get(dyno_id) == Some(subject);
            if !wanted {
                task.abort();
            }
            wanted
        });
        let running = &self.running;
        self.results.retain(|dyno_id, _| running.contains_key(dyno_id));
        for (dyno_id, subject) in subjects {
            let out = self.out.clone();
            self.running.entry(dyno_id).or_insert_with(|| {
                let task = tokio::spawn(run(subject.clone(), out));
                (subject, task)
            });
        }
    }

    /// Takes in a result; it is given back if it is news about a target that is still being added.
    pub fn take(&mut self, probed: Probed) -> Option<Probed> {
        let known = self.results.get(&probed.dyno_id) == Some(&probed);
        if known || !self.running.contains_key(&probed.dyno_id) {
            return None;
        }
        self.results.insert(probed.dyno_id, probed.clone());
        Some(probed)
    }

    /// What is known of targets that are still being added, for a control that has just connected.
    pub fn results(&self) -> impl Iterator<Item = &Probed> {
        self.results.values()
    }
}

fn subjects(app: &RouteApp) -> impl Iterator<Item = Subject> {
    let adding = app.targets.iter().filter(|target| target.state == TargetState::Adding);
    adding.map(|target| Subject {
        dyno_id: target.dyno_id,
        address: target.address,
        protocol: if app.http2 { Protocol::Http2 } else { Protocol::Http1 },
        host: app.hosts.first().cloned().unwrap_or_else(|| app.name.clone()),
        path: app.health_check_path.clone(),
    })
}

async fn run(subject: Subject, out: mpsc::UnboundedSender<Probed>) {
    loop {
        let result = tokio::time::timeout(PROBE_TIMEOUT, probe(&subject)).await;
        let result = result.unwrap_or_else(|_| {
            Err(format!("{} did not answer within {} s", subject.address, PROBE_TIMEOUT.as_secs()))
        });
        let healthy = result.is_ok();
        let probed = Probed { dyno_id: subject.dyno_id, healthy, detail: result.err().unwrap_or_default() };
        if out.send(probed).is_err() || healthy {
            return;
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// One attempt.
async fn probe(subject: &Subject) -> Result<(), String> {
    let mut sender = upstream::connect(subject.address, subject.protocol, PROBE_TIMEOUT)
        .await
        .map_err(|_| format!("{} takes no connection", subject.address))?;
    let Some(path) = &subject.path else { return Ok(()) };
    let broken = || format!("the health check path {path:?} or the host {:?} is malformed", subject.host);
    let mut request = Request::new(RequestBody::Empty);
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("ferroku-router (health check)"));
    match subject.protocol {
        Protocol::Http1 => {
            headers.insert(header::HOST, HeaderValue::try_from(&subject.host).map_err(|_| broken())?);
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            *request.uri_mut() = path.parse().map_err(|_| broken())?;
        }
        Protocol::Http2 => {
            let uri = Uri::builder().scheme("http").authority(subject.host.as_str());
            *request.uri_mut() = uri.path_and_query(path.as_str()).build().map_err(|_| broken())?;
            *request.version_mut() = Version::HTTP_2;
        }
    }
    match sender.send(request).await {
        Ok(response) if response.status().is_success() || response.status().is_redirection() => Ok(()),
        Ok(response) => Err(format!("{path} answered {}", response.status().as_u16())),
        Err(error) => Err(format!("{path} was not answered: {}", error.error())),
    }
}
