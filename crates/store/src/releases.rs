//! Releases: the ledger.
//!
//! Invariants: versions of an app are 1, 2, 3 ... without gaps; a release, its config snapshot, the dyno of its release
//! command and the event that announces it are written in one transaction; the current release is the newest that
//! succeeded; a pending release is the app's newest, and its dyno has not ended ([`command::ended`]).

pub(crate) mod command;

use crate::events::NewEvent;
use crate::row::{Columns, failed, word};
use crate::{
    Connection, MasterKey, Result, Store, StoreError, config_snapshots, events, formations, limits,
    slug_uploads, write,
};
use command::CommandDyno;
use ferroku_core::config_var::{self, ConfigPatch, ConfigVars};
use ferroku_core::event::Actor;
use ferroku_core::release::{RELEASE, Release, ReleaseRef, ReleaseStatus, rollback_description};
use ferroku_core::slug::ProcessTypes;
use ferroku_core::{AppId, ConfigSnapshotId, Millis, ReleaseId, SlugId};
use sqlx::any::AnyRow;
use uuid::Uuid;

/// The slug of a new release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlugChange {
    /// That of the current release.
    Keep,
    Set(SlugId),
}

/// The config vars of a new release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigChange {
    /// Those that the app has: of its newest release, whether or not that succeeded, for what a user set stays set; but
    /// not those that a rollback brought back which did not succeed.
    Keep,
    /// Those that the app has, changed.
    Patch(ConfigPatch),
    /// Those of an older release: a rollback.
    Snapshot(ConfigSnapshotId),
}

/// A release to be made.
#[derive(Debug)]
pub struct NewRelease<'a> {
    pub id: ReleaseId,
    pub app_id: AppId,
    pub actor: &'a Actor,
    pub description: String,
    pub slug: SlugChange,
    pub config: ConfigChange,
}

/// Writes a release, its config snapshot where the vars changed, and its event. Without a release command it takes
/// effect at once: the app's row and formation follow. With one it is pending, and the command's dyno is written down.
///
/// # Errors
/// [`StoreError::NotFound`] when the app is gone; [`StoreError::Refused`] when a patch is not allowed, the slug was
/// removed, or the command of an earlier release still runs.
pub async fn create(
    tx: &mut Connection,
    key: &MasterKey,
    new: NewRelease<'_>,
    now: Millis,
) -> Result<Release> {
    lock_app(tx, new.app_id).await?;
    let newest = newest(tx, new.app_id).await?;
    command::refuse_meanwhile(newest.as_ref())?;
    let slug_id = match new.slug {
        SlugChange::Keep => current_in(tx, new.app_id).await?.and_then(|current| current.slug_id),
        SlugChange::Set(id) => Some(id),
    };
    let process_types = match slug_id {
        Some(id) => process_types(tx, id).await?,
        None => ProcessTypes::new(),
    };
    let dyno = process_types.get(RELEASE).map(CommandDyno::new);
    let release = Release {
        id: new.id,
        app_id: new.app_id,
        version: newest.as_ref().map_or(0, |newest| newest.version) + 1,
        description: new.description,
        status: if dyno.is_some() { ReleaseStatus::Pending } else { ReleaseStatus::Succeeded },
        slug_id,
        config_snapshot_id: config_snapshot(tx, key, new.app_id, &new.config, now).await?,
        account_id: new.actor.account_id,
        command_dyno: dyno.as_ref().map(CommandDyno::label),
        created_at: now,
        updated_at: now,
    };
    insert(tx, &release, matches!(new.config, ConfigChange::Snapshot(_))).await?;
    let done = match &dyno {
        Some(dyno) => {
            dyno.write(tx, key, &release, now).await?;
            format!("Running release v{} commands", release.version)
        }
        None => {
            take_effect(tx, &release, &process_types, now).await?;
            format!("Release v{} created", release.version)
        }
    };
    let event = NewEvent {
        app_id: Some(release.app_id),
        actor: new.actor,
        kind: "release.create",
        log_message: Some(format!("{}\n{done}", release.description)),
    };
    events::append(tx, event, now).await?;
    Ok(release)
}

