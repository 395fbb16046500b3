//! Tokens of links in letters: known by their hash, taken once, gone when they expire.

use crate::row::{Columns, failed, word};
use crate::{Connection, Result, Store, StoreError};
use ferroku_core::mailed_token::{MailedToken, Purpose};
use ferroku_core::{AccountId, Millis};
use sqlx::any::AnyRow;

/// A token to be kept.
#[derive(Debug)]
pub struct NewMailedToken<'a> {
    /// Lower-case hex SHA-256.
    pub token_hash: &'a str,
    pub purpose: Purpose,
    pub email: &'a str,
    pub account_id: Option<AccountId>,
    pub expires_at: Millis,
}

/// Keeps a token. An earlier one for the same purpose and address is worth nothing from then on.
///
/// # Errors
/// The database failed.
pub async fn create(tx: &mut Connection, new: &NewMailedToken<'_>, now: Millis) -> Result<()> {
    sqlx::query("DELETE FROM mailed_token WHERE expires_at <= $1 OR (purpose = $2 AND email = $3)")
        .bind(now)
        .bind(word(&new.purpose))
        .bind(new.email)
        .execute(&mut *tx)
        .await
        .map_err(failed("drop old tokens"))?;
    sqlx::query(
        "INSERT INTO mailed_token (token_hash, purpose, email, account_id, expires_at, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(new.token_hash)
    .bind(word(&new.purpose))
    .bind(new.email)
    .bind(new.account_id.map(|id| id.to_string()))
    .bind(new.expires_at)
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(failed("keep a token"))?;
    Ok(())
}

/// What the token with this hash stands for, if it is still worth anything.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, token_hash: &str, now: Millis) -> Result<Option<MailedToken>> {
    let row = sqlx::query("SELECT * FROM mailed_token WHERE token_hash = $1 AND expires_at > $2")
        .bind(token_hash)
        .bind(now)
        .fetch_optional(store.reader())
        .await
        .map_err(failed("look a token up"))?;
    row.as_ref().map(mailed_token).transpose()
}

/// Takes the token with this hash: nobody can take it again.
///
/// # Errors
/// [`StoreError::NotFound`] when it was taken, has expired, or never was.
pub async fn take(tx: &mut Connection, token_hash: &str, now: Millis) -> Result<MailedToken> {
    let row = sqlx::query("DELETE FROM mailed_token WHERE token_hash = $1 AND expires_at > $2 RETURNING *")
        .bind(token_hash)
        .bind(now)
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("take a token"))?
        .ok_or(StoreError::NotFound { what: "link" })?;
    mailed_token(&row)
}

fn mailed_token(row: &AnyRow) -> Result<MailedToken> {
    Ok(MailedToken {
        purpose: row.word("purpose")?,
        email: row.text("email")?,
        account_id: row.optional_parsed("account_id")?,
    })
}
