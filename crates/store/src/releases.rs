//! Releases: the ledger.
//!
//! Invariants: versions of an app are 1, 2, 3 ... without gaps; a release, its config snapshot and the
//! event that announces it are written in one transaction; the current release is the newest that succeeded.

use crate::events::NewEvent;
use crate::row::{Columns, failed, word};
use crate::{Connection, MasterKey, Result, Store, StoreError, config_snapshots, events, formations, write};
use ferroku_core::config_var::{self, ConfigPatch, ConfigVars};
use ferroku_core::event::Actor;
use ferroku_core::release::{Release, ReleaseRef, ReleaseStatus, rollback_description};
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
    /// Those of the newest release, whether or not it succeeded: what a user set stays set.
    Keep,
    /// Those of the newest release, changed.
    Patch(ConfigPatch),
    /// Those of an older release.
    Snapshot(ConfigSnapshotId),
}

/// A release to be made.
#[derive(Debug)]
pub struct NewRelease<'a> {
    pub id: ReleaseId,
    pub app_id: AppId,
    pub actor: &'a Actor,
    pub description: String,
    pub status: ReleaseStatus,
    pub slug: SlugChange,
    pub config: ConfigChange,
}

/// Writes a release, its config snapshot where the vars changed, and its event; and, when it has
/// succeeded, what the app's row says of its release.
///
/// # Errors
/// [`StoreError::NotFound`] when the app is gone; [`StoreError::Refused`] when a patch is not allowed.
pub async fn create(
    tx: &mut Connection,
    key: &MasterKey,
    new: NewRelease<'_>,
    now: Millis,
) -> Result<Release> {
    lock_app(tx, new.app_id).await?;
    let newest = newest(tx, new.app_id).await?;
    let current = current_in(tx, new.app_id).await?;
    let config_snapshot_id = match (&new.config, &newest) {
        (ConfigChange::Snapshot(id), _) => *id,
        (ConfigChange::Keep, Some(newest)) => newest.config_snapshot_id,
        (ConfigChange::Keep, None) => {
            config_snapshots::create(tx, key, new.app_id, &ConfigVars::new(), now).await?
        }
        (ConfigChange::Patch(patch), newest) => {
            let vars = match newest {
                Some(newest) => config_snapshots::read(tx, key, newest.config_snapshot_id).await?,
                None => ConfigVars::new(),
            };
            let change =
                config_var::apply(&vars, patch).map_err(|why| StoreError::Refused(why.to_string()))?;
            match newest {
                Some(newest) if change.vars == vars => newest.config_snapshot_id,
                _ => config_snapshots::create(tx, key, new.app_id, &change.vars, now).await?,
            }
        }
    };
    let release = Release {
        id: new.id,
        app_id: new.app_id,
        version: newest.map_or(0, |newest| newest.version) + 1,
        description: new.description,
        status: new.status,
        slug_id: match new.slug {
            SlugChange::Keep => current.and_then(|current| current.slug_id),
            SlugChange::Set(id) => Some(id),
        },
        config_snapshot_id,
        account_id: new.actor.account_id,
        created_at: now,
        updated_at: now,
    };
    insert(tx, &release).await?;
    if release.status == ReleaseStatus::Succeeded {
        update_app(tx, &release).await?;
    }
    let event = NewEvent {
        app_id: Some(release.app_id),
        actor: new.actor,
        kind: "release.create",
        log_message: Some(format!("{}\nRelease v{} created", release.description, release.version)),
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
    let id = ReleaseId(Uuid::new_v4());
    write!(store, tx => {
        lock_app(&mut tx, app_id).await?;
        let vars = match newest(&mut tx, app_id).await? {
            Some(newest) => config_snapshots::read(&mut tx, store.key(), newest.config_snapshot_id).await?,
            None => ConfigVars::new(),
        };
        let change = config_var::apply(&vars, patch).map_err(|why| StoreError::Refused(why.to_string()))?;
        let Some(description) = change.description() else { return Ok((vars, None)) };
        let new = NewRelease {
            id,
            app_id,
            actor,
            description,
            status: ReleaseStatus::Succeeded,
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
            status: ReleaseStatus::Succeeded,
            slug: target.slug_id.map_or(SlugChange::Keep, SlugChange::Set),
            config: ConfigChange::Snapshot(target.config_snapshot_id),
        };
        let release = create(&mut tx, store.key(), new, now).await?;
        if let Some(slug_id) = release.slug_id {
            let slug = sqlx::query("SELECT process_types, deleted_at FROM slug WHERE id = $1")
                .bind(slug_id.to_string())
                .fetch_one(&mut *tx)
                .await
                .map_err(failed("read a slug's process types"))?;
            if slug.optional_integer("deleted_at")?.is_some() {
                return Err(StoreError::Refused(format!(
                    "Cannot roll back to v{}: its slug was removed to save space. Push that commit again instead.",
                    target.version
                )));
            }
            let process_types: ProcessTypes = slug.json("process_types")?;
            formations::apply_process_types(&mut tx, app_id, &process_types, false, now).await?;
        }
        Ok(release)
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

/// The app's config vars: those of its newest release, whether or not that one succeeded.
///
/// # Errors
/// As [`config_vars`].
pub async fn app_config_vars(store: &Store, app_id: AppId) -> Result<ConfigVars> {
    let mut connection = store.reader().acquire().await.map_err(failed("get a connection"))?;
    match newest(&mut connection, app_id).await? {
        Some(newest) => config_snapshots::read(&mut connection, store.key(), newest.config_snapshot_id).await,
        None => Ok(ConfigVars::new()),
    }
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

async fn insert(tx: &mut Connection, release: &Release) -> Result<()> {
    sqlx::query(
        "INSERT INTO release (id, app_id, version, description, status, slug_id, config_snapshot_id, \
         account_id, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
    )
    .bind(release.id.to_string())
    .bind(release.app_id.to_string())
    .bind(release.version)
    .bind(&release.description)
    .bind(word(&release.status))
    .bind(release.slug_id.map(|id| id.to_string()))
    .bind(release.config_snapshot_id.to_string())
    .bind(release.account_id.to_string())
    .bind(release.created_at)
    .execute(&mut *tx)
    .await
    .map_err(failed("write a release"))?;
    Ok(())
}

/// Brings what the app's row repeats of its current release up to date.
async fn update_app(tx: &mut Connection, release: &Release) -> Result<()> {
    sqlx::query("UPDATE app SET released_at = $1, updated_at = $1 WHERE id = $2")
        .bind(release.created_at)
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
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