/// Changes config vars: one release for the whole patch, none when it changes nothing. Gives the
/// vars afterwards and the release.
///
/// # Errors
/// As [`create`].
pub async fn patch_config_vars(
    store: &Store,
    app_id: AppId,
    patch: &ConfigPatch,
    actor: &Actor,
    now: Millis,
) -> Result<(ConfigVars, Option<Release>)> {
    if patch.values().any(Option::is_some) {
        // Ahead of the transaction, which would depend on every app of the account otherwise: on PostgreSQL, changes of
        // several of them at a time would make each other fail. What slips in between is one set of config vars.
        let mut connection = store.reader().acquire().await.map_err(failed("get a connection"))?;
        limits::check_disk(&mut connection, app_id).await?;
    }
    let id = ReleaseId(Uuid::new_v4());
    write!(store, tx => {
        lock_app(&mut tx, app_id).await?;
        let vars = vars_in(&mut tx, store.key(), app_id).await?;
        let change = config_var::apply(&vars, patch).map_err(|why| StoreError::Refused(why.to_string()))?;
        let Some(description) = change.description() else { return Ok((vars, None)) };
        let new = NewRelease {
            id,
            app_id,
            actor,
            description,
            slug: SlugChange::Keep,
            config: ConfigChange::Patch(patch.clone()),
        };
        let release = create(&mut tx, store.key(), new, now).await?;
        Ok((change.vars, Some(release)))
    })
}

/// Goes back to an older release (by id, number or `vN`): a new release with its slug and its config vars, and
/// the formation brought in line with the slug's process types.
///
/// # Errors
/// [`StoreError::NotFound`] when there is no such release; [`StoreError::Refused`] when it cannot be gone back to.
pub async fn rollback(
    store: &Store,
    app_id: AppId,
    id_or_version: &str,
    actor: &Actor,
    now: Millis,
) -> Result<Release> {
    let id = ReleaseId(Uuid::new_v4());
    write!(store, tx => {
        lock_app(&mut tx, app_id).await?;
        let target = find_in(&mut tx, app_id, id_or_version)
            .await?
            .ok_or(StoreError::NotFound { what: "release" })?;
        let current = current_in(&mut tx, app_id).await?;
        if !target.is_eligible_for_rollback(current.as_ref()) {
            return Err(StoreError::Refused(match target.status {
                ReleaseStatus::Succeeded => {
                    format!("Cannot roll back to v{}: it has no slug, and the app would be left without code.", target.version)
                }
                ReleaseStatus::Expired => format!(
                    "Cannot roll back to v{}: its slug was removed to save space. Push that commit again.",
                    target.version
                ),
                _ => format!("Cannot roll back to v{}: that release did not succeed.", target.version),
            }));
        }
        let new = NewRelease {
            id,
            app_id,
            actor,
            description: rollback_description(target.version),
            slug: target.slug_id.map_or(SlugChange::Keep, SlugChange::Set),
            config: ConfigChange::Snapshot(target.config_snapshot_id),
        };
        create(&mut tx, store.key(), new, now).await
    })
}

/// Releases a slug of the app anew, with the config vars that it has.
///
/// # Errors
/// [`StoreError::NotFound`] when the app has no such slug; else as [`create`].
pub async fn release_slug(
    store: &Store,
    app_id: AppId,
    slug_id: SlugId,
    description: &str,
    actor: &Actor,
    now: Millis,
) -> Result<Release> {
    let id = ReleaseId(Uuid::new_v4());
    write!(store, tx => {
        let own = sqlx::query("SELECT id FROM slug WHERE id = $1 AND app_id = $2")
            .bind(slug_id.to_string())
            .bind(app_id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed("find a slug"))?;
        if own.is_none() {
            slug_uploads::refuse_if_awaited(&mut tx, app_id, slug_id).await?;
            return Err(StoreError::NotFound { what: "slug" });
        }
        let new = NewRelease {
            id,
            app_id,
            actor,
            description: description.to_owned(),
            slug: SlugChange::Set(slug_id),
            config: ConfigChange::Keep,
        };
        create(&mut tx, store.key(), new, now).await
    })
}

/// The app's current release: the newest that succeeded.
///
/// # Errors
/// The database failed.
pub async fn current(store: &Store, app_id: AppId) -> Result<Option<Release>> {
    let mut connection = store.reader().acquire().await.map_err(failed("get a connection"))?;
    current_in(&mut connection, app_id).await
}

/// As [`current`], inside a transaction.
///
/// # Errors
/// The database failed.
pub async fn current_in(connection: &mut Connection, app_id: AppId) -> Result<Option<Release>> {
    let row =
        sqlx::query("SELECT * FROM release WHERE app_id = $1 AND status = $2 ORDER BY version DESC LIMIT 1")
            .bind(app_id.to_string())
            .bind(word(&ReleaseStatus::Succeeded))
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed("find the current release"))?;
    row.as_ref().map(release).transpose()
}

/// The app's releases, oldest first.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, app_id: AppId) -> Result<Vec<Release>> {
    let rows = sqlx::query("SELECT * FROM release WHERE app_id = $1 ORDER BY version")
        .bind(app_id.to_string())
        .fetch_all(store.reader())
        .await
        .map_err(failed("list releases"))?;
    rows.iter().map(release).collect()
}

