//! Carries out the planner's actions. Each writes its row first, then acts; each may be repeated.

use super::app_loop::{AppLoop, Live, Message, Snapshot};
use super::memory::HARD_LIMIT_FACTOR;
use super::room::claim_of;
use super::{Result, environment, log_text};
use crate::crash_point;
use crate::node::now_ms;
use ferroku_core::app::App;
use ferroku_core::dyno::{Dyno, DynoKind, DynoState, PORTS, pick};
use ferroku_core::planner::{Action, BOOT_TIMEOUT_MS, KillCause, NewDyno, RetireCause, STOP_GRACE_MS, WEB};
use ferroku_core::room::Shortage;
use ferroku_core::slug::Slug;
use ferroku_core::{DynoId, Millis, dyno_size};
use ferroku_runtime::{
    Attach, Command, Driver, DynoHandle, DynoSpec, Environment, Limits, NetworkPolicy, TerminalSize,
};
use ferroku_store::dynos::{NewDynoRow, OneOffOptions};
use ferroku_store::{Store, dynos, releases, slugs};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;
use uuid::Uuid;

/// Between two tries to remove a dyno that is being started.
const REMOVE_PAUSE: Duration = Duration::from_millis(100);
/// How often that is tried: starting takes well under a second.
const REMOVE_TRIES: usize = 100;
/// A terminal whose client did not tell its size.
const DEFAULT_TERMINAL: TerminalSize = TerminalSize { rows: 24, columns: 80 };

impl AppLoop {
    /// One action.
    pub async fn act(&mut self, snapshot: &Snapshot, action: Action) -> Result<()> {
        let row = |id: DynoId| snapshot.dynos.iter().find(move |row| row.id == id);
        match action {
            Action::Create(new) => self.create(snapshot, &new).await,
            Action::Spawn { dyno_id } => {
                if let Some(row) = row(dyno_id) {
                    self.spawn_with_room(&snapshot.app, row);
                }
                Ok(())
            }
            Action::Retire { dyno_id, cause } => match row(dyno_id) {
                Some(row) => self.retire(row, cause).await,
                None => Ok(()),
            },
            Action::Stop { dyno_id } => match row(dyno_id) {
                Some(row) => self.stop(row, STOP_GRACE_MS).await,
                None => Ok(()),
            },
            Action::Kill { dyno_id, cause } => {
                if let Some(row) = row(dyno_id) {
                    self.kill(row, cause).await;
                }
                Ok(())
            }
            Action::End { dyno_id } => match row(dyno_id) {
                Some(row) => self.end(row).await,
                None => Ok(()),
            },
            Action::Freeze { dyno_id } => match row(dyno_id) {
                Some(row) => self.freeze(snapshot, row).await,
                None => Ok(()),
            },
            Action::Thaw { dyno_id } => {
                if let Some(row) = row(dyno_id) {
                    self.thaw(row).await;
                }
                Ok(())
            }
            Action::Hibernate { dyno_id } => match row(dyno_id) {
                Some(row) => self.hibernate(snapshot, row).await,
                None => Ok(()),
            },
            Action::GiveUpAttach { dyno_id } => match row(dyno_id) {
                Some(row) => {
                    self.log(row, log_text::ATTACH_ERROR);
                    self.end(row).await
                }
                None => Ok(()),
            },
        }
    }

    /// A line of the dyno manager about this dyno.
    pub fn log(&self, row: &Dyno, message: impl Into<Vec<u8>>) {
        self.shared.log(self.app_id, &row.name(), message);
    }

