//! The formation: rows of process types.
//!
//! A deploy brings the types in line with the slug's ([`apply_process_types`]); scaling changes quantity
//! and size ([`update`]). Both are desired state only: the planner acts on it.

use crate::{Connection, Result, Store, StoreError};
use ferroku_core::dyno_size::DEFAULT_DYNO_SIZE;
use ferroku_core::formation::Formation;
use ferroku_core::planner::WEB;
use ferroku_core::slug::ProcessTypes;
use ferroku_core::{AppId, FormationId, Millis};
use sqlx::any::AnyRow;
use sqlx::{Executor, Row};
use uuid::Uuid;

/// All process types of an app, by name.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, app_id: AppId) -> Result<Vec<Formation>> {
    select(store.reader(), app_id).await
}

/// The same inside a transaction.
///
/// # Errors
/// The database failed.
pub async fn list_in(tx: &mut Connection, app_id: AppId) -> Result<Vec<Formation>> {
    select(tx, app_id).await
}

async fn select<'c>(
    executor: impl Executor<'c, Database = sqlx::Any>,
    app_id: AppId,
) -> Result<Vec<Formation>> {
    let rows = sqlx::query(
        "SELECT id, app_id, process_type, command, quantity, size, created_at, updated_at \
         FROM formation WHERE app_id = $1 ORDER BY process_type",
    )
    .bind(app_id.to_string())
    .fetch_all(executor)
    .await
    .map_err(|source| StoreError::Query { action: "list the formation", source })?;
    rows.iter().map(from_row).collect()
}

/// How many dynos of each size all apps of the node together want.
///
/// # Errors
/// The database failed.
pub async fn quantities_by_size(tx: &mut Connection) -> Result<Vec<(String, u64)>> {
    let query = |source| StoreError::Query { action: "add the formations up", source };
    let rows = sqlx::query(
        "SELECT size, CAST(SUM(quantity) AS BIGINT) AS quantity FROM formation GROUP BY size ORDER BY size",
    )
    .fetch_all(tx)
    .await
    .map_err(query)?;
    let read = |row: &AnyRow| Ok((row.try_get("size")?, row.try_get::<i64, _>("quantity")?.max(0) as u64));
    rows.iter().map(|row| read(row).map_err(query)).collect()
}

/// Sets quantity and size of one process type. What was remembered of crashes of slots that are scaled
/// away is forgotten.
///
/// # Errors
/// There is no such process type, or the database failed.
pub async fn update(
    tx: &mut Connection,
    app_id: AppId,
    process_type: &str,
    quantity: u32,
    size: &str,
    now: Millis,
) -> Result<()> {
    let query = |source| StoreError::Query { action: "update the formation", source };
    let done = sqlx::query(
        "UPDATE formation SET quantity = $1, size = $2, updated_at = $3 \
         WHERE app_id = $4 AND process_type = $5",
    )
    .bind(i64::from(quantity))
    .bind(size)
    .bind(now)
    .bind(app_id.to_string())
    .bind(process_type)
    .execute(&mut *tx)
    .await
    .map_err(query)?;
    if done.rows_affected() == 0 {
        return Err(StoreError::NotFound { what: "process type" });
    }
    sqlx::query("DELETE FROM dyno_crash WHERE app_id = $1 AND process_type = $2 AND ordinal > $3")
        .bind(app_id.to_string())
        .bind(process_type)
        .bind(i64::from(quantity))
        .execute(&mut *tx)
        .await
        .map_err(query)?;
    Ok(())
}

/// Brings the process types in line with a slug's: known ones keep quantity and size and get the new
/// command, new ones start at 0 (`web` at 1 on the first deploy), vanished ones are removed.
///
/// # Errors
/// The database failed.
pub async fn apply_process_types(
    tx: &mut Connection,
    app_id: AppId,
    process_types: &ProcessTypes,
    first_deploy: bool,
    now: Millis,
) -> Result<()> {
    let query = |source| StoreError::Query { action: "apply the process types", source };
    let existing = list_in(tx, app_id).await?;
    for old in existing.iter().filter(|old| !process_types.contains_key(&old.process_type)) {
        sqlx::query("DELETE FROM formation WHERE id = $1")
            .bind(old.id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(query)?;
    }
    for (process_type, command) in process_types {
        let old = existing.iter().find(|old| old.process_type == *process_type);
        let quantity = u32::from(first_deploy && process_type == WEB);
        put(tx, app_id, old, (process_type, command), quantity, now).await?;
    }
    Ok(())
}

/// Sets the command of one process type, which is added with no dynos if there is none; gives its size.
///
/// # Errors
/// The database failed.
pub(crate) async fn set_command(
    tx: &mut Connection,
    app_id: AppId,
    process_type: &str,
    command: &str,
    now: Millis,
) -> Result<String> {
    let existing = list_in(tx, app_id).await?;
    let old = existing.into_iter().find(|old| old.process_type == process_type);
    put(tx, app_id, old.as_ref(), (process_type, command), 0, now).await?;
    Ok(old.map_or_else(|| DEFAULT_DYNO_SIZE.to_owned(), |old| old.size))
}

/// Adds a process type, or gives the old one the new command.
async fn put(
    tx: &mut Connection,
    app_id: AppId,
    old: Option<&Formation>,
    (process_type, command): (&str, &str),
    quantity: u32,
    now: Millis,
) -> Result<()> {
    let query = |source| StoreError::Query { action: "write a process type", source };
    match old {
        Some(old) if old.command == command => {}
        Some(old) => {
            sqlx::query("UPDATE formation SET command = $1, updated_at = $2 WHERE id = $3")
                .bind(command)
                .bind(now)
                .bind(old.id.to_string())
                .execute(&mut *tx)
                .await
                .map_err(query)?;
        }
        None => {
            sqlx::query(
                "INSERT INTO formation (id, app_id, process_type, command, quantity, size, created_at, updated_at) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
            )
            .bind(Uuid::new_v4().to_string())
            .bind(app_id.to_string())
            .bind(process_type)
            .bind(command)
            .bind(i64::from(quantity))
            .bind(DEFAULT_DYNO_SIZE)
            .bind(now)
            .execute(&mut *tx)
            .await
            .map_err(query)?;
        }
    }
    Ok(())
}

fn from_row(row: &AnyRow) -> Result<Formation> {
    let read = || -> std::result::Result<Formation, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Formation {
            id: FormationId(Uuid::parse_str(row.try_get("id")?)?),
            app_id: AppId(Uuid::parse_str(row.try_get("app_id")?)?),
            process_type: row.try_get("process_type")?,
            command: row.try_get("command")?,
            quantity: u32::try_from(row.try_get::<i64, _>("quantity")?)?,
            size: row.try_get("size")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    };
    read().map_err(|error| StoreError::Corrupt { what: "formation", detail: error.to_string() })
}
