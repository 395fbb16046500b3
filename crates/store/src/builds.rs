//! Builds: their rows.
//!
//! A build's row is written before anything of it happens and ends as `succeeded` in its release's transaction, or
//! as `failed`. What is `pending` when the node starts was cut off and is failed then.

use crate::row::{Columns, failed, json, word};
use crate::{Connection, Result, Store, StoreError, write};
use ferroku_core::build::{Build, BuildSource, BuildStatus};
use ferroku_core::{AppId, BuildId, Millis, ReleaseId, SlugId};
use futures::TryStreamExt;
use sqlx::any::AnyRow;
use std::collections::BTreeMap;

/// What a build came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Succeeded { slug_id: SlugId, release_id: ReleaseId, buildpacks: Vec<String> },
    Failed,
}

/// Writes a build.
///
/// # Errors
/// The app is gone, or the database failed.
pub async fn create(tx: &mut Connection, build: &Build) -> Result<()> {
    sqlx::query(
        "INSERT INTO build (id, app_id, account_id, status, stack, buildpacks, source_version, slug_id, \
         release_id, created_at, updated_at, source_url, source_checksum, source_description) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(build.id.to_string())
    .bind(build.app_id.to_string())
    .bind(build.account_id.to_string())
    .bind(word(&build.status))
    .bind(&build.stack)
    .bind(json(&build.buildpacks))
    .bind(build.source_version.clone())
    .bind(build.slug_id.map(|id| id.to_string()))
    .bind(build.release_id.map(|id| id.to_string()))
    .bind(build.created_at)
    .bind(build.updated_at)
    .bind(build.source.as_ref().map(|source| source.url.clone()))
    .bind(build.source.as_ref().and_then(|source| source.checksum.clone()))
    .bind(build.source.as_ref().and_then(|source| source.version_description.clone()))
    .execute(&mut *tx)
    .await
    .map_err(failed("write a build"))?;
    Ok(())
}

/// Ends a build that is pending.
///
/// # Errors
/// [`StoreError::NotFound`] when there is no such pending build; the database failed.
pub async fn finish(tx: &mut Connection, id: BuildId, outcome: &Outcome, now: Millis) -> Result<()> {
    let (status, slug_id, release_id, buildpacks) = match outcome {
        Outcome::Succeeded { slug_id, release_id, buildpacks } => {
            let ids = (Some(slug_id.to_string()), Some(release_id.to_string()));
            (BuildStatus::Succeeded, ids.0, ids.1, Some(json(buildpacks)))
        }
        Outcome::Failed => (BuildStatus::Failed, None, None, None),
    };
    let done = sqlx::query(
        "UPDATE build SET status = $1, slug_id = $2, release_id = $3, buildpacks = COALESCE($4, buildpacks), \
         updated_at = $5 WHERE id = $6 AND status = $7",
    )
    .bind(word(&status))
    .bind(slug_id)
    .bind(release_id)
    .bind(buildpacks)
    .bind(now)
    .bind(id.to_string())
    .bind(word(&BuildStatus::Pending))
    .execute(&mut *tx)
    .await
    .map_err(failed("end a build"))?;
    if done.rows_affected() == 0 { Err(StoreError::NotFound { what: "pending build" }) } else { Ok(()) }
}

/// A build of the app.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, app_id: AppId, id: BuildId) -> Result<Option<Build>> {
    let row = sqlx::query("SELECT * FROM build WHERE app_id = $1 AND id = $2")
        .bind(app_id.to_string())
        .bind(id.to_string())
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find a build"))?;
    row.as_ref().map(build).transpose()
}

/// The app's builds, oldest first.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, app_id: AppId) -> Result<Vec<Build>> {
    let rows = sqlx::query("SELECT * FROM build WHERE app_id = $1 ORDER BY created_at, id")
        .bind(app_id.to_string())
        .fetch_all(store.reader())
        .await
        .map_err(failed("list builds"))?;
    rows.iter().map(build).collect()
}

/// When each app was last built, or made.
///
/// # Errors
/// The database failed.
pub async fn newest_of_apps(store: &Store) -> Result<BTreeMap<AppId, Millis>> {
    let rows = sqlx::query(
        "SELECT a.id, COALESCE(MAX(b.created_at), a.created_at) AS at \
         FROM app a LEFT JOIN build b ON b.app_id = a.id GROUP BY a.id, a.created_at",
    )
    .fetch_all(store.reader())
    .await
    .map_err(failed("see when apps were built"))?;
    rows.iter().map(|row| Ok((row.parsed("id")?, row.integer("at")?))).collect()
}

/// Every build, by app: its id, when it was made, and whether it is under way.
///
/// # Errors
/// The database failed.
pub async fn of_all_apps(store: &Store) -> Result<BTreeMap<AppId, Vec<(BuildId, Millis, bool)>>> {
    // Row by row: there may be many.
    let mut rows = sqlx::query("SELECT id, app_id, created_at, status FROM build").fetch(store.reader());
    let mut all: BTreeMap<AppId, Vec<_>> = BTreeMap::new();
    while let Some(row) = rows.try_next().await.map_err(failed("list all builds"))? {
        let status: BuildStatus = row.word("status")?;
        let build = (row.parsed("id")?, row.integer("created_at")?, status == BuildStatus::Pending);
        all.entry(row.parsed("app_id")?).or_default().push(build);
    }
    Ok(all)
}

/// Whether the app already has a succeeded build of this commit.
///
/// # Errors
/// The database failed.
pub async fn was_built(store: &Store, app_id: AppId, source_version: &str) -> Result<bool> {
    let row =
        sqlx::query("SELECT id FROM build WHERE app_id = $1 AND source_version = $2 AND status = $3 LIMIT 1")
            .bind(app_id.to_string())
            .bind(source_version)
            .bind(word(&BuildStatus::Succeeded))
            .fetch_optional(store.reader())
            .await
            .map_err(failed("look for a build of a commit"))?;
    Ok(row.is_some())
}

/// Fails every build that is still pending: run at the node's start, when none can be under way. Gives them.
///
/// # Errors
/// The database failed.
pub async fn fail_pending(store: &Store, now: Millis) -> Result<Vec<Build>> {
    write!(store, tx => {
        let rows = sqlx::query("SELECT * FROM build WHERE status = $1 ORDER BY created_at, id")
            .bind(word(&BuildStatus::Pending))
            .fetch_all(&mut *tx)
            .await
            .map_err(failed("list pending builds"))?;
        let builds = rows.iter().map(build).collect::<Result<Vec<Build>>>()?;
        for build in &builds {
            finish(&mut tx, build.id, &Outcome::Failed, now).await?;
        }
        Ok(builds)
    })
}

fn build(row: &AnyRow) -> Result<Build> {
    let source = match row.optional_text("source_url")? {
        Some(url) => Some(BuildSource {
            url,
            checksum: row.optional_text("source_checksum")?,
            version_description: row.optional_text("source_description")?,
        }),
        None => None,
    };
    Ok(Build {
        id: row.parsed("id")?,
        app_id: row.parsed("app_id")?,
        account_id: row.parsed("account_id")?,
        status: row.word("status")?,
        stack: row.text("stack")?,
        buildpacks: row.json("buildpacks")?,
        source,
        source_version: row.optional_text("source_version")?,
        slug_id: row.optional_parsed("slug_id")?,
        release_id: row.optional_parsed("release_id")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
