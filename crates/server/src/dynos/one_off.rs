//! One-off dynos: `heroku run`.
//!
//! A request becomes a row and an event in one transaction; the app's loop starts a detached one, an attached
//! one is started by its client ([`super::attach`]).

use super::actions::random_of;
use super::{DynoManager, DynosError, environment, log_text};
use crate::node::now_ms;
use ferroku_core::app::App;
use ferroku_core::dyno::{Dyno, DynoKind, ONE_OFF_NUMBERS, PORTS};
use ferroku_core::dyno_size::{self, DEFAULT_DYNO_SIZE, DynoSize};
use ferroku_core::event::Actor;
use ferroku_core::formation::Formation;
use ferroku_core::limits::Usage;
use ferroku_core::release::Release;
use ferroku_core::room::Claim;
use ferroku_core::{DynoId, Millis};
use ferroku_store::dynos::{NewDynoRow, OneOffOptions};
use ferroku_store::{Store, StoreError, dynos, events, formations, limits, releases};
use std::collections::BTreeMap;
use thiserror::Error;
use uuid::Uuid;

/// Most one-offs of an app at a time. Heroku's limit for basic and standard dynos.
const MAX_ONE_OFFS: usize = 50;
/// The process type of a one-off that names none.
const RUN: &str = "run";

/// What is to be run.
#[derive(Clone)]
pub struct RunRequest {
    /// As typed; a process type's name in front stands for its command.
    pub command: String,
    /// Whether a client is going to attach.
    pub attach: bool,
    pub environment: BTreeMap<String, String>,
    /// API name of a size.
    pub size: Option<String>,
    pub process_type: Option<String>,
    pub time_to_live_s: Option<u32>,
    /// Whether an attached one gets a terminal.
    pub terminal: bool,
}

/// Why nothing was started. Display is for the user.
#[derive(Debug, Error)]
pub enum RunError {
    #[error("This app has no code to run yet. Deploy it first, for example with `git push heroku main`.")]
    NoCode,
    #[error("Cannot run more than {MAX_ONE_OFFS} one-off dynos at a time. Stop one with `heroku ps:stop`.")]
    TooMany,
    #[error("Couldn't find the dyno size {0}.")]
    Size(String),
    #[error(
        "You've used up your dyno hour pool. Eco dynos run again next month; `heroku run --size basic` runs without it."
    )]
    OutOfEcoHours,
    /// Of what the app's owner may have.
    #[error("{0}")]
    Limit(String),
    #[error("the one-off dyno could not be written down")]
    Failed(#[from] DynosError),
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(why) => Self::Limit(why),
            error => Self::Failed(error.into()),
        }
    }
}

impl DynoManager {
    /// Writes a one-off down and has it started: at once, or when its client comes within 30 s.
    ///
    /// # Errors
    /// The app has no code, or too many one-offs, or the size is unknown; or the database failed.
    pub async fn run_one_off(&self, app: &App, request: RunRequest, actor: &Actor) -> Result<Dyno, RunError> {
        let shared = self.0.as_ref().ok_or(DynosError::Closing)?;
        let store = &shared.parts.store;
        let release = releases::current(store, app.id).await?;
        let release = release.filter(|release| release.slug_id.is_some()).ok_or(RunError::NoCode)?;
        let formation = formations::list(store, app.id).await?;
        let there = dynos::list(store, app.id).await?;
        let one_offs = || there.iter().filter(|dyno| dyno.kind == DynoKind::Run);
        if one_offs().count() >= MAX_ONE_OFFS {
            return Err(RunError::TooMany);
        }
        let size = size(&request, &formation)?;
        if dyno_size::sleeps(size.name)
            && let Some(standing) = shared.eco_hours_of(app.owner_id).await?
            && standing.is_used_up()
        {
            return Err(RunError::OutOfEcoHours);
        }
        shared
            .room
            .check(&Claim { slot: None, memory_bytes: size.memory_bytes })
            .map_err(|shortage| RunError::Failed(DynosError::NoRoom(shortage)))?;
        let process_type = request.process_type.as_deref().unwrap_or(RUN);
        let ordinal = loop {
            let ordinal = u32::from(random_of(&ONE_OFF_NUMBERS));
            if !one_offs().any(|dyno| dyno.process_type == process_type && dyno.ordinal == ordinal) {
                break ordinal;
            }
        };
        let now = now_ms();
        let command = environment::substitute(&request.command, &formation);
        let options = OneOffOptions { environment: request.environment, terminal: request.terminal };
        let new = NewDynoRow {
            id: DynoId(Uuid::new_v4()),
            app_id: app.id,
            kind: DynoKind::Run,
            process_type,
            ordinal,
            release_id: release.id,
            release_version: release.version,
            restart_generation: app.restart_generation,
            size: size.name,
            command: &command,
            port: random_of(&PORTS),
            attached: request.attach,
            options: Some(&options),
            expires_at: request.time_to_live_s.map(|seconds| now + Millis::from(seconds) * 1000),
        };
        write(store, app, size, &new, &release, actor, now).await?;
        let row = dynos::find(store, new.id).await?.ok_or(StoreError::NotFound { what: "dyno" })?;
        self.poke(app.id);
        Ok(row)
    }
}

/// The size asked for, else that of the process type, else the app's default.
fn size(request: &RunRequest, formation: &[Formation]) -> Result<&'static DynoSize, RunError> {
    let of_type = || {
        let named = request.process_type.as_deref()?;
        formation.iter().find(|one| one.process_type == named).map(|one| one.size.as_str())
    };
    let of_app = || {
        let web = formation.iter().find(|one| one.process_type == ferroku_core::planner::WEB);
        web.or(formation.first()).map(|one| one.size.as_str())
    };
    let name = request.size.as_deref().or_else(of_type).or_else(of_app).unwrap_or(DEFAULT_DYNO_SIZE);
    dyno_size::find(name).ok_or_else(|| RunError::Size(name.to_owned()))
}

async fn write(
    store: &Store,
    app: &App,
    size: &DynoSize,
    new: &NewDynoRow<'_>,
    release: &Release,
    actor: &Actor,
    now: Millis,
) -> Result<(), StoreError> {
    debug_assert_eq!(new.release_id, release.id);
    crate::crash_point::hit("one_off.before_create");
    ferroku_store::write!(store, tx => {
        limits::check_dyno_size(&mut tx, app.owner_id, size.name).await?;
        let one_more = |usage: &mut Usage| {
            usage.dynos += 1;
            usage.memory_bytes += size.memory_bytes;
        };
        limits::check(&mut tx, app.owner_id, one_more).await?;
        dynos::create(&mut tx, store.key(), new, now).await?;
        let event = events::NewEvent {
            app_id: Some(new.app_id),
            actor,
            kind: "dyno.create",
            log_message: Some(log_text::starting(new.command)),
        };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })?;
    crate::crash_point::hit("one_off.created");
    Ok(())
}