/// A release of the app, by id, number or `vN`.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, app_id: AppId, id_or_version: &str) -> Result<Option<Release>> {
    let mut connection = store.reader().acquire().await.map_err(failed("get a connection"))?;
    find_in(&mut connection, app_id, id_or_version).await
}

async fn find_in(connection: &mut Connection, app_id: AppId, id_or_version: &str) -> Result<Option<Release>> {
    let query = match ReleaseRef::parse(id_or_version) {
        Some(ReleaseRef::Id(id)) => sqlx::query("SELECT * FROM release WHERE app_id = $1 AND id = $2")
            .bind(app_id.to_string())
            .bind(id.to_string()),
        Some(ReleaseRef::Version(version)) => {
            sqlx::query("SELECT * FROM release WHERE app_id = $1 AND version = $2")
                .bind(app_id.to_string())
                .bind(version)
        }
        None => return Ok(None),
    };
    let row = query.fetch_optional(&mut *connection).await.map_err(failed("find a release"))?;
    row.as_ref().map(release).transpose()
}

/// The release's config vars.
///
/// # Errors
/// They cannot be opened with the node's key, or the database failed.
pub async fn config_vars(store: &Store, release: &Release) -> Result<ConfigVars> {
    let mut connection = store.reader().acquire().await.map_err(failed("get a connection"))?;
    config_snapshots::read(&mut connection, store.key(), release.config_snapshot_id).await
}

/// The config vars that the app has ([`ConfigChange::Keep`]).
///
/// # Errors
/// As [`config_vars`].
pub async fn app_config_vars(store: &Store, app_id: AppId) -> Result<ConfigVars> {
    let mut connection = store.reader().acquire().await.map_err(failed("get a connection"))?;
    vars_in(&mut connection, store.key(), app_id).await
}

/// Refuses while the command of a release runs, as [`create`] would.
///
/// # Errors
/// [`StoreError::Refused`], which names the dyno to stop.
pub async fn refuse_while_pending(store: &Store, app_id: AppId) -> Result<()> {
    let mut connection = store.reader().acquire().await.map_err(failed("get a connection"))?;
    command::refuse_meanwhile(newest(&mut connection, app_id).await?.as_ref())
}

/// A release by its id, of whichever app.
///
/// # Errors
/// The database failed.
pub async fn by_id(store: &Store, id: ReleaseId) -> Result<Option<Release>> {
    let row = sqlx::query("SELECT * FROM release WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find a release"))?;
    row.as_ref().map(release).transpose()
}

/// The config vars that a new release is to have.
async fn config_snapshot(
    tx: &mut Connection,
    key: &MasterKey,
    app_id: AppId,
    change: &ConfigChange,
    now: Millis,
) -> Result<ConfigSnapshotId> {
    let present = match change {
        ConfigChange::Snapshot(id) => return Ok(*id),
        ConfigChange::Keep | ConfigChange::Patch(_) => config_release(tx, app_id).await?,
    };
    let vars = match (change, &present) {
        (ConfigChange::Patch(patch), _) => {
            let vars = vars_of(tx, key, present.as_ref()).await?;
            let change =
                config_var::apply(&vars, patch).map_err(|why| StoreError::Refused(why.to_string()))?;
            (change.vars != vars).then_some(change.vars)
        }
        _ => None,
    };
    match (vars, present) {
        (None, Some(present)) => Ok(present.config_snapshot_id),
        (vars, _) => config_snapshots::create(tx, key, app_id, &vars.unwrap_or_default(), now).await,
    }
}

/// The config vars that the app has.
async fn vars_in(connection: &mut Connection, key: &MasterKey, app_id: AppId) -> Result<ConfigVars> {
    let release = config_release(connection, app_id).await?;
    vars_of(connection, key, release.as_ref()).await
}

async fn vars_of(
    connection: &mut Connection,
    key: &MasterKey,
    release: Option<&Release>,
) -> Result<ConfigVars> {
    match release {
        Some(release) => config_snapshots::read(connection, key, release.config_snapshot_id).await,
        None => Ok(ConfigVars::new()),
    }
}

/// The release whose config vars the app has.
async fn config_release(connection: &mut Connection, app_id: AppId) -> Result<Option<Release>> {
    let row = sqlx::query(
        "SELECT * FROM release WHERE app_id = $1 AND NOT (is_rollback = 1 AND status IN ($2, $3)) \
         ORDER BY version DESC LIMIT 1",
    )
    .bind(app_id.to_string())
    .bind(word(&ReleaseStatus::Pending))
    .bind(word(&ReleaseStatus::Failed))
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed("find the release whose config vars count"))?;
    row.as_ref().map(release).transpose()
}

