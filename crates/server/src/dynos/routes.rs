//! The route table: what the router is told of every app.
//!
//! Each app's loop gives its own entry and certificates ([`Routes::set`]), whoever orders certificates the answers to
//! challenges ([`Routes::set_challenge`]); a task publishes the whole table when something changed. Certificates are
//! shared, not copied: the link sends each once.
//! Invariant: nothing is published before every app known at the start has given its entry, so that a restart
//! of control takes no route away. Only an app whose rows cannot be read is waited for no longer than
//! [`FIRST_TABLE_WAIT`].

use super::MAX_SURGE;
use super::certificates::Shown;
use crate::router_link::RouterLink;
use ferroku_core::app::App;
use ferroku_core::app_feature::{AppFeature, END_TO_END_HTTP2, HTTPS_REDIRECT, SESSION_AFFINITY, is_enabled};
use ferroku_core::config_var::ConfigVars;
use ferroku_core::domain::Domain;
use ferroku_core::dyno::{Dyno, DynoKind, DynoState};
use ferroku_core::formation::Formation;
use ferroku_core::planner::{WEB, serving_release};
use ferroku_core::protocol::router::{Asleep, Certificate, RouteApp, RouteTable, Target, TargetState};
use ferroku_core::{AppId, DynoId, dyno_size};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How long the first table waits for all apps: reading the rows of 10,000 apps takes less.
const FIRST_TABLE_WAIT: Duration = Duration::from_secs(10);

/// Names of config vars that the router acts on.
pub const ROUTER_CONFIG_VARS: [&str; 3] = ["ERROR_PAGE_URL", "MAINTENANCE_PAGE_URL", HEALTH_CHECK_PATH];
/// A path that a new dyno must answer well before it gets requests. A config var, as the pages' URLs are, so that it
/// comes and goes with the release whose code serves the path.
const HEALTH_CHECK_PATH: &str = "HEALTH_CHECK_PATH";
/// Longest health check path, in bytes: a request line's worth at Heroku.
const MAX_PATH_BYTES: usize = 8192;

/// Collects the apps' entries.
pub struct Routes {
    state: Mutex<State>,
    changed: Notify,
    /// The newest change that was published, and under which version of the table.
    published: watch::Sender<(u64, u64)>,
}

/// What the table has of one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub app: RouteApp,
    pub certificates: Vec<Shown>,
}

struct State {
    apps: BTreeMap<AppId, Entry>,
    challenges: BTreeMap<String, String>,
    /// Apps that were there at the start and have not given their entry yet.
    awaited: BTreeSet<AppId>,
    /// Rises with each change; the table is published when it is above what was.
    change: u64,
    published: u64,
}

