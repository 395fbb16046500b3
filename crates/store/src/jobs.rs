//! Jobs: fixed recipes that must be finished after a crash.
//!
//! A job is written in the transaction of the change that asks for it, and finished once its last step is
//! done; whoever owns a kind takes up the open ones when the node starts. A kind whose recipe has several steps, or
//! is tried again later, [`take`]s its jobs: each is then leased, so that it is taken up again, at the step that it
//! reached, when its lease ends without having been renewed.

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
    /// How far it is; empty at its beginning. The words belong to the kind.
    pub step: String,
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

/// Leases open jobs of a kind whose time has come, oldest first, at most `limit`, and counts an attempt of each.
///
/// # Errors
/// The database failed.
pub async fn take(
    store: &Store,
    kind: &str,
    lease_until: Millis,
    limit: i64,
    now: Millis,
) -> Result<Vec<Job>> {
    write!(store, tx => {
        let rows = sqlx::query(
            "UPDATE job SET lease_until = $1, attempts = attempts + 1, updated_at = $2 WHERE id IN \
             (SELECT id FROM job WHERE kind = $3 AND finished_at IS NULL AND lease_until <= $2 \
             ORDER BY created_at, id LIMIT $4) RETURNING *",
        )
        .bind(lease_until)
        .bind(now)
        .bind(kind)
        .bind(limit)
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("take open jobs"))?;
        rows.iter().map(job).collect()
    })
}

/// Notes that a job has reached a step, with what the next one needs.
///
/// # Errors
/// The database failed.
pub async fn advance(store: &Store, id: Uuid, step: &str, payload: &str, now: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query("UPDATE job SET step = $1, payload = $2, updated_at = $3 WHERE id = $4")
            .bind(step)
            .bind(payload)
            .bind(now)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("note a job's step"))?;
        Ok(())
    })
}

/// Renews a job's lease.
///
/// # Errors
/// The database failed.
pub async fn renew(store: &Store, id: Uuid, lease_until: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query("UPDATE job SET lease_until = $1 WHERE id = $2 AND finished_at IS NULL")
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

/// Lets the open jobs of a kind of an app be taken at once, as if for the first time.
///
/// # Errors
/// The database failed.
pub async fn hasten(tx: &mut Connection, kind: &str, app_id: AppId, now: Millis) -> Result<()> {
    sqlx::query(
        "UPDATE job SET lease_until = 0, attempts = 0, updated_at = $1 \
         WHERE kind = $2 AND app_id = $3 AND finished_at IS NULL",
    )
    .bind(now)
    .bind(kind)
    .bind(app_id.to_string())
    .execute(&mut *tx)
    .await
    .map_err(failed("hasten an app's jobs"))?;
    Ok(())
}

/// Marks the open jobs of a kind of an app as finished: they are not wanted any more.
///
/// # Errors
/// The database failed.
pub async fn cancel(tx: &mut Connection, kind: &str, app_id: AppId, now: Millis) -> Result<()> {
    sqlx::query(
        "UPDATE job SET finished_at = $1, updated_at = $1, payload = '' \
         WHERE kind = $2 AND app_id = $3 AND finished_at IS NULL",
    )
    .bind(now)
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

/// Marks a job as finished.
///
/// # Errors
/// The database failed.
pub async fn finish(store: &Store, id: Uuid, now: Millis) -> Result<()> {
    write!(store, tx => { finish_in(&mut tx, id, now).await })
}

/// As [`finish`], in the transaction of the job's last step.
///
/// # Errors
/// The database failed.
pub async fn finish_in(tx: &mut Connection, id: Uuid, now: Millis) -> Result<()> {
    // What it needed, a certificate's key for one, is nobody's any more.
    sqlx::query("UPDATE job SET finished_at = $1, updated_at = $1, payload = '' WHERE id = $2")
        .bind(now)
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
    })
}
