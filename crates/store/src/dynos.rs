//! Dynos: their rows.
//!
//! Life of a row: [`create`] (created) -> [`set_state`] (starting, up) -> [`retire`] -> [`set_stopping`]
//! -> [`end`] (crashed, down or complete, with `ended_at`). A formation dyno that crashed keeps its label
//! until its successor is created, and so does one that was stopped for sleep ([`drain`], then [`end`] as idle). Ended rows are history and pruned.
//!
//! Handlers only ask ([`request_restart`], [`request_stop`], [`restart_all`]); the dyno manager carries out.

use crate::row::Columns;
use crate::{Connection, Result, Store, StoreError, dyno_crashes, eco_hours, releases};
use ferroku_core::dyno::{Dyno, DynoKind, DynoState};
use ferroku_core::{AppId, DynoId, Millis, ReleaseId};
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What a one-off was asked for beyond its command; sealed in the row, because the environment is secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneOffOptions {
    /// Added to the config vars.
    pub environment: BTreeMap<String, String>,
    /// Whether an attached one gets a terminal; else pipes.
    pub terminal: bool,
}

/// A dyno to be written down.
pub struct NewDynoRow<'a> {
    pub id: DynoId,
    pub app_id: AppId,
    pub kind: DynoKind,
    pub process_type: &'a str,
    pub ordinal: u32,
    pub release_id: ReleaseId,
    pub release_version: i64,
    pub restart_generation: i64,
    pub size: &'a str,
    pub command: &'a str,
    pub port: u16,
    pub attached: bool,
    pub options: Option<&'a OneOffOptions>,
    pub expires_at: Option<Millis>,
}

/// Which dynos a request of the API names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector<'a> {
    /// `web.1`, or the dyno's id.
    One(DynoId),
    /// All of a process type: `web`.
    Type(&'a str),
}

/// A `SELECT` of whole dyno rows, as one static text.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT id, app_id, kind, process_type, ordinal, release_id, release_version, restart_generation, ",
            "size, command, state, port, address, attached, exit_status, restart_requested_at, ",
            "stop_requested_at, retired_at, draining_at, stopping_at, ended_at, expires_at, created_at, ",
            "updated_at FROM dyno ",
            $rest
        )
    };
}

/// Writes a dyno down, in state created.
///
/// # Errors
/// The database failed.
pub async fn create(
    tx: &mut Connection,
    key: &crate::MasterKey,
    dyno: &NewDynoRow<'_>,
    now: Millis,
) -> Result<()> {
    let options = match dyno.options {
        None => None,
        Some(options) => {
            let plain = serde_json::to_vec(options).map_err(|error| corrupt(error.to_string()))?;
            Some(key.seal(&options_aad(dyno.id), &plain))
        }
    };
    sqlx::query(
        "INSERT INTO dyno (id, app_id, kind, process_type, ordinal, release_id, release_version, \
         restart_generation, size, command, state, port, attached, options, expires_at, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'created', $11, $12, $13, $14, $15, $15)",
    )
    .bind(dyno.id.to_string())
    .bind(dyno.app_id.to_string())
    .bind(kind_name(dyno.kind))
    .bind(dyno.process_type)
    .bind(i64::from(dyno.ordinal))
    .bind(dyno.release_id.to_string())
    .bind(dyno.release_version)
    .bind(dyno.restart_generation)
    .bind(dyno.size)
    .bind(dyno.command)
    .bind(i64::from(dyno.port))
    .bind(i64::from(dyno.attached))
    .bind(options)
    .bind(dyno.expires_at)
    .bind(now)
    .execute(tx)
    .await
    .map_err(|source| StoreError::Query { action: "write down a dyno", source })?;
    Ok(())
}

