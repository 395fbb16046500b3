//! Slugs that clients are about to upload: rows that become slugs when their archive has come ([`complete`]).
//!
//! Invariant: a slug's id is in this table or in that of the slugs, never in both, so that whatever finds a slug there finds its tree.

use crate::events::NewEvent;
use crate::row::{Columns, failed, json};
use crate::{Connection, Result, Store, StoreError, events, slugs, write};
use ferroku_core::event::Actor;
use ferroku_core::slug::{Slug, SlugUpload};
use ferroku_core::{AppId, Millis, SlugId};
use sqlx::any::AnyRow;

/// Most slugs of an app that wait for their archive: each has the process types of a whole Procfile.
pub const MAX_OF_APP: i64 = 100;

/// Announces a slug.
///
/// # Errors
/// [`StoreError::Refused`] when too many of the app's wait; [`StoreError::NotFound`] when the app is gone.
pub async fn create(store: &Store, upload: &SlugUpload, actor: &Actor) -> Result<()> {
    write!(store, tx => {
        let row = sqlx::query(
            "SELECT COUNT(*) AS apps, (SELECT COUNT(*) FROM slug_upload WHERE app_id = $1) AS waiting \
             FROM app WHERE id = $1",
        )
        .bind(upload.app_id.to_string())
        .fetch_one(&mut *tx)
        .await
        .map_err(failed("count the slugs that wait for their archive"))?;
        if row.integer("apps")? == 0 {
            return Err(StoreError::NotFound { what: "app" });
        }
        if row.integer("waiting")? >= MAX_OF_APP {
            return Err(StoreError::Refused(format!(
                "{MAX_OF_APP} slugs of this app wait for their archive. Upload to one of them; what is not used goes after a day."
            )));
        }
        insert(&mut tx, upload).await?;
        let log_message = Some(format!("Announce slug {}", upload.id));
        let event = NewEvent { app_id: Some(upload.app_id), actor, kind: "slug.create", log_message };
        events::append(&mut tx, event, upload.created_at).await?;
        Ok(())
    })
}

async fn insert(tx: &mut Connection, upload: &SlugUpload) -> Result<()> {
    sqlx::query(
        "INSERT INTO slug_upload (id, app_id, commit_sha, commit_description, stack, process_types, \
         buildpack_provided_description, sha256, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(upload.id.to_string())
    .bind(upload.app_id.to_string())
    .bind(upload.commit.clone())
    .bind(upload.commit_description.clone())
    .bind(&upload.stack)
    .bind(json(&upload.process_types))
    .bind(upload.buildpack_provided_description.clone())
    .bind(upload.sha256.clone())
    .bind(upload.created_at)
    .execute(&mut *tx)
    .await
    .map_err(failed("announce a slug"))?;
    Ok(())
}

/// A slug that waits for its archive.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, id: SlugId) -> Result<Option<SlugUpload>> {
    let row = sqlx::query("SELECT * FROM slug_upload WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find a slug that waits for its archive"))?;
    row.as_ref().map(upload).transpose()
}

/// Makes the slug of one whose archive has come, whose tree is at its digest.
///
/// # Errors
/// [`StoreError::NotFound`] when it does not wait any more.
pub async fn complete(tx: &mut Connection, slug: &Slug) -> Result<()> {
    let done = sqlx::query("DELETE FROM slug_upload WHERE id = $1 AND app_id = $2")
        .bind(slug.id.to_string())
        .bind(slug.app_id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("take a slug from those that wait"))?;
    match done.rows_affected() {
        0 => Err(StoreError::NotFound { what: "slug" }),
        _ => slugs::create(tx, slug).await,
    }
}

/// Refuses to release a slug of the app that waits for its archive.
///
/// # Errors
/// [`StoreError::Refused`], with what to do.
pub(crate) async fn refuse_if_awaited(tx: &mut Connection, app_id: AppId, id: SlugId) -> Result<()> {
    let row = sqlx::query("SELECT id FROM slug_upload WHERE id = $1 AND app_id = $2")
        .bind(id.to_string())
        .bind(app_id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("find a slug that waits for its archive"))?;
    match row {
        None => Ok(()),
        Some(_) => Err(StoreError::Refused(format!(
            "Nothing was uploaded to slug {id} yet. PUT its archive to the URL in its blob, and release it then."
        ))),
    }
}

/// Forgets those that were announced before `before` and never came.
///
/// # Errors
/// The database failed.
pub async fn remove_old(store: &Store, before: Millis) -> Result<()> {
    let row = sqlx::query("SELECT COUNT(*) AS old FROM slug_upload WHERE created_at < $1")
        .bind(before)
        .fetch_one(store.reader())
        .await
        .map_err(failed("look for slugs that never came"))?;
    // Looked at first: most rounds find nothing, and writing is what others wait for.
    if row.integer("old")? == 0 {
        return Ok(());
    }
    write!(store, tx => {
        sqlx::query("DELETE FROM slug_upload WHERE created_at < $1")
            .bind(before)
            .execute(&mut *tx)
            .await
            .map_err(failed("forget slugs that never came"))?;
        Ok(())
    })
}

fn upload(row: &AnyRow) -> Result<SlugUpload> {
    Ok(SlugUpload {
        id: row.parsed("id")?,
        app_id: row.parsed("app_id")?,
        commit: row.optional_text("commit_sha")?,
        commit_description: row.optional_text("commit_description")?,
        stack: row.text("stack")?,
        process_types: row.json("process_types")?,
        buildpack_provided_description: row.optional_text("buildpack_provided_description")?,
        sha256: row.optional_text("sha256")?,
        created_at: row.integer("created_at")?,
    })
}
