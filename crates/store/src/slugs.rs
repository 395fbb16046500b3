//! Slugs: their rows. The trees are folders named by their digests; see the server's `builds`.
//!
//! Invariant: a row whose `deleted_at` is not set has its tree on disk.

use crate::row::{Columns, failed, json};
use crate::{Connection, Result, Store, write};
use ferroku_core::slug::Slug;
use ferroku_core::{AppId, Millis, SlugId};
use sqlx::any::AnyRow;

/// Slugs that are kept because they are new, though none of their releases has taken effect.
const NEWEST: i64 = 3;

/// Writes a slug.
///
/// # Errors
/// The app is gone, or the database failed.
pub async fn create(tx: &mut Connection, slug: &Slug) -> Result<()> {
    sqlx::query(
        "INSERT INTO slug (id, app_id, digest, commit_sha, commit_description, stack, size_bytes, \
         process_types, buildpack_provided_description, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
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

/// Marks the app's slugs as deleted that are neither among the `keep` newest that took effect, nor the newest few of all
/// (to be tried again), nor the current release's, nor a live dyno's, and the releases that have them as expired: nobody
/// can roll back to these. Gives how many slugs.
///
/// # Errors
/// The database failed.
pub async fn expire(store: &Store, app_id: AppId, keep: i64, now: Millis) -> Result<u64> {
    write!(store, tx => {
        let done = sqlx::query(
            "UPDATE slug SET deleted_at = $1 WHERE app_id = $2 AND deleted_at IS NULL \
             AND id NOT IN (SELECT s.id FROM slug s WHERE s.app_id = $2 AND s.id IN \
               (SELECT slug_id FROM release WHERE app_id = $2 AND status = 'succeeded') \
               ORDER BY s.created_at DESC, s.id DESC LIMIT $3) \
             AND id NOT IN (SELECT id FROM slug WHERE app_id = $2 ORDER BY created_at DESC, id DESC LIMIT $4) \
             AND id NOT IN (SELECT slug_id FROM release WHERE app_id = $2 AND slug_id IS NOT NULL AND version = \
               (SELECT MAX(version) FROM release WHERE app_id = $2 AND status = 'succeeded')) \
             AND id NOT IN (SELECT r.slug_id FROM release r JOIN dyno d ON d.release_id = r.id \
               WHERE d.app_id = $2 AND d.ended_at IS NULL AND r.slug_id IS NOT NULL)",
        )
        .bind(now)
        .bind(app_id.to_string())
        .bind(keep)
        .bind(NEWEST)
        .execute(&mut *tx)
        .await
        .map_err(failed("mark old slugs as deleted"))?;
        sqlx::query(
            "UPDATE release SET status = 'expired', updated_at = $1 WHERE app_id = $2 AND status = 'succeeded' \
             AND slug_id IN (SELECT id FROM slug WHERE app_id = $2 AND deleted_at IS NOT NULL)",
        )
        .bind(now)
        .bind(app_id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("mark old releases as expired"))?;
        Ok(done.rows_affected())
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
        deleted_at: row.optional_integer("deleted_at")?,
        created_at: row.integer("created_at")?,
    })
}