/// What a one-off was asked for.
///
/// # Errors
/// The row cannot be unsealed, or the database failed.
pub async fn options(store: &Store, id: DynoId) -> Result<Option<OneOffOptions>> {
    let row = sqlx::query("SELECT options FROM dyno WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(store.reader())
        .await
        .map_err(|source| StoreError::Query { action: "read a dyno's options", source })?;
    let sealed: Option<String> = match row {
        None => None,
        Some(row) => row.try_get("options").map_err(|error| corrupt(error.to_string()))?,
    };
    let Some(sealed) = sealed else { return Ok(None) };
    let plain = store.key().unseal(&options_aad(id), &sealed)?;
    serde_json::from_slice(&plain).map(Some).map_err(|error| corrupt(error.to_string()))
}

/// Dynos of an app that are there: not ended, or crashed or stopped for sleep and still holding their label; oldest first.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, app_id: AppId) -> Result<Vec<Dyno>> {
    let rows = sqlx::query(select!(
        "WHERE app_id = $1 AND (ended_at IS NULL OR (state IN ('crashed', 'idle') AND retired_at IS NULL)) \
         ORDER BY created_at, id"
    ))
    .bind(app_id.to_string())
    .fetch_all(store.reader())
    .await
    .map_err(|source| StoreError::Query { action: "list the dynos", source })?;
    rows.iter().map(from_row).collect()
}

/// One dyno by its id, also one that has ended, as long as it is kept.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, id: DynoId) -> Result<Option<Dyno>> {
    let row = sqlx::query(select!("WHERE id = $1"))
        .bind(id.to_string())
        .fetch_optional(store.reader())
        .await
        .map_err(|source| StoreError::Query { action: "find a dyno", source })?;
    row.as_ref().map(from_row).transpose()
}

/// Every dyno of the node that has not ended.
///
/// # Errors
/// The database failed.
pub async fn list_living(store: &Store) -> Result<Vec<Dyno>> {
    let rows = sqlx::query(select!("WHERE ended_at IS NULL ORDER BY created_at, id"))
        .fetch_all(store.reader())
        .await
        .map_err(|source| StoreError::Query { action: "list the living dynos", source })?;
    rows.iter().map(from_row).collect()
}

/// Every app of the node.
///
/// # Errors
/// The database failed.
pub async fn list_apps(store: &Store) -> Result<Vec<AppId>> {
    let rows = sqlx::query("SELECT id FROM app")
        .fetch_all(store.reader())
        .await
        .map_err(|source| StoreError::Query { action: "list the apps", source })?;
    let id = |row: &AnyRow| {
        let text: String = row.try_get("id").map_err(|error| corrupt(error.to_string()))?;
        text.parse().map_err(|_| corrupt(text))
    };
    rows.iter().map(id).collect()
}

/// Its state changed to starting, up or idle; `address` replaces the one known when given. Eco hours are counted.
///
/// # Errors
/// The database failed.
pub async fn set_state(
    tx: &mut Connection,
    id: DynoId,
    state: DynoState,
    address: Option<&str>,
    now: Millis,
) -> Result<()> {
    let changed = sqlx::query(
        "UPDATE dyno SET state = $1, address = COALESCE($2, address), updated_at = $3 \
         WHERE id = $4 AND ended_at IS NULL RETURNING app_id, size, eco_since",
    )
    .bind(state_name(state))
    .bind(address)
    .bind(now)
    .bind(id.to_string())
    .fetch_optional(&mut *tx)
    .await
    .map_err(|source| StoreError::Query { action: "set a dyno's state", source })?;
    let Some(changed) = changed else { return Ok(()) };
    let is_awake = matches!(state, DynoState::Starting | DynoState::Up);
    eco_hours::turn(tx, id, &changed, is_awake, now).await
}

/// Its label is free from now on; with `draining`, it gets no new request either.
///
/// # Errors
/// The database failed.
pub async fn retire(tx: &mut Connection, id: DynoId, draining: bool, now: Millis) -> Result<()> {
    sqlx::query(
        "UPDATE dyno SET retired_at = COALESCE(retired_at, $1), draining_at = COALESCE(draining_at, $2) \
         WHERE id = $3",
    )
    .bind(now)
    .bind(draining.then_some(now))
    .bind(id.to_string())
    .execute(tx)
    .await
    .map_err(|source| StoreError::Query { action: "retire a dyno", source })?;
    Ok(())
}

/// It gets no new request, and keeps its label.
///
/// # Errors
/// The database failed.
pub async fn drain(tx: &mut Connection, id: DynoId, now: Millis) -> Result<()> {
    sqlx::query("UPDATE dyno SET draining_at = COALESCE(draining_at, $1) WHERE id = $2")
        .bind(now)
        .bind(id.to_string())
        .execute(tx)
        .await
        .map_err(|source| StoreError::Query { action: "drain a dyno", source })?;
    Ok(())
}