    async fn create(&mut self, snapshot: &Snapshot, new: &NewDyno) -> Result<()> {
        let store = &self.shared.parts.store;
        let id = DynoId(Uuid::new_v4());
        let now = now_ms();
        let superseded = new.supersedes.and_then(|old| snapshot.dynos.iter().find(|row| row.id == old));
        let row = NewDynoRow {
            id,
            app_id: self.app_id,
            kind: DynoKind::Formation,
            process_type: &new.process_type,
            ordinal: new.ordinal,
            release_id: new.release.id,
            release_version: new.release.version,
            restart_generation: new.restart_generation,
            size: &new.size,
            command: &new.command,
            port: random_of(&PORTS),
            attached: false,
            options: None,
            expires_at: None,
        };
        crash_point::hit("dyno.before_create");
        write_created(store, &row, superseded, now).await?;
        crash_point::hit("dyno.created");
        if let Some(old) = superseded {
            match old.state {
                DynoState::Crashed => {}
                DynoState::Idle if old.draining_at.is_some() => self.log(old, log_text::UNIDLING),
                _ => self.log(old, if new.cycles { log_text::CYCLING } else { log_text::RESTARTING }),
            }
            self.log(old, log_text::state_changed(old.state, DynoState::Starting));
        }
        Ok(())
    }

    /// Starts the dyno, or says once what it waits for.
    fn spawn_with_room(&mut self, app: &App, row: &Dyno) {
        let known = self.shared.room.shortage(row.id).map(Shortage::waits_for);
        if let Err(shortage) = self.spawn(app, row)
            && known != Some(shortage.waits_for())
        {
            self.log(row, log_text::waiting(shortage));
        }
    }

    /// Takes room and asks the driver for the dyno, in the background; the answer comes as a message.
    ///
    /// # Errors
    /// The node has no room for it.
    pub fn spawn(&mut self, app: &App, row: &Dyno) -> Result<(), Shortage> {
        if self.live.get(&row.id).is_some_and(|live| live.spawning || live.control.is_some()) {
            return Ok(());
        }
        let claimed = self.shared.room.claim(row.app_id, row.id, claim_of(row))?;
        let live = self.live.entry(row.id).or_default();
        live.claimed = Some(claimed);
        live.spawning = true;
        let (shared, app, row) = (self.shared.clone(), app.clone(), row.clone());
        let inbox = self.sender.clone();
        tokio::spawn(async move {
            let result = start(&shared.parts, &app, &row).await.map_err(|error| format!("{error:#}"));
            let told = inbox.send(Message::Spawned { dyno_id: row.id, result: Box::new(result) });
            // The app was destroyed meanwhile. At the end of this process, the next one adopts the dyno.
            if told.is_err() && !shared.lock().closing {
                shared.remove_later(row.id);
            }
        });
        Ok(())
    }

    async fn retire(&mut self, row: &Dyno, cause: RetireCause) -> Result<()> {
        let now = now_ms();
        write_retired(&self.shared.parts.store, row.id, now).await?;
        crash_point::hit("dyno.retired");
        match cause {
            RetireCause::Replaced => {
                self.log(row, log_text::RESTARTING);
                self.log(row, log_text::state_changed(row.state, DynoState::Starting));
            }
            RetireCause::Cycled => {
                self.log(row, log_text::CYCLING);
                if row.kind == DynoKind::Formation {
                    self.log(row, log_text::state_changed(row.state, DynoState::Starting));
                }
            }
            RetireCause::ScaledDown | RetireCause::Stopped if row.kind == DynoKind::Formation => {
                self.log(row, log_text::state_changed(row.state, DynoState::Down));
            }
            RetireCause::OutOfEcoHours => {
                self.log(row, log_text::OUT_OF_ECO_HOURS);
                if row.kind == DynoKind::Formation {
                    self.log(row, log_text::state_changed(row.state, DynoState::Down));
                }
            }
            RetireCause::ScaledDown
            | RetireCause::Stopped
            | RetireCause::Superseded
            | RetireCause::Expired => {}
        }
        Ok(())
    }

    async fn stop(&mut self, row: &Dyno, grace_ms: u64) -> Result<()> {
        let written = write_stopping(&self.shared.parts.store, row.id, now_ms()).await;
        // At the node's end a dyno is stopped whether or not that can be written down.
        if self.closing.is_none() {
            written?;
        }
        crash_point::hit("dyno.stopping");
        self.log(row, log_text::STOPPING_ALL);
        let live = self.live.entry(row.id).or_default();
        match &live.control {
            // A dyno that is gone reports its end by itself.
            Some(control) => drop(control.stop(grace_ms).await),
            None => live.stop_when_spawned = true,
        }
        Ok(())
    }

