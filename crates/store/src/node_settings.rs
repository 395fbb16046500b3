//! Settings and counters of the node: one text by key.

use crate::row::{Columns, failed};
use crate::{Connection, Result, Store, StoreError, write};

/// Counts events; see [`take_number`].
pub(crate) const EVENT_SEQUENCE: &str = "event_sequence";
/// Counts apps ever made; see [`take_number`].
pub(crate) const APP_COUNT: &str = "app_count";

/// The setting's value.
///
/// # Errors
/// The database failed.
pub async fn get(store: &Store, key: &str) -> Result<Option<String>> {
    let row = sqlx::query("SELECT value FROM node_setting WHERE key = $1")
        .bind(key)
        .fetch_optional(store.reader())
        .await
        .map_err(failed("read a setting"))?;
    row.map(|row| row.text("value")).transpose()
}

/// Sets a value, whether or not there was one.
///
/// # Errors
/// The database failed.
pub async fn set(store: &Store, key: &str, value: &str) -> Result<()> {
    write!(store, tx => {
        sqlx::query(
            "INSERT INTO node_setting (key, value) VALUES ($1, $2) \
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )
        .bind(key)
        .bind(value)
        .execute(&mut *tx)
        .await
        .map_err(failed("write a setting"))?;
        Ok(())
    })
}

/// The next number of a counter; others that want one wait until this transaction has ended.
pub(crate) async fn take_number(tx: &mut Connection, counter: &'static str) -> Result<i64> {
    let row = sqlx::query(
        "UPDATE node_setting SET value = CAST(CAST(value AS BIGINT) + 1 AS TEXT) WHERE key = $1 \
         RETURNING value",
    )
    .bind(counter)
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed("count on"))?;
    row.ok_or(StoreError::NotFound { what: "counter" })?.parsed("value")
}
