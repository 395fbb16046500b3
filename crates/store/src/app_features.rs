//! App features that were ever switched. The others are off.

use crate::events::NewEvent;
use crate::row::{Columns, failed};
use crate::{Result, Store, events, write};
use ferroku_core::app_feature::AppFeature;
use ferroku_core::event::Actor;
use ferroku_core::{AppId, Millis};
use sqlx::any::AnyRow;

/// The app's switched features, by name.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, app_id: AppId) -> Result<Vec<AppFeature>> {
    let rows = sqlx::query("SELECT * FROM app_feature WHERE app_id = $1 ORDER BY name")
        .bind(app_id.to_string())
        .fetch_all(store.reader())
        .await
        .map_err(failed("list app features"))?;
    rows.iter().map(feature).collect()
}

/// Switches a feature on or off.
///
/// # Errors
/// The database failed.
pub async fn set(
    store: &Store,
    app_id: AppId,
    name: &str,
    enabled: bool,
    actor: &Actor,
    now: Millis,
) -> Result<AppFeature> {
    write!(store, tx => {
        let row = sqlx::query(
            "INSERT INTO app_feature (app_id, name, enabled, created_at, updated_at) VALUES ($1, $2, $3, $4, $4) \
             ON CONFLICT (app_id, name) DO UPDATE SET enabled = excluded.enabled, updated_at = excluded.updated_at \
             RETURNING *",
        )
        .bind(app_id.to_string())
        .bind(name)
        .bind(i64::from(enabled))
        .bind(now)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed("switch an app feature"))?;
        let message = format!("{} feature {name}", if enabled { "Enable" } else { "Disable" });
        let event = NewEvent { app_id: Some(app_id), actor, kind: "app_feature.update", log_message: Some(message) };
        events::append(&mut tx, event, now).await?;
        feature(&row)
    })
}

fn feature(row: &AnyRow) -> Result<AppFeature> {
    Ok(AppFeature {
        name: row.text("name")?,
        enabled: row.flag("enabled")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
