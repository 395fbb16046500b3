//! Slugs: their rows. The trees are folders named by their digests; see the server's `builds`.
//!
//! Invariant: a row whose `deleted_at` is not set has its tree on disk.

use crate::row::{Columns, failed, json};
use crate::{Connection, Result, Store, write};
use ferroku_core::retention::{Moment, Retention, SlugUse, expired_slugs};
use ferroku_core::slug::Slug;
use ferroku_core::{AccountId, AppId, SlugId};
use sqlx::any::AnyRow;
use std::collections::BTreeSet;

/// Writes a slug.
///
/// # Errors
/// The app is gone, or the database failed.
pub async fn create(tx: &mut Connection, slug: &Slug) -> Result<()> {
    sqlx::query(
        "INSERT INTO slug (id, app_id, digest, commit_sha, commit_description, stack, size_bytes, \
         process_types, buildpack_provided_description, archive_sha256, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )
    .bind(slug.id.to_string())
    .bind(slug.app_id.to_string())
    .bind(&slug.digest)
    .bind(slug.commit.clone())
    .bind(slug.commit_description.clone())
    .bind(&slug.stack)
    .bind(slug.size_bytes)
    .bind(json(&slug.process_types))
    .bind(slug.buildpack_provided_description.clone())
    .bind(slug.archive_sha256.clone())
    .bind(slug.created_at)
    .execute(&mut *tx)
    .await
    .map_err(failed("write a slug"))?;
    Ok(())
}

/// A slug by its id.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, id: SlugId) -> Result<Option<Slug>> {
    let row = sqlx::query("SELECT * FROM slug WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find a slug"))?;
    row.as_ref().map(slug).transpose()
}

/// The slugs with this digest, of whichever app, that still have their tree.
///
/// # Errors
/// The database failed.
pub async fn by_digest(store: &Store, digest: &str) -> Result<Vec<Slug>> {
    let rows =
        sqlx::query("SELECT * FROM slug WHERE digest = $1 AND deleted_at IS NULL ORDER BY created_at, id")
            .bind(digest)
            .fetch_all(store.reader())
            .await
            .map_err(failed("find slugs by digest"))?;
    rows.iter().map(slug).collect()
}

/// Every digest that has a row with a tree.
///
/// # Errors
/// The database failed.
pub async fn digests(store: &Store) -> Result<Vec<String>> {
    let rows = sqlx::query("SELECT DISTINCT digest FROM slug WHERE deleted_at IS NULL")
        .fetch_all(store.reader())
        .await
        .map_err(failed("list the digests of slugs"))?;
    rows.iter().map(|row| row.text("digest")).collect()
}

/// As [`digests`], without those slugs.
///
/// # Errors
/// The database failed.
pub async fn digests_but(store: &Store, gone: &BTreeSet<SlugId>) -> Result<Vec<String>> {
    let rows = sqlx::query("SELECT id, digest FROM slug WHERE deleted_at IS NULL")
        .fetch_all(store.reader())
        .await
        .map_err(failed("list slugs and their digests"))?;
    let left = |row: &AnyRow| Ok((!gone.contains(&row.parsed("id")?)).then_some(row.text("digest")?));
    rows.iter().filter_map(|row| left(row).transpose()).collect()
}

/// The apps that have more slugs than `keep`, of others none goes; and their owners.
///
/// # Errors
/// The database failed.
pub async fn crowded_apps(store: &Store, keep: usize) -> Result<Vec<(AppId, AccountId)>> {
    let rows = sqlx::query(
        "SELECT a.id, a.owner_id FROM app a JOIN slug s ON s.app_id = a.id WHERE s.deleted_at IS NULL \
         GROUP BY a.id, a.owner_id HAVING COUNT(*) > $1 ORDER BY a.id",
    )
    .bind(i64::try_from(keep).unwrap_or(i64::MAX))
    .fetch_all(store.reader())
    .await
    .map_err(failed("list the apps with many slugs"))?;
    rows.iter().map(|row| Ok((row.parsed("id")?, row.parsed("owner_id")?))).collect()
}

/// The app's slugs that have a tree, and what they are used for.
///
/// # Errors
/// The database failed.
pub async fn uses(connection: &mut Connection, app_id: AppId) -> Result<Vec<SlugUse>> {
    let rows = sqlx::query(
        "SELECT s.id, s.created_at, MAX(r.version) AS released, MAX(r.created_at) AS released_at, \
         MAX(CASE WHEN r.status = 'succeeded' THEN r.version END) AS took_effect, \
         CAST(MAX(CASE WHEN r.status = 'pending' OR r.version = (SELECT MAX(version) FROM release \
           WHERE app_id = $1 AND status = 'succeeded') OR EXISTS (SELECT 1 FROM dyno d \
           WHERE d.release_id = r.id AND d.ended_at IS NULL) THEN 1 ELSE 0 END) AS BIGINT) AS needed \
         FROM slug s LEFT JOIN release r ON r.slug_id = s.id AND r.app_id = s.app_id \
         WHERE s.app_id = $1 AND s.deleted_at IS NULL GROUP BY s.id, s.created_at",
    )
    .bind(app_id.to_string())
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("see what an app's slugs are used for"))?;
    let slug_use = |row: &AnyRow| {
        Ok(SlugUse {
            id: row.parsed("id")?,
            created_at: row.integer("created_at")?,
            released: row.optional_integer("released")?.zip(row.optional_integer("released_at")?),
            took_effect: row.optional_integer("took_effect")?,
            is_needed: row.integer("needed")? != 0,
        })
    };
    rows.iter().map(slug_use).collect()
}

/// Which of the app's slugs [`expire`] would mark.
///
/// # Errors
/// The database failed.
pub async fn to_expire(
    store: &Store,
    app_id: AppId,
    retention: Retention,
    moment: Moment,
) -> Result<Vec<SlugId>> {
    let mut connection = store.reader().acquire().await.map_err(failed("get a connection"))?;
    Ok(expired_slugs(retention, moment, &uses(&mut connection, app_id).await?))
}

/// Marks the app's slugs as deleted that [`expired_slugs`] names, and the releases that have them as expired: nobody can
/// roll back to these. Gives how many slugs.
///
/// # Errors
/// The database failed.
pub async fn expire(store: &Store, app_id: AppId, retention: Retention, moment: Moment) -> Result<usize> {
    write!(store, tx => {
        let gone = expired_slugs(retention, moment, &uses(&mut tx, app_id).await?);
        for id in &gone {
            sqlx::query("UPDATE slug SET deleted_at = $1 WHERE id = $2")
                .bind(moment.now)
                .bind(id.to_string())
                .execute(&mut *tx)
                .await
                .map_err(failed("mark an old slug as deleted"))?;
            sqlx::query(
                "UPDATE release SET status = 'expired', updated_at = $1 WHERE slug_id = $2 AND status = 'succeeded'",
            )
            .bind(moment.now)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("mark old releases as expired"))?;
        }
        Ok(gone.len())
    })
}

fn slug(row: &AnyRow) -> Result<Slug> {
    Ok(Slug {
        id: row.parsed("id")?,
        app_id: row.parsed("app_id")?,
        digest: row.text("digest")?,
        commit: row.optional_text("commit_sha")?,
        commit_description: row.optional_text("commit_description")?,
        stack: row.text("stack")?,
        size_bytes: row.integer("size_bytes")?,
        process_types: row.json("process_types")?,
        buildpack_provided_description: row.optional_text("buildpack_provided_description")?,
        archive_sha256: row.optional_text("archive_sha256")?,
        deleted_at: row.optional_integer("deleted_at")?,
        created_at: row.integer("created_at")?,
    })
}