    async fn kill(&mut self, row: &Dyno, cause: KillCause) {
        let Some(live) = self.live.get_mut(&row.id) else { return };
        live.killed = true;
        let loopback_port = if live.loopback_only { row.port } else { None };
        let control = live.control.clone();
        let probe = live.probe.clone();
        match cause {
            KillCause::BootTimeout => {
                self.log(
                    row,
                    match probe {
                        Some(detail) => log_text::health_check_timeout(BOOT_TIMEOUT_MS, &detail),
                        None => log_text::boot_timeout(BOOT_TIMEOUT_MS, loopback_port),
                    },
                );
                self.log(row, log_text::STOPPING_KILL);
            }
            KillCause::Stuck => self.log(row, log_text::STOPPING_REMAINING),
        }
        if let Some(control) = control {
            let _ = control.kill().await;
        }
    }

    /// Closes the row of a dyno that has no process.
    pub async fn end(&mut self, row: &Dyno) -> Result<()> {
        let state = if row.kind == DynoKind::Formation { DynoState::Down } else { DynoState::Complete };
        write_ended_without_process(&self.shared.parts.store, row.id, state, now_ms()).await?;
        self.live.remove(&row.id);
        self.shared.room.forget(row.id);
        if row.state == DynoState::Crashed {
            self.log(row, log_text::state_changed(DynoState::Crashed, DynoState::Down));
        }
        Ok(())
    }

    /// The node ends: everything is told to stop, and the loop waits for it.
    pub async fn stop_all(&mut self, grace: Duration) -> Result<()> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(STOP_GRACE_MS);
        for row in dynos::list(&self.shared.parts.store, self.app_id).await? {
            if row.stopping_at.is_none() && self.live.contains_key(&row.id) {
                self.stop(&row, grace_ms).await?;
            }
        }
        Ok(())
    }

    /// The app is gone: everything of it goes at once.
    pub async fn clear(&mut self) {
        for (dyno_id, live) in std::mem::take(&mut self.live) {
            if let Some(control) = &live.control {
                let _ = control.kill().await;
            }
            let mut removed = self.shared.parts.driver.remove(dyno_id).await;
            for _ in 0..REMOVE_TRIES {
                if removed.is_ok() || !live.spawning {
                    break;
                }
                // A dyno that is just being started can be removed a moment later.
                tokio::time::sleep(REMOVE_PAUSE).await;
                removed = self.shared.parts.driver.remove(dyno_id).await;
            }
            if let Err(error) = removed {
                tracing::error!(%dyno_id, error = &error as &dyn std::error::Error, "cannot remove a dyno's traces");
            }
        }
        self.shared.room.forget_app(self.app_id);
        self.shared.routes.set(self.app_id, None);
    }
}

/// What a dyno is started from.
pub(super) struct Prepared {
    slug: Slug,
    options: OneOffOptions,
    /// Its environment.
    pub variables: BTreeMap<String, String>,
}

/// Reads what a dyno is started from. `extra` is added to its environment.
pub(super) async fn prepare(
    parts: &super::Parts,
    app: &App,
    row: &Dyno,
    extra: BTreeMap<String, String>,
) -> anyhow::Result<Prepared> {
    let release = releases::find(&parts.store, app.id, &row.release_id.to_string()).await?;
    let release = release.ok_or_else(|| anyhow::anyhow!("its release is gone"))?;
    let slug = match release.slug_id {
        Some(slug_id) => slugs::find(&parts.store, slug_id).await?,
        None => None,
    };
    let slug = slug.ok_or_else(|| anyhow::anyhow!("release v{} has no slug", release.version))?;
    let options = dynos::options(&parts.store, row.id).await?.unwrap_or_default();
    let config_vars = releases::config_vars(&parts.store, &release).await?;
    let variables = environment::variables(environment::Sources {
        app,
        dyno: row,
        release: &release,
        slug_commit: slug.commit.as_deref(),
        config_vars,
        extra: options.environment.clone().into_iter().chain(extra).collect(),
        default_host: &app.default_host(&parts.domain),
    });
    Ok(Prepared { slug, options, variables })
}

