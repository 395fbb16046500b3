//! What is remembered of the crashes of slots of the formation, for the planner's back-off.

use crate::dynos::Selector;
use crate::{Connection, Result, Store, StoreError};
use ferroku_core::AppId;
use ferroku_core::planner::Crash;
use sqlx::Row;
use sqlx::any::AnyRow;

/// What is remembered of the crashes of an app's slots.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, app_id: AppId) -> Result<Vec<Crash>> {
    let rows = sqlx::query(
        "SELECT process_type, ordinal, release_version, restart_generation, crashes, next_start_at \
         FROM dyno_crash WHERE app_id = $1 ORDER BY process_type, ordinal",
    )
    .bind(app_id.to_string())
    .fetch_all(store.reader())
    .await
    .map_err(|source| StoreError::Query { action: "list crashes", source })?;
    rows.iter().map(crash_from_row).collect()
}

/// Remembers a slot's crash instead of what was known of the slot.
///
/// # Errors
/// The database failed.
pub async fn record(tx: &mut Connection, app_id: AppId, crash: &Crash) -> Result<()> {
    sqlx::query(
        "INSERT INTO dyno_crash (app_id, process_type, ordinal, release_version, restart_generation, \
         crashes, next_start_at) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (app_id, process_type, ordinal) DO UPDATE SET \
         release_version = excluded.release_version, restart_generation = excluded.restart_generation, \
         crashes = excluded.crashes, next_start_at = excluded.next_start_at",
    )
    .bind(app_id.to_string())
    .bind(crash.process_type.as_str())
    .bind(i64::from(crash.ordinal))
    .bind(crash.release_version)
    .bind(crash.restart_generation)
    .bind(i64::from(crash.crashes))
    .bind(crash.next_start_at)
    .execute(tx)
    .await
    .map_err(|source| StoreError::Query { action: "remember a crash", source })?;
    Ok(())
}

/// Forgets the crashes of the slots of the dynos named: they may start at once.
///
/// # Errors
/// The database failed.
pub async fn forget(tx: &mut Connection, app_id: AppId, selector: &Selector<'_>) -> Result<()> {
    let (sql, name) = match selector {
        Selector::One(id) => (
            "DELETE FROM dyno_crash WHERE app_id = $1 AND EXISTS (SELECT 1 FROM dyno WHERE dyno.id = $2 \
             AND dyno.process_type = dyno_crash.process_type AND dyno.ordinal = dyno_crash.ordinal)",
            id.to_string(),
        ),
        Selector::Type(process_type) => {
            ("DELETE FROM dyno_crash WHERE app_id = $1 AND process_type = $2", (*process_type).to_owned())
        }
    };
    sqlx::query(sql)
        .bind(app_id.to_string())
        .bind(name)
        .execute(tx)
        .await
        .map_err(|source| StoreError::Query { action: "forget crashes", source })?;
    Ok(())
}

fn crash_from_row(row: &AnyRow) -> Result<Crash> {
    let read = || -> std::result::Result<Crash, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Crash {
            process_type: row.try_get("process_type")?,
            ordinal: u32::try_from(row.try_get::<i64, _>("ordinal")?)?,
            release_version: row.try_get("release_version")?,
            restart_generation: row.try_get("restart_generation")?,
            crashes: u32::try_from(row.try_get::<i64, _>("crashes")?)?,
            next_start_at: row.try_get("next_start_at")?,
        })
    };
    read().map_err(|error| StoreError::Corrupt { what: "crash record", detail: error.to_string() })
}
