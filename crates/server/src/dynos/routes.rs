//! The route table: what the router is told of every app.
//!
//! Each app's loop gives its own entry ([`Routes::set`]); a task publishes the whole table when one changed.
//! Invariant: nothing is published before every app known at the start has given its entry, so that a restart
//! of control takes no route away. Only an app whose rows cannot be read is waited for no longer than
//! [`FIRST_TABLE_WAIT`].

use super::MAX_SURGE;
use crate::router_link::RouterLink;
use ferroku_core::app::App;
use ferroku_core::config_var::ConfigVars;
use ferroku_core::dyno::{Dyno, DynoKind, DynoState};
use ferroku_core::formation::Formation;
use ferroku_core::planner::{WEB, serving_release};
use ferroku_core::protocol::router::{RouteApp, RouteTable, Target, TargetState};
use ferroku_core::{AppId, DynoId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long the first table waits for all apps: reading the rows of 10,000 apps takes less.
const FIRST_TABLE_WAIT: Duration = Duration::from_secs(10);

/// Collects the apps' entries.
pub struct Routes {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    apps: BTreeMap<AppId, RouteApp>,
    /// Apps that were there at the start and have not given their entry yet.
    awaited: BTreeSet<AppId>,
    dirty: bool,
}

impl Routes {
    /// Waits for the entries of `apps` before the first table.
    pub fn new() -> Self {
        let state = State { apps: BTreeMap::new(), awaited: BTreeSet::new(), dirty: true };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Holds the first table back until these apps have given their entries.
    pub fn expect(&self, apps: impl IntoIterator<Item = AppId>) {
        self.lock().awaited.extend(apps);
    }

    /// Takes in an app's entry; `None` removes it.
    pub fn set(&self, app_id: AppId, entry: Option<RouteApp>) {
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
        state.dirty |= changed;
        if changed || awaited {
            self.changed.notify_one();
        }
    }

    /// The app that has this dyno as a target.
    pub fn app_of(&self, dyno_id: DynoId) -> Option<AppId> {
        let state = self.lock();
        let has = |app: &&RouteApp| app.targets.iter().any(|target| target.dyno_id == dyno_id);
        state.apps.values().find(has).map(|app| app.app_id)
    }

    /// Publishes for ever. A burst of changes makes one table.
    pub async fn publish(&self, router: &RouterLink) {
        let deadline = Instant::now() + FIRST_TABLE_WAIT;
        loop {
            if let Some(table) = self.take_changed(Instant::now() >= deadline) {
                router.publish(table);
            }
            if self.lock().awaited.is_empty() {
                self.changed.notified().await;
            } else {
                let _ = tokio::time::timeout_at(deadline, self.changed.notified()).await;
            }
        }
    }

    /// The table if it has changed; `late`: whoever is awaited is awaited no more.
    fn take_changed(&self, late: bool) -> Option<RouteTable> {
        let mut state = self.lock();
        if late && !state.awaited.is_empty() {
            tracing::error!(apps = ?state.awaited, "the first route table is published without these apps");
            state.awaited.clear();
        }
        if !state.dirty || !state.awaited.is_empty() {
            return None;
        }
        state.dirty = false;
        Some(RouteTable { apps: state.apps.values().cloned().collect(), ..RouteTable::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An app's entry, from its rows. `has_code`: its current release has a slug.
pub fn entry(
    app: &App,
    has_code: bool,
    config_vars: &ConfigVars,
    formation: &[Formation],
    dynos: &[Dyno],
    domain: &str,
) -> RouteApp {
    let web_quantity = formation.iter().find(|one| one.process_type == WEB).map_or(0, |one| one.quantity);
    let web = || dynos.iter().filter(|dyno| dyno.kind == DynoKind::Formation && dyno.process_type == WEB);
    let targets = targets(web(), web_quantity);
    let coming = web().any(|dyno| {
        matches!(dyno.state, DynoState::Created | DynoState::Starting) && dyno.draining_at.is_none()
    });
    let crashed = web().filter(|dyno| dyno.retired_at.is_none() && dyno.state == DynoState::Crashed).count();
    let wanted = has_code && web_quantity > 0;
    let healthy = targets.iter().any(|target| target.state == TargetState::Healthy);
    let crashed = wanted && !coming && !healthy && crashed > 0;
    RouteApp {
        maintenance: app.maintenance,
        blank: !has_code,
        web_quantity,
        crashed,
        // Between a release and the creation of its dynos there are none: they are on their way, too.
        booting: wanted && (coming || (!healthy && !crashed)),
        error_page_url: config_vars.get("ERROR_PAGE_URL").cloned(),
        maintenance_page_url: config_vars.get("MAINTENANCE_PAGE_URL").cloned(),
        targets,
        ..RouteApp::new(app.id, app.name.clone(), vec![host(app, domain)])
    }
}

/// The app's default host name, `NAME.DOMAIN`.
pub fn host(app: &App, domain: &str) -> String {
    format!("{}.{domain}", app.name)
}

/// Those of one release get requests. A dyno that is to take over later is left out, for the router must not report one
/// drained that never had a request; one that has handed over drains.
fn targets<'a>(web: impl Iterator<Item = &'a Dyno>, quantity: u32) -> Vec<Target> {
    let mut all: Vec<(i64, Target)> =
        web.filter_map(|dyno| Some((dyno.release_version, target(dyno)?))).collect();
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

fn target(dyno: &Dyno) -> Option<Target> {
    if dyno.state != DynoState::Up || dyno.ended_at.is_some() {
        return None;
    }
    let address = dyno.address.as_ref()?.parse().ok()?;
    let state = if dyno.draining_at.is_some() { TargetState::Draining } else { TargetState::Healthy };
    Some(Target { dyno_id: dyno.id, name: dyno.name(), address, state })
}