impl Routes {
    /// Waits for the entries of `apps` before the first table.
    pub fn new() -> Self {
        let state = State {
            apps: BTreeMap::new(),
            challenges: BTreeMap::new(),
            awaited: BTreeSet::new(),
            change: 1,
            published: 0,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), published: watch::Sender::new((0, 0)) }
    }

    /// Holds the first table back until these apps have given their entries.
    pub fn expect(&self, apps: impl IntoIterator<Item = AppId>) {
        self.lock().awaited.extend(apps);
    }

    /// Takes in an app's entry; `None` removes it.
    pub fn set(&self, app_id: AppId, entry: Option<Entry>) {
        let mut state = self.lock();
        let awaited = state.awaited.remove(&app_id);
        let changed = match entry {
            Some(entry) if state.apps.get(&app_id) == Some(&entry) => false,
            Some(entry) => {
                state.apps.insert(app_id, entry);
                true
            }
            None => state.apps.remove(&app_id).is_some(),
        };
        state.change += u64::from(changed);
        if changed || awaited {
            self.changed.notify_one();
        }
    }

    /// Sets or removes the answer to an ACME challenge's token.
    pub fn set_challenge(&self, token: &str, key_authorization: Option<&str>) {
        let mut state = self.lock();
        match key_authorization {
            Some(answer) => state.challenges.insert(token.to_owned(), answer.to_owned()),
            None => state.challenges.remove(token),
        };
        state.change += 1;
        self.changed.notify_one();
    }

    /// Returns once the router serves a table with every change made before this call.
    pub async fn served(&self, router: &RouterLink) {
        let change = self.lock().change;
        let mut published = self.published.subscribe();
        // The sender lives as long as self does, so this ends only by the condition.
        let version = match published.wait_for(|(newest, _)| *newest >= change).await {
            Ok(published) => published.1,
            Err(_) => return,
        };
        router.wait_applied(version).await;
    }

    /// The app that has this dyno as a target.
    pub fn app_of(&self, dyno_id: DynoId) -> Option<AppId> {
        let state = self.lock();
        let has = |entry: &&Entry| entry.app.targets.iter().any(|target| target.dyno_id == dyno_id);
        state.apps.values().find(has).map(|entry| entry.app.app_id)
    }

    /// Publishes for ever. A burst of changes makes one table.
    pub async fn publish(&self, router: &RouterLink) {
        let deadline = Instant::now() + FIRST_TABLE_WAIT;
        loop {
            if let Some((change, table, certificates)) = self.take_changed(Instant::now() >= deadline) {
                let version = router.publish(table, certificates);
                self.published.send_replace((change, version));
            }
            if self.lock().awaited.is_empty() {
                self.changed.notified().await;
            } else {
                let _ = tokio::time::timeout_at(deadline, self.changed.notified()).await;
            }
        }
    }

    /// The table if it has changed, with the certificates that it names; `late`: whoever is awaited is awaited no more.
    fn take_changed(&self, late: bool) -> Option<(u64, RouteTable, Vec<Arc<Certificate>>)> {
        let mut state = self.lock();
        if late && !state.awaited.is_empty() {
            tracing::error!(apps = ?state.awaited, "the first route table is published without these apps");
            state.awaited.clear();
        }
        if state.published == state.change || !state.awaited.is_empty() {
            return None;
        }
        state.published = state.change;
        let shown = || state.apps.values().flat_map(|entry| &entry.certificates);
        let table = RouteTable {
            version: 0,
            apps: state.apps.values().map(|entry| entry.app.clone()).collect(),
            certificates: shown().map(|one| one.certificate.shown_to(one.hosts.clone())).collect(),
            acme_challenges: state.challenges.clone(),
        };
        Some((state.change, table, shown().map(|one| one.certificate.clone()).collect()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an app's route is made of, beside its certificates.
pub struct Facts<'a> {
    pub app: &'a App,
    /// Its current release has a slug.
    pub has_code: bool,
    pub config_vars: &'a ConfigVars,
    pub formation: &'a [Formation],
    pub out_of_eco_hours: bool,
    pub dynos: &'a [Dyno],
    /// Dynos that listen and whose health is to be probed.
    pub probed: &'a BTreeSet<DynoId>,
    /// Dynos that the router has to wake before a request.
    pub asleep: &'a BTreeMap<DynoId, Asleep>,
    pub domains: &'a [Domain],
    pub features: &'a [AppFeature],
    pub node_domain: &'a str,
}

/// An app's route, from its rows.
pub fn route(facts: &Facts<'_>) -> RouteApp {
    let Facts { app, has_code, config_vars, formation, dynos, .. } = *facts;
    let web_type = formation.iter().find(|one| one.process_type == WEB);
    let web_quantity = web_type.map_or(0, |one| one.quantity);
    let out_of_hours = facts.out_of_eco_hours && web_type.is_some_and(|one| dyno_size::sleeps(&one.size));
    let web = || dynos.iter().filter(|dyno| dyno.kind == DynoKind::Formation && dyno.process_type == WEB);
    let targets = targets(web(), web_quantity, facts);
    let coming = web().any(|dyno| {
        matches!(dyno.state, DynoState::Created | DynoState::Starting) && dyno.draining_at.is_none()
    });
    let crashed = web().filter(|dyno| dyno.retired_at.is_none() && dyno.state == DynoState::Crashed).count();
    let wanted = has_code && web_quantity > 0;
    let healthy = targets.iter().any(|target| target.state == TargetState::Healthy);
    let crashed = wanted && !coming && !healthy && crashed > 0;
    // What is stopped for sleep, or is being stopped.
    let out = |dyno: &Dyno| {
        dyno.state == DynoState::Idle && dyno.draining_at.is_some() && dyno.retired_at.is_none()
    };
    let asleep = wanted && !coming && !healthy && !out_of_hours && web().any(out);
    let mut hosts = vec![app.default_host(facts.node_domain)];
    hosts.extend(facts.domains.iter().map(|domain| domain.hostname.clone()));
    RouteApp {
        maintenance: app.maintenance,
        blank: !has_code,
        web_quantity,
        crashed,
        // Between a release and the creation of its dynos there are none: they are on their way, too.
        booting: wanted && !asleep && !out_of_hours && (coming || (!healthy && !crashed)),
        asleep,
        out_of_hours,
        error_page_url: config_vars.get("ERROR_PAGE_URL").cloned(),
        maintenance_page_url: config_vars.get("MAINTENANCE_PAGE_URL").cloned(),
        targets,
        https_redirect: is_enabled(facts.features, HTTPS_REDIRECT),
        session_affinity: is_enabled(facts.features, SESSION_AFFINITY),
        http2: is_enabled(facts.features, END_TO_END_HTTP2),
        health_check_path: health_check_path(config_vars),
        ..RouteApp::new(app.id, app.name.clone(), hosts)
    }
}

/// The path that new dynos are asked for; None when the app names none, or one that no request line can hold.
pub fn health_check_path(config_vars: &ConfigVars) -> Option<String> {
    let path = config_vars.get(HEALTH_CHECK_PATH)?.trim();
    let fits =
        path.len() < MAX_PATH_BYTES && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    match fits && !path.is_empty() {
        true if path.starts_with('/') => Some(path.to_owned()),
        true => Some(format!("/{path}")),
        false => None,
    }
}

/// Those of one release get requests. A dyno that is to take over later is left out, for the router must not report one
/// drained that never had a request; one that has handed over drains.
fn targets<'a>(web: impl Iterator<Item = &'a Dyno>, quantity: u32, facts: &Facts<'_>) -> Vec<Target> {
    let mut all: Vec<(i64, Target)> =
        web.filter_map(|dyno| Some((dyno.release_version, target(dyno, facts)?))).collect();
    let healthy = all.iter().filter(|(_, target)| target.state == TargetState::Healthy);
    if let Some(serving) = serving_release(healthy.map(|(version, _)| *version), quantity, MAX_SURGE) {
        all.retain(|(version, target)| *version <= serving || target.state != TargetState::Healthy);
        for (version, target) in &mut all {
            if *version < serving && target.state == TargetState::Healthy {
                target.state = TargetState::Draining;
            }
        }
    }
    all.into_iter().map(|(_, target)| target).collect()
}

fn target(dyno: &Dyno, facts: &Facts<'_>) -> Option<Target> {
    let state = match dyno.state {
        _ if dyno.ended_at.is_some() => return None,
        DynoState::Up | DynoState::Idle if dyno.draining_at.is_some() => TargetState::Draining,
        DynoState::Up | DynoState::Idle => TargetState::Healthy,
        DynoState::Starting if dyno.draining_at.is_none() && facts.probed.contains(&dyno.id) => {
            TargetState::Adding
        }
        _ => return None,
    };
    let address = dyno.address.as_ref()?.parse().ok()?;
    let asleep = facts.asleep.get(&dyno.id).filter(|_| state == TargetState::Healthy).cloned();
    Some(Target { dyno_id: dyno.id, name: dyno.name(), address, state, asleep })
}
