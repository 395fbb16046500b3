//! What changes an account as a whole: its password, its address, being kept out, and its end.

use crate::accounts::account;
use crate::events::NewEvent;
use crate::row::{Columns, failed, failed_or_taken};
use crate::{
    Connection, Result, Store, StoreError, browser_sessions, events, oauth_authorizations, team_members,
    write,
};
use ferroku_core::account::Account;
use ferroku_core::event::Actor;
use ferroku_core::{AccountId, AuthorizationId, BrowserSessionId, Millis};

/// What goes on when every other login ends.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keep {
    pub session: Option<BrowserSessionId>,
    pub authorization: Option<AuthorizationId>,
}

/// Gives the account a new password and ends its logins, in browsers and of the CLI. Authorizations that were made on
/// purpose stay.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn set_password(
    tx: &mut Connection,
    id: AccountId,
    password_hash: &str,
    keep: Keep,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    let changed = sqlx::query(
        "UPDATE account SET password_hash = $1, updated_at = $2 WHERE id = $3 AND deleted_at IS NULL",
    )
    .bind(password_hash)
    .bind(now)
    .bind(id.to_string())
    .execute(&mut *tx)
    .await
    .map_err(failed("change a password"))?;
    if changed.rows_affected() == 0 {
        return Err(StoreError::NotFound { what: "account" });
    }
    browser_sessions::end_all(tx, id, keep.session).await?;
    oauth_authorizations::end_logins(tx, id, keep.authorization).await?;
    announce(tx, "account.password", actor, now).await
}

/// Gives the account another address. Links that were sent to the old one are worth nothing any more.
///
/// # Errors
/// [`StoreError::Taken`] when the address has an account already; [`StoreError::NotFound`].
pub async fn set_email(
    tx: &mut Connection,
    id: AccountId,
    email: &str,
    actor: &Actor,
    now: Millis,
) -> Result<Account> {
    let row = sqlx::query(
        "UPDATE account SET email = $1, updated_at = $2 WHERE id = $3 AND deleted_at IS NULL RETURNING *",
    )
    .bind(email.to_ascii_lowercase())
    .bind(now)
    .bind(id.to_string())
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed_or_taken("change an address", "email address"))?
    .ok_or(StoreError::NotFound { what: "account" })?;
    drop_links(tx, id).await?;
    announce(tx, "account.email", actor, now).await?;
    account(&row)
}

/// Keeps the account out from `suspended_at` on, or lets it in again.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn set_suspended(
    store: &Store,
    id: AccountId,
    suspended_at: Option<Millis>,
    actor: &Actor,
    now: Millis,
) -> Result<Account> {
    write!(store, tx => {
        let row = sqlx::query(
            "UPDATE account SET suspended_at = $1, updated_at = $2 WHERE id = $3 AND deleted_at IS NULL RETURNING *",
        )
        .bind(suspended_at)
        .bind(now)
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("suspend an account"))?
        .ok_or(StoreError::NotFound { what: "account" })?;
        let kind = if suspended_at.is_some() { "account.suspend" } else { "account.resume" };
        announce(&mut tx, kind, actor, now).await?;
        account(&row)
    })
}

/// Ends the account: nobody can log in to it, and everything that was its own goes. The row stays under an address that
/// is nobody's, because releases, builds and events name who made them.
///
/// # Errors
/// [`StoreError::Refused`] while it owns apps or is the last admin of a team; [`StoreError::NotFound`].
pub async fn delete(store: &Store, id: AccountId, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        refuse_with_apps(&mut tx, id).await?;
        team_members::leave_all(&mut tx, id).await?;
        let changed = sqlx::query(
            "UPDATE account SET email = $1, name = NULL, password_hash = '', totp_sealed = NULL, \
             totp_enabled_at = NULL, totp_last_step = NULL, deleted_at = $2, updated_at = $2 \
             WHERE id = $3 AND deleted_at IS NULL",
        )
        .bind(format!("{id}@deleted.invalid"))
        .bind(now)
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("delete an account"))?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::NotFound { what: "account" });
        }
        for statement in [
            "DELETE FROM browser_session WHERE account_id = $1",
            "DELETE FROM oauth_authorization WHERE account_id = $1",
            "DELETE FROM recovery_code WHERE account_id = $1",
            "DELETE FROM collaborator WHERE account_id = $1",
            "DELETE FROM app_transfer WHERE owner_id = $1 OR recipient_id = $1",
        ] {
            sqlx::query(statement)
                .bind(id.to_string())
                .execute(&mut *tx)
                .await
                .map_err(failed("delete what an account has"))?;
        }
        drop_links(&mut tx, id).await?;
        announce(&mut tx, "account.destroy", actor, now).await
    })
}

async fn refuse_with_apps(tx: &mut Connection, id: AccountId) -> Result<()> {
    let rows = sqlx::query("SELECT name FROM app WHERE owner_id = $1 AND team_id IS NULL ORDER BY name")
        .bind(id.to_string())
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("list an account's apps"))?;
    let names = rows.iter().map(|row| row.text("name")).collect::<Result<Vec<_>>>()?;
    if names.is_empty() {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "The account owns {}. Destroy these apps or transfer them to somebody else first.",
        names.join(", ")
    )))
}

async fn drop_links(tx: &mut Connection, id: AccountId) -> Result<()> {
    sqlx::query("DELETE FROM mailed_token WHERE account_id = $1")
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("drop an account's links"))?;
    Ok(())
}

async fn announce(tx: &mut Connection, kind: &str, actor: &Actor, now: Millis) -> Result<()> {
    events::append(tx, NewEvent { app_id: None, actor, kind, log_message: None }, now).await.map(|_| ())
}