/// A slug's process types.
async fn process_types(tx: &mut Connection, slug_id: SlugId) -> Result<ProcessTypes> {
    let slug = sqlx::query("SELECT process_types, deleted_at FROM slug WHERE id = $1")
        .bind(slug_id.to_string())
        .fetch_one(&mut *tx)
        .await
        .map_err(failed("read a slug's process types"))?;
    if slug.optional_integer("deleted_at")?.is_some() {
        return Err(StoreError::Refused(
            "The slug of that release was removed to save space. Push its commit again instead.".to_owned(),
        ));
    }
    slug.json("process_types")
}

/// From now on the app is at this release, whose slug has these process types.
async fn take_effect(
    tx: &mut Connection,
    release: &Release,
    process_types: &ProcessTypes,
    now: Millis,
) -> Result<()> {
    update_app(tx, release, now).await?;
    if release.slug_id.is_none() {
        return Ok(());
    }
    let earlier = sqlx::query(
        "SELECT id FROM release WHERE app_id = $1 AND version < $2 AND slug_id IS NOT NULL \
         AND status IN ($3, $4) LIMIT 1",
    )
    .bind(release.app_id.to_string())
    .bind(release.version)
    .bind(word(&ReleaseStatus::Succeeded))
    .bind(word(&ReleaseStatus::Expired))
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed("look for an earlier deploy"))?;
    formations::apply_process_types(tx, release.app_id, process_types, earlier.is_none(), now).await
}

/// Makes others that would write a release of this app wait until this transaction has ended.
async fn lock_app(tx: &mut Connection, app_id: AppId) -> Result<()> {
    let done = sqlx::query("UPDATE app SET name = name WHERE id = $1")
        .bind(app_id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("lock an app"))?;
    if done.rows_affected() == 0 { Err(StoreError::NotFound { what: "app" }) } else { Ok(()) }
}

async fn newest(connection: &mut Connection, app_id: AppId) -> Result<Option<Release>> {
    let row = sqlx::query("SELECT * FROM release WHERE app_id = $1 ORDER BY version DESC LIMIT 1")
        .bind(app_id.to_string())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed("find the newest release"))?;
    row.as_ref().map(release).transpose()
}

async fn insert(tx: &mut Connection, release: &Release, is_rollback: bool) -> Result<()> {
    sqlx::query(
        "INSERT INTO release (id, app_id, version, description, status, slug_id, config_snapshot_id, \
         account_id, command_dyno, is_rollback, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)",
    )
    .bind(release.id.to_string())
    .bind(release.app_id.to_string())
    .bind(release.version)
    .bind(&release.description)
    .bind(word(&release.status))
    .bind(release.slug_id.map(|id| id.to_string()))
    .bind(release.config_snapshot_id.to_string())
    .bind(release.account_id.to_string())
    .bind(release.command_dyno.clone())
    .bind(i64::from(is_rollback))
    .bind(release.created_at)
    .execute(&mut *tx)
    .await
    .map_err(failed("write a release"))?;
    Ok(())
}

/// Brings what the app's row repeats of its current release up to date.
async fn update_app(tx: &mut Connection, release: &Release, now: Millis) -> Result<()> {
    sqlx::query("UPDATE app SET released_at = $1, updated_at = $1 WHERE id = $2")
        .bind(now)
        .bind(release.app_id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("note a release in its app"))?;
    let Some(slug_id) = release.slug_id else { return Ok(()) };
    sqlx::query(
        "UPDATE app SET slug_size_bytes = (SELECT size_bytes FROM slug WHERE id = $1), \
         stack = (SELECT stack FROM slug WHERE id = $1), \
         buildpack_provided_description = (SELECT buildpack_provided_description FROM slug WHERE id = $1) \
         WHERE id = $2",
    )
    .bind(slug_id.to_string())
    .bind(release.app_id.to_string())
    .execute(&mut *tx)
    .await
    .map_err(failed("note a slug in its app"))?;
    Ok(())
}

fn release(row: &AnyRow) -> Result<Release> {
    Ok(Release {
        id: row.parsed("id")?,
        app_id: row.parsed("app_id")?,
        version: row.integer("version")?,
        description: row.text("description")?,
        status: row.word("status")?,
        slug_id: row.optional_parsed("slug_id")?,
        config_snapshot_id: row.parsed("config_snapshot_id")?,
        account_id: row.parsed("account_id")?,
        command_dyno: row.optional_text("command_dyno")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
