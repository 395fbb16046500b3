//! Jobs: fixed recipes that must be finished after a crash.
//!
//! A job is written in the transaction of the change that asks for it, and finished once its last step is
//! done; whoever owns a kind takes up the open ones when the node starts.

use crate::row::{Columns, failed};
use crate::{Connection, Result, Store, write};
use ferroku_core::{AppId, Millis};
use sqlx::any::AnyRow;
use uuid::Uuid;

/// A job that has not been finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub id: Uuid,
    /// Noun and verb: `app.destroy`.
    pub kind: String,
    pub app_id: Option<AppId>,
    /// JSON; its form belongs to the kind.
    pub payload: String,
    pub attempts: i64,
    pub created_at: Millis,
}

/// Writes a job.
///
/// # Errors
/// The database failed.
pub async fn create(
    tx: &mut Connection,
    kind: &str,
    app_id: Option<AppId>,
    payload: &str,
    now: Millis,
) -> Result<Uuid> {
    let id = Uuid::new_v4();
    sqlx::query(
        "INSERT INTO job (id, kind, app_id, payload, step, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, '', $5, $5)",
    )
    .bind(id.to_string())
    .bind(kind)
    .bind(app_id.map(|id| id.to_string()))
    .bind(payload)
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(failed("write a job"))?;
    Ok(id)
}

/// The jobs of a kind that are not finished, oldest first.
///
/// # Errors
/// The database failed.
pub async fn open(store: &Store, kind: &str) -> Result<Vec<Job>> {
    let rows =
        sqlx::query("SELECT * FROM job WHERE kind = $1 AND finished_at IS NULL ORDER BY created_at, id")
            .bind(kind)
            .fetch_all(store.reader())
            .await
            .map_err(failed("list open jobs"))?;
    rows.iter().map(job).collect()
}

/// Counts one more attempt.
///
/// # Errors
/// The database failed.
pub async fn attempt(store: &Store, id: Uuid, now: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query("UPDATE job SET attempts = attempts + 1, updated_at = $1 WHERE id = $2")
            .bind(now)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("count a job's attempt"))?;
        Ok(())
    })
}

/// Marks a job as finished.
///
/// # Errors
/// The database failed.
pub async fn finish(store: &Store, id: Uuid, now: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query("UPDATE job SET finished_at = $1, updated_at = $1 WHERE id = $2")
            .bind(now)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("finish a job"))?;
        Ok(())
    })
}

fn job(row: &AnyRow) -> Result<Job> {
    Ok(Job {
        id: row.parsed("id")?,
        kind: row.text("kind")?,
        app_id: row.optional_parsed("app_id")?,
        payload: row.text("payload")?,
        attempts: row.integer("attempts")?,
        created_at: row.integer("created_at")?,
    })
}
