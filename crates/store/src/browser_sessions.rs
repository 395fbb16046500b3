//! Logins in browsers.

use crate::row::{Columns, failed};
use crate::{Connection, Result, Store, accounts};
use ferroku_core::account::Account;
use ferroku_core::browser_session::BrowserSession;
use ferroku_core::{AccountId, BrowserSessionId, Millis};
use sqlx::any::AnyRow;

/// A session to be made.
#[derive(Debug)]
pub struct NewBrowserSession<'a> {
    pub id: BrowserSessionId,
    pub account_id: AccountId,
    /// Lower-case hex SHA-256 of the cookie.
    pub token_hash: &'a str,
    pub description: &'a str,
    pub second_factor_due: bool,
    pub expires_at: Millis,
}

/// Makes a session; those that have expired go.
///
/// # Errors
/// The database failed.
pub async fn create(tx: &mut Connection, new: &NewBrowserSession<'_>, now: Millis) -> Result<()> {
    sqlx::query("DELETE FROM browser_session WHERE expires_at <= $1")
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(failed("drop old sessions"))?;
    sqlx::query(
        "INSERT INTO browser_session (id, account_id, token_hash, description, second_factor_due, expires_at, \
         created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
    )
    .bind(new.id.to_string())
    .bind(new.account_id.to_string())
    .bind(new.token_hash)
    .bind(new.description)
    .bind(i64::from(new.second_factor_due))
    .bind(new.expires_at)
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(failed("create a session"))?;
    Ok(())
}

/// Whose session has a cookie with this hash, if it has not expired.
///
/// # Errors
/// The database failed.
pub async fn by_token_hash(
    store: &Store,
    token_hash: &str,
    now: Millis,
) -> Result<Option<(Account, BrowserSession)>> {
    let row = sqlx::query("SELECT * FROM browser_session WHERE token_hash = $1 AND expires_at > $2")
        .bind(token_hash)
        .bind(now)
        .fetch_optional(store.reader())
        .await
        .map_err(failed("look a session up"))?;
    let Some(row) = row else { return Ok(None) };
    let session = session(&row)?;
    Ok(accounts::find(store, session.account_id).await?.map(|account| (account, session)))
}

/// The account's sessions, oldest first.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, account_id: AccountId, now: Millis) -> Result<Vec<BrowserSession>> {
    let rows = sqlx::query(
        "SELECT * FROM browser_session WHERE account_id = $1 AND expires_at > $2 AND second_factor_due = 0 \
         ORDER BY created_at, id",
    )
    .bind(account_id.to_string())
    .bind(now)
    .fetch_all(store.reader())
    .await
    .map_err(failed("list sessions"))?;
    rows.iter().map(session).collect()
}

/// Ends a session.
///
/// # Errors
/// The database failed.
pub async fn delete(tx: &mut Connection, id: BrowserSessionId) -> Result<()> {
    sqlx::query("DELETE FROM browser_session WHERE id = $1")
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("end a session"))?;
    Ok(())
}

/// Ends every session of the account, but the one to be kept.
///
/// # Errors
/// The database failed.
pub(crate) async fn end_all(
    tx: &mut Connection,
    account_id: AccountId,
    keep: Option<BrowserSessionId>,
) -> Result<()> {
    sqlx::query("DELETE FROM browser_session WHERE account_id = $1 AND id <> $2")
        .bind(account_id.to_string())
        .bind(keep.map(|id| id.to_string()).unwrap_or_default())
        .execute(&mut *tx)
        .await
        .map_err(failed("end sessions"))?;
    Ok(())
}

fn session(row: &AnyRow) -> Result<BrowserSession> {
    Ok(BrowserSession {
        id: row.parsed("id")?,
        account_id: row.parsed("account_id")?,
        description: row.text("description")?,
        second_factor_due: row.flag("second_factor_due")?,
        expires_at: row.integer("expires_at")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