/// SIGTERM is being sent.
///
/// # Errors
/// The database failed.
pub async fn set_stopping(tx: &mut Connection, id: DynoId, now: Millis) -> Result<()> {
    sqlx::query("UPDATE dyno SET stopping_at = COALESCE(stopping_at, $1) WHERE id = $2")
        .bind(now)
        .bind(id.to_string())
        .execute(tx)
        .await
        .map_err(|source| StoreError::Query { action: "stop a dyno", source })?;
    Ok(())
}

/// Its process is gone. An ended row stays ended as it is. What ran a release's command decides on that release: it
/// succeeds with status 0, unless the command was told to stop.
///
/// # Errors
/// The database failed.
pub async fn end(
    tx: &mut Connection,
    id: DynoId,
    state: DynoState,
    exit_status: Option<i32>,
    now: Millis,
) -> Result<()> {
    let ended = sqlx::query(
        "UPDATE dyno SET state = $1, exit_status = $2, ended_at = $3, updated_at = $3, address = NULL, \
         options = NULL WHERE id = $4 AND ended_at IS NULL \
         RETURNING app_id, kind, release_id, size, stopping_at, eco_since",
    )
    .bind(state_name(state))
    .bind(exit_status.map(i64::from))
    .bind(now)
    .bind(id.to_string())
    .fetch_optional(&mut *tx)
    .await
    .map_err(|source| StoreError::Query { action: "end a dyno", source })?;
    let Some(ended) = ended else { return Ok(()) };
    eco_hours::turn(tx, id, &ended, false, now).await?;
    if ended.text("kind")? == kind_name(DynoKind::Release) {
        let succeeded = exit_status == Some(0) && ended.optional_integer("stopping_at")?.is_none();
        releases::command::ended(tx, ended.parsed("release_id")?, succeeded, now).await?;
    }
    Ok(())
}

/// Restarts every formation dyno of an app: raises its restart generation. Cooling off ends.
///
/// # Errors
/// The database failed.
pub async fn restart_all(tx: &mut Connection, app_id: AppId) -> Result<()> {
    sqlx::query("UPDATE app SET restart_generation = restart_generation + 1 WHERE id = $1")
        .bind(app_id.to_string())
        .execute(tx)
        .await
        .map_err(|source| StoreError::Query { action: "restart the dynos", source })?;
    Ok(())
}

/// Asks for a restart of the dynos named, which are there; what is remembered of their crashes is
/// forgotten. Gives how many there were.
///
/// # Errors
/// The database failed.
pub async fn request_restart(
    tx: &mut Connection,
    app_id: AppId,
    selector: &Selector<'_>,
    now: Millis,
) -> Result<u64> {
    let sql = "UPDATE dyno SET restart_requested_at = COALESCE(restart_requested_at, $1) \
               WHERE app_id = $2 AND (id = $3 OR process_type = $4) AND retired_at IS NULL";
    ask(tx, sql, app_id, selector, now).await
}

/// Asks for a stop of the dynos named. Gives how many there were.
///
/// # Errors
/// The database failed.
pub async fn request_stop(
    tx: &mut Connection,
    app_id: AppId,
    selector: &Selector<'_>,
    now: Millis,
) -> Result<u64> {
    let sql = "UPDATE dyno SET stop_requested_at = COALESCE(stop_requested_at, $1) \
               WHERE app_id = $2 AND (id = $3 OR process_type = $4) AND ended_at IS NULL";
    ask(tx, sql, app_id, selector, now).await
}

/// Asks for something of the living dynos that are named; what is remembered of their crashes is forgotten.
async fn ask(
    tx: &mut Connection,
    sql: &'static str,
    app_id: AppId,
    selector: &Selector<'_>,
    now: Millis,
) -> Result<u64> {
    dyno_crashes::forget(tx, app_id, selector).await?;
    let (id, process_type) = match selector {
        Selector::One(id) => (Some(id.to_string()), None),
        Selector::Type(process_type) => (None, Some((*process_type).to_owned())),
    };
    let done = sqlx::query(sql)
        .bind(now)
        .bind(app_id.to_string())
        .bind(id)
        .bind(process_type)
        .execute(tx)
        .await
        .map_err(|source| StoreError::Query { action: "ask for a restart or stop of dynos", source })?;
    Ok(done.rows_affected())
}

/// How many dynos of an app are in one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DynoCount {
    pub app_id: AppId,
    pub process_type: String,
    /// As it is stored: `up`, `starting` ...
    pub state: String,
    pub dynos: i64,
}

