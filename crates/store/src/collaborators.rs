//! Collaborators of apps. The owner is one from the app's creation on.

use crate::row::{Columns, failed, failed_or_taken, json};
use crate::{Connection, Result, Store};
use ferroku_core::collaborator::{Collaborator, Permissions};
use ferroku_core::{AccountId, AppId, Millis};
use sqlx::any::AnyRow;
use uuid::Uuid;

/// Adds an account to an app.
///
/// # Errors
/// [`crate::StoreError::Taken`] when it is one already.
pub async fn create(
    tx: &mut Connection,
    app_id: AppId,
    account_id: AccountId,
    permissions: &Permissions,
    now: Millis,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO collaborator (id, app_id, account_id, permissions, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $5)",
    )
    .bind(Uuid::new_v4().to_string())
    .bind(app_id.to_string())
    .bind(account_id.to_string())
    .bind(json(permissions))
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(failed_or_taken("add a collaborator", "collaborator"))?;
    Ok(())
}

/// The app's collaborators, by email address.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, app_id: AppId) -> Result<Vec<Collaborator>> {
    let rows = sqlx::query(
        "SELECT c.id, c.app_id, c.account_id, c.permissions, c.created_at, c.updated_at, a.email \
         FROM collaborator c JOIN account a ON a.id = c.account_id WHERE c.app_id = $1 ORDER BY a.email",
    )
    .bind(app_id.to_string())
    .fetch_all(store.reader())
    .await
    .map_err(failed("list collaborators"))?;
    rows.iter().map(collaborator).collect()
}

/// What the account may do to the app as its collaborator: nothing when it is none.
///
/// # Errors
/// The database failed.
pub async fn permissions(store: &Store, app_id: AppId, account_id: AccountId) -> Result<Permissions> {
    let row = sqlx::query("SELECT permissions FROM collaborator WHERE app_id = $1 AND account_id = $2")
        .bind(app_id.to_string())
        .bind(account_id.to_string())
        .fetch_optional(store.reader())
        .await
        .map_err(failed("look a collaborator up"))?;
    row.map_or(Ok(Permissions::new()), |row| row.json("permissions"))
}

fn collaborator(row: &AnyRow) -> Result<Collaborator> {
    Ok(Collaborator {
        id: row.parsed("id")?,
        app_id: row.parsed("app_id")?,
        account_id: row.parsed("account_id")?,
        email: row.text("email")?,
        permissions: row.json("permissions")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
