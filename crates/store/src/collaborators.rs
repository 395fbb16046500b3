//! Collaborators of apps. The owner is one from the app's creation on.

use crate::row::{Columns, failed, failed_or_taken, json};
use crate::{Connection, Result, Store, events, write};
use ferroku_core::account::Account;
use ferroku_core::collaborator::{Collaborator, Permission, Permissions};
use ferroku_core::event::Actor;
use ferroku_core::{AccountId, AppId, Millis, TeamId};
use sqlx::any::AnyRow;
use std::collections::BTreeSet;
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
    .bind(json(&and_view(permissions)))
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

/// The apps that the account is a collaborator of.
///
/// # Errors
/// The database failed.
pub async fn app_ids(store: &Store, account_id: AccountId) -> Result<BTreeSet<AppId>> {
    let rows = sqlx::query("SELECT app_id FROM collaborator WHERE account_id = $1")
        .bind(account_id.to_string())
        .fetch_all(store.reader())
        .await
        .map_err(failed("list an account's apps"))?;
    rows.iter().map(|row| row.parsed("app_id")).collect()
}

/// The app's collaborator of this email address or id (its own or its account's).
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, app_id: AppId, id_or_email: &str) -> Result<Option<Collaborator>> {
    let key = id_or_email.to_lowercase();
    let all = list(store, app_id).await?;
    let is_meant = |one: &Collaborator| {
        one.email == key || one.id.to_string() == key || one.account_id.to_string() == key
    };
    Ok(all.into_iter().find(is_meant))
}

/// Adds an account to an app.
///
/// # Errors
/// [`crate::StoreError::Taken`] when it is one already.
pub async fn add(
    store: &Store,
    app_id: AppId,
    account: &Account,
    permissions: &Permissions,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        create(&mut tx, app_id, account.id, permissions, now).await?;
        let message = format!("Add collaborator {}", account.email);
        events::announce(&mut tx, app_id, "collaborator.create", &message, actor, now).await
    })
}

/// Changes what a collaborator may do.
///
/// # Errors
/// The database failed.
pub async fn update(
    store: &Store,
    who: &Collaborator,
    permissions: &Permissions,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        put(&mut tx, who.app_id, who.account_id, permissions, now).await?;
        let message = format!("Update collaborator {}", who.email);
        events::announce(&mut tx, who.app_id, "collaborator.update", &message, actor, now).await
    })
}

/// Takes a collaborator's access away.
///
/// # Errors
/// The database failed.
pub async fn delete(store: &Store, who: &Collaborator, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query("DELETE FROM collaborator WHERE id = $1")
            .bind(who.id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("remove a collaborator"))?;
        let message = format!("Remove collaborator {}", who.email);
        events::announce(&mut tx, who.app_id, "collaborator.destroy", &message, actor, now).await
    })
}

/// Gives an account these permissions, whether it had others or none, inside a transaction.
///
/// # Errors
/// The database failed.
pub(crate) async fn put(
    tx: &mut Connection,
    app_id: AppId,
    account_id: AccountId,
    permissions: &Permissions,
    now: Millis,
) -> Result<()> {
    let changed = sqlx::query(
        "UPDATE collaborator SET permissions = $1, updated_at = $2 WHERE app_id = $3 AND account_id = $4",
    )
    .bind(json(&and_view(permissions)))
    .bind(now)
    .bind(app_id.to_string())
    .bind(account_id.to_string())
    .execute(&mut *tx)
    .await
    .map_err(failed("change a collaborator"))?;
    if changed.rows_affected() == 0 {
        create(tx, app_id, account_id, permissions, now).await?;
    }
    Ok(())
}

/// Takes everybody's access away, inside a transaction.
///
/// # Errors
/// The database failed.
pub(crate) async fn delete_all(tx: &mut Connection, app_id: AppId) -> Result<()> {
    sqlx::query("DELETE FROM collaborator WHERE app_id = $1")
        .bind(app_id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("remove an app's collaborators"))?;
    Ok(())
}

/// Takes an account's access to every app of a team away, inside a transaction.
///
/// # Errors
/// The database failed.
pub(crate) async fn delete_of_team(
    tx: &mut Connection,
    team_id: TeamId,
    account_id: AccountId,
) -> Result<()> {
    sqlx::query(
        "DELETE FROM collaborator WHERE account_id = $1 AND app_id IN (SELECT id FROM app WHERE team_id = $2)",
    )
    .bind(account_id.to_string())
    .bind(team_id.to_string())
    .execute(&mut *tx)
    .await
    .map_err(failed("remove a team member from its apps"))?;
    Ok(())
}

/// Takes `manage` of every app of a team from an account, inside a transaction; the rest stays.
///
/// # Errors
/// The database failed.
pub(crate) async fn demote_in_team(
    tx: &mut Connection,
    team_id: TeamId,
    account_id: AccountId,
    now: Millis,
) -> Result<()> {
    let rows = sqlx::query(
        "SELECT app_id, permissions FROM collaborator WHERE account_id = $1 \
         AND app_id IN (SELECT id FROM app WHERE team_id = $2)",
    )
    .bind(account_id.to_string())
    .bind(team_id.to_string())
    .fetch_all(&mut *tx)
    .await
    .map_err(failed("list a team member's apps"))?;
    for row in rows {
        let mut permissions: Permissions = row.json("permissions")?;
        if permissions.remove(&Permission::Manage) {
            put(tx, row.parsed("app_id")?, account_id, &permissions, now).await?;
        }
    }
    Ok(())
}

/// To view goes with every permission; an empty set would be a collaborator who is treated as a stranger.
fn and_view(permissions: &Permissions) -> Permissions {
    permissions.iter().copied().chain([Permission::View]).collect()
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
