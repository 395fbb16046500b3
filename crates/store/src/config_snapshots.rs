//! Config snapshots: immutable, sealed sets of config vars that releases point to.
//!
//! AAD: `config_snapshot/<id>/1`, where 1 is the version of the sealed JSON's form.

use crate::row::{Columns, failed};
use crate::{Connection, MasterKey, Result, StoreError};
use ferroku_core::config_var::ConfigVars;
use ferroku_core::{AppId, ConfigSnapshotId, Millis};
use uuid::Uuid;

/// Seals and writes a set.
pub(crate) async fn create(
    tx: &mut Connection,
    key: &MasterKey,
    app_id: AppId,
    vars: &ConfigVars,
    now: Millis,
) -> Result<ConfigSnapshotId> {
    let id = ConfigSnapshotId(Uuid::new_v4());
    let plain = zeroize::Zeroizing::new(
        serde_json::to_vec(vars).expect("a map of strings to strings has a JSON form"),
    );
    let sealed = key.seal(&additional_data(id), &plain);
    let size_bytes = i64::try_from(sealed.len()).unwrap_or(i64::MAX);
    sqlx::query(
        "INSERT INTO config_snapshot (id, app_id, key_id, sealed, created_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(id.to_string())
    .bind(app_id.to_string())
    .bind(key.id())
    .bind(sealed)
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(failed("write a config snapshot"))?;
    sqlx::query("UPDATE app SET config_bytes = config_bytes + $1 WHERE id = $2")
        .bind(size_bytes)
        .bind(app_id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("add a config snapshot's size up"))?;
    Ok(id)
}

/// Reads and opens a set.
pub(crate) async fn read(
    connection: &mut Connection,
    key: &MasterKey,
    id: ConfigSnapshotId,
) -> Result<ConfigVars> {
    let row = sqlx::query("SELECT sealed FROM config_snapshot WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed("read a config snapshot"))?
        .ok_or(StoreError::NotFound { what: "config snapshot" })?;
    let plain = key.unseal(&additional_data(id), &row.text("sealed")?)?;
    serde_json::from_slice(&plain).map_err(|_| StoreError::Corrupt {
        what: "config snapshot",
        // The parser's own message could quote a secret.
        detail: format!("{id} does not hold the JSON of config vars"),
    })
}

fn additional_data(id: ConfigSnapshotId) -> String {
    format!("config_snapshot/{id}/1")
}