/// How many dynos that have not ended each app has, by process type and state.
///
/// # Errors
/// The database failed.
pub async fn counts(store: &Store) -> Result<Vec<DynoCount>> {
    let rows = sqlx::query(
        "SELECT app_id, process_type, state, COUNT(*) AS dynos FROM dyno WHERE ended_at IS NULL \
         GROUP BY app_id, process_type, state ORDER BY app_id, process_type, state",
    )
    .fetch_all(store.reader())
    .await
    .map_err(|source| StoreError::Query { action: "count dynos", source })?;
    let count = |row: &AnyRow| -> Decode<DynoCount> {
        Ok(DynoCount {
            app_id: row.try_get::<String, _>("app_id")?.parse()?,
            process_type: row.try_get("process_type")?,
            state: row.try_get("state")?,
            dynos: row.try_get("dynos")?,
        })
    };
    rows.iter().map(|row| count(row).map_err(|error| corrupt(error.to_string()))).collect()
}

/// Deletes rows of dynos that ended before `before` and hold no label. Gives how many.
///
/// # Errors
/// The database failed.
pub async fn prune(tx: &mut Connection, before: Millis) -> Result<u64> {
    let done = sqlx::query(
        "DELETE FROM dyno WHERE ended_at < $1 AND NOT (state IN ('crashed', 'idle') AND retired_at IS NULL)",
    )
    .bind(before)
    .execute(tx)
    .await
    .map_err(|source| StoreError::Query { action: "prune ended dynos", source })?;
    Ok(done.rows_affected())
}

fn options_aad(id: DynoId) -> String {
    format!("dyno/{id}/1")
}

fn corrupt(detail: String) -> StoreError {
    StoreError::Corrupt { what: "dyno", detail }
}

fn kind_name(kind: DynoKind) -> &'static str {
    match kind {
        DynoKind::Formation => "formation",
        DynoKind::Run => "run",
        DynoKind::Release => "release",
    }
}

fn state_name(state: DynoState) -> &'static str {
    match state {
        DynoState::Created => "created",
        DynoState::Starting => "starting",
        DynoState::Up => "up",
        DynoState::Crashed => "crashed",
        DynoState::Idle => "idle",
        DynoState::Down => "down",
        DynoState::Complete => "complete",
    }
}

type Decode<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn from_row(row: &AnyRow) -> Result<Dyno> {
    decode(row).map_err(|error| corrupt(error.to_string()))
}

fn decode(row: &AnyRow) -> Decode<Dyno> {
    let kind = match row.try_get("kind")? {
        "formation" => DynoKind::Formation,
        "run" => DynoKind::Run,
        "release" => DynoKind::Release,
        other => return Err(format!("kind {other}").into()),
    };
    let state = match row.try_get("state")? {
        "created" => DynoState::Created,
        "starting" => DynoState::Starting,
        "up" => DynoState::Up,
        "crashed" => DynoState::Crashed,
        "idle" => DynoState::Idle,
        "down" => DynoState::Down,
        "complete" => DynoState::Complete,
        other => return Err(format!("state {other}").into()),
    };
    Ok(Dyno {
        id: DynoId(Uuid::parse_str(row.try_get("id")?)?),
        app_id: AppId(Uuid::parse_str(row.try_get("app_id")?)?),
        kind,
        process_type: row.try_get("process_type")?,
        ordinal: u32::try_from(row.try_get::<i64, _>("ordinal")?)?,
        release_id: ReleaseId(Uuid::parse_str(row.try_get("release_id")?)?),
        release_version: row.try_get("release_version")?,
        restart_generation: row.try_get("restart_generation")?,
        size: row.try_get("size")?,
        command: row.try_get("command")?,
        state,
        port: row.try_get::<Option<i64>, _>("port")?.map(u16::try_from).transpose()?,
        address: row.try_get("address")?,
        attached: row.try_get::<i64, _>("attached")? != 0,
        exit_status: row.try_get::<Option<i64>, _>("exit_status")?.map(i32::try_from).transpose()?,
        restart_requested_at: row.try_get("restart_requested_at")?,
        stop_requested_at: row.try_get("stop_requested_at")?,
        retired_at: row.try_get("retired_at")?,
        draining_at: row.try_get("draining_at")?,
        stopping_at: row.try_get("stopping_at")?,
        ended_at: row.try_get("ended_at")?,
        expires_at: row.try_get("expires_at")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}
