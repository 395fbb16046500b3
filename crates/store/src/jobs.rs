//! Jobs: fixed recipes that must be finished after a crash.
//!
//! A job is written in the transaction of the change that asks for it, and its row is deleted once its last step is
//! done; whoever owns a kind takes up the open ones when the node starts. A kind whose recipe has several steps, or
//! is tried again later, looks for those that are [`due`] and [`lease`]s them, so that each is taken up again, at the
//! step that it reached, when its lease ends without having been renewed.

use crate::row::{Columns, failed};
use crate::{Connection, Result, Store, write};
use ferroku_core::{AppId, Millis};
use sqlx::any::AnyRow;
use uuid::Uuid;

/// A job that is still to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub id: Uuid,
    /// Noun and verb: `app.destroy`.
    pub kind: String,
    pub app_id: Option<AppId>,
    /// JSON; its form belongs to the kind.
    pub payload: String,
    /// How far it is; empty at its beginning. The words belong to the kind.
    pub step: String,
    pub attempts: i64,
    pub created_at: Millis,
    pub updated_at: Millis,
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
        "INSERT INTO job (id, kind, app_id, payload, step, lease_until, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, '', $5, $5, $5)",
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

/// The jobs of a kind, oldest first.
///
/// # Errors
/// The database failed.
pub async fn open(store: &Store, kind: &str) -> Result<Vec<Job>> {
    let rows = sqlx::query("SELECT * FROM job WHERE kind = $1 ORDER BY created_at, id")
        .bind(kind)
        .fetch_all(store.reader())
        .await
        .map_err(failed("list open jobs"))?;
    rows.iter().map(job).collect()
}

/// The jobs of a kind and an app, oldest first.
///
/// # Errors
/// The database failed.
pub async fn of_app(tx: &mut Connection, kind: &str, app_id: AppId) -> Result<Vec<Job>> {
    let rows = sqlx::query("SELECT * FROM job WHERE kind = $1 AND app_id = $2 ORDER BY created_at, id")
        .bind(kind)
        .bind(app_id.to_string())
        .fetch_all(tx)
        .await
        .map_err(failed("list an app's jobs"))?;
    rows.iter().map(job).collect()
}

/// The jobs of a kind whose time has come and that nobody has leased, at most `limit_of_app` of an app: those first that
/// have begun, then those that are due for longest.
///
/// # Errors
/// The database failed.
pub async fn due(store: &Store, kind: &str, limit_of_app: i64, now: Millis) -> Result<Vec<Job>> {
    let rows = sqlx::query(
        "SELECT * FROM (SELECT job.*, ROW_NUMBER() OVER (PARTITION BY app_id ORDER BY \
           CASE WHEN step = '' THEN 1 ELSE 0 END, lease_until, created_at, id) AS place \
           FROM job WHERE kind = $1 AND lease_until <= $2) AS ranked \
         WHERE place <= $3 ORDER BY lease_until, created_at, id",
    )
    .bind(kind)
    .bind(now)
    .bind(limit_of_app)
    .fetch_all(store.reader())
    .await
    .map_err(failed("list jobs that are due"))?;
    rows.iter().map(job).collect()
}

/// Leases a job that is due, and counts an attempt; None when it is not due any more, or gone.
///
/// # Errors
/// The database failed.
pub async fn lease(tx: &mut Connection, id: Uuid, until: Millis, now: Millis) -> Result<Option<Job>> {
    let row = sqlx::query(
        "UPDATE job SET lease_until = $1, attempts = attempts + 1, updated_at = $2 \
         WHERE id = $3 AND lease_until <= $2 RETURNING *",
    )
    .bind(until)
    .bind(now)
    .bind(id.to_string())
    .fetch_optional(tx)
    .await
    .map_err(failed("lease a job"))?;
    row.as_ref().map(job).transpose()
}

/// Whether the job is still to be done.
///
/// # Errors
/// The database failed.
pub async fn is_open(tx: &mut Connection, id: Uuid) -> Result<bool> {
    let row = sqlx::query("SELECT id FROM job WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(tx)
        .await
        .map_err(failed("look for a job"))?;
    Ok(row.is_some())
}

/// Notes that a job has reached a step, with what the next one needs.
///
/// # Errors
/// The database failed.
pub async fn advance(tx: &mut Connection, id: Uuid, step: &str, payload: &str, now: Millis) -> Result<()> {
    sqlx::query("UPDATE job SET step = $1, payload = $2, updated_at = $3 WHERE id = $4")
        .bind(step)
        .bind(payload)
        .bind(now)
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("note a job's step"))?;
    Ok(())
}

/// Renews a job's lease.
///
/// # Errors
/// The database failed.
pub async fn renew(store: &Store, id: Uuid, lease_until: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query("UPDATE job SET lease_until = $1 WHERE id = $2")
            .bind(lease_until)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("renew a job's lease"))?;
        Ok(())
    })
}

/// Puts a job back to its beginning, to be taken at `at`.
///
/// # Errors
/// The database failed.
pub async fn postpone(tx: &mut Connection, id: Uuid, payload: &str, at: Millis, now: Millis) -> Result<()> {
    sqlx::query("UPDATE job SET step = '', payload = $1, lease_until = $2, updated_at = $3 WHERE id = $4")
        .bind(payload)
        .bind(at)
        .bind(now)
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("put a job off"))?;
    Ok(())
}

/// Lets a job be taken at `at`, if that is sooner.
///
/// # Errors
/// The database failed.
pub async fn hasten(tx: &mut Connection, id: Uuid, at: Millis) -> Result<()> {
    sqlx::query("UPDATE job SET lease_until = $1 WHERE id = $2 AND lease_until > $1")
        .bind(at)
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("hasten a job"))?;
    Ok(())
}

/// Removes the jobs of a kind of an app: they are not wanted any more.
///
/// # Errors
/// The database failed.
pub async fn cancel(tx: &mut Connection, kind: &str, app_id: AppId) -> Result<()> {
    sqlx::query("DELETE FROM job WHERE kind = $1 AND app_id = $2")
        .bind(kind)
        .bind(app_id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("cancel an app's jobs"))?;
    Ok(())
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

/// Removes a job that is done.
///
/// # Errors
/// The database failed.
pub async fn finish(store: &Store, id: Uuid) -> Result<()> {
    write!(store, tx => { finish_in(&mut tx, id).await })
}

/// As [`finish`], in the transaction of the job's last step.
///
/// # Errors
/// The database failed.
pub async fn finish_in(tx: &mut Connection, id: Uuid) -> Result<()> {
    sqlx::query("DELETE FROM job WHERE id = $1")
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("finish a job"))?;
    Ok(())
}

fn job(row: &AnyRow) -> Result<Job> {
    Ok(Job {
        id: row.parsed("id")?,
        kind: row.text("kind")?,
        app_id: row.optional_parsed("app_id")?,
        payload: row.text("payload")?,
        step: row.text("step")?,
        attempts: row.integer("attempts")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