/// Builds what the driver needs and starts the dyno.
async fn start(parts: &super::Parts, app: &App, row: &Dyno) -> anyhow::Result<DynoHandle> {
    let Prepared { slug, options, variables } = prepare(parts, app, row, BTreeMap::new()).await?;
    let terminal = (row.attached && options.terminal).then(|| terminal_size(&options.environment));
    let size = dyno_size::find(&row.size)
        .or_else(|| dyno_size::find(dyno_size::DEFAULT_DYNO_SIZE))
        .ok_or_else(|| anyhow::anyhow!("the dyno size {} is unknown", row.size))?;
    let web = row.kind == DynoKind::Formation && row.process_type == WEB;
    let spec = DynoSpec {
        dyno_id: row.id,
        app_id: app.id,
        name: row.name(),
        uid_base: app.uid_base,
        slug_digest: Some(slug.digest),
        command: Command::Shell(row.command.clone()),
        port: if web { row.port } else { None },
        limits: Limits {
            memory_bytes: size.memory_bytes * HARD_LIMIT_FACTOR,
            cpu_shares: size.cpu_shares,
            pids: size.pids,
            disk_bytes: size.disk_bytes,
        },
        attach: row.attached.then_some(Attach { terminal }),
        boot_timeout_ms: web.then_some(BOOT_TIMEOUT_MS),
        network: NetworkPolicy::Internet,
        volumes: Vec::new(),
        host_name: row.id.to_string(),
    };
    crash_point::hit("dyno.before_spawn");
    let handle = parts.driver.start(spec, Environment::from(variables)).await?;
    crash_point::hit("dyno.spawned");
    Ok(handle)
}

/// The size of a client's terminal, by the variables that it sends along.
pub fn terminal_size(environment: &BTreeMap<String, String>) -> TerminalSize {
    let number = |name: &str, default: u16| {
        let given = environment.get(name).and_then(|text| text.parse().ok());
        given.filter(|number| *number > 0).unwrap_or(default)
    };
    TerminalSize {
        rows: number("LINES", DEFAULT_TERMINAL.rows),
        columns: number("COLUMNS", DEFAULT_TERMINAL.columns),
    }
}

/// One of `numbers`, by chance.
pub(super) fn random_of(numbers: &RangeInclusive<u16>) -> u16 {
    pick(numbers, getrandom::u32().expect("the kernel's random source answers once the system is up"))
}

async fn write_created(
    store: &Store,
    row: &NewDynoRow<'_>,
    superseded: Option<&Dyno>,
    now: Millis,
) -> ferroku_store::Result<()> {
    ferroku_store::write!(store, tx => {
        if let Some(old) = superseded {
            dynos::retire(&mut tx, old.id, false, now).await?;
        }
        dynos::create(&mut tx, store.key(), row, now).await
    })
}

async fn write_retired(store: &Store, id: DynoId, now: Millis) -> ferroku_store::Result<()> {
    ferroku_store::write!(store, tx => { dynos::retire(&mut tx, id, true, now).await })
}

async fn write_stopping(store: &Store, id: DynoId, now: Millis) -> ferroku_store::Result<()> {
    ferroku_store::write!(store, tx => { dynos::set_stopping(&mut tx, id, now).await })
}

async fn write_ended_without_process(
    store: &Store,
    id: DynoId,
    state: DynoState,
    now: Millis,
) -> ferroku_store::Result<()> {
    ferroku_store::write!(store, tx => {
        dynos::retire(&mut tx, id, true, now).await?;
        dynos::end(&mut tx, id, state, None, now).await
    })
}

impl Live {
    /// A dyno that is being started for a client.
    pub fn for_client(client: super::attach::Client) -> Self {
        Self { client: Some(client), ..Self::default() }
    }
}
