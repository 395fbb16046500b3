//! Which buildpacks an app uses: their rows.

use crate::row::{Columns, failed};
use crate::{Connection, Result, Store};
use ferroku_core::AppId;
use ferroku_core::buildpack_installation::BuildpackInstallation;

/// The app's buildpacks in their order.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, app_id: AppId) -> Result<Vec<BuildpackInstallation>> {
    let rows =
        sqlx::query("SELECT ordinal, url FROM buildpack_installation WHERE app_id = $1 ORDER BY ordinal")
            .bind(app_id.to_string())
            .fetch_all(store.reader())
            .await
            .map_err(failed("list buildpacks"))?;
    rows.iter()
        .map(|row| Ok(BuildpackInstallation { ordinal: row.integer("ordinal")?, url: row.text("url")? }))
        .collect()
}

/// Makes `urls` the app's buildpacks. `pinned`: a build found them; the user did not choose.
///
/// # Errors
/// The app is gone, or the database failed.
pub async fn replace(tx: &mut Connection, app_id: AppId, urls: &[String], pinned: bool) -> Result<()> {
    sqlx::query("DELETE FROM buildpack_installation WHERE app_id = $1")
        .bind(app_id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("clear buildpacks"))?;
    for (ordinal, url) in (0_i64..).zip(urls) {
        sqlx::query(
            "INSERT INTO buildpack_installation (app_id, ordinal, url, pinned) VALUES ($1, $2, $3, $4)",
        )
        .bind(app_id.to_string())
        .bind(ordinal)
        .bind(url)
        .bind(i64::from(pinned))
        .execute(&mut *tx)
        .await
        .map_err(failed("write a buildpack"))?;
    }
    Ok(())
}

/// As [`replace`] with `pinned`, but only when the app has none: a choice made during the build stands.
///
/// # Errors
/// As [`replace`].
pub async fn pin(tx: &mut Connection, app_id: AppId, urls: &[String]) -> Result<()> {
    let chosen = sqlx::query("SELECT ordinal FROM buildpack_installation WHERE app_id = $1 LIMIT 1")
        .bind(app_id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("look for buildpacks"))?;
    match chosen {
        Some(_) => Ok(()),
        None => replace(tx, app_id, urls, true).await,
    }
}
