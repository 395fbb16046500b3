//! OAuth authorizations: one access token each, known here only by its hash.

use crate::events::NewEvent;
use crate::row::{Columns, failed, json};
use crate::{Connection, Result, Store, StoreError, events, write};
use ferroku_core::event::Actor;
use ferroku_core::oauth_authorization::{OauthAuthorization, Scopes};
use ferroku_core::{AccountId, AuthorizationId, Millis};
use sqlx::any::AnyRow;

/// Most authorizations that one account keeps; the oldest go when there are more.
/// Ours: every `heroku login` makes one, and nobody removes them by hand.
pub const MAX_PER_ACCOUNT: i64 = 500;

/// An authorization to be made.
#[derive(Debug)]
pub struct NewAuthorization<'a> {
    pub id: AuthorizationId,
    pub account_id: AccountId,
    pub description: &'a str,
    pub scope: &'a Scopes,
    /// Lower-case hex SHA-256 of the token.
    pub token_hash: &'a str,
    pub token_redacted: &'a str,
    pub expires_at: Option<Millis>,
    /// Made by a password or in a browser.
    pub is_login: bool,
}

/// What is kept of a token.
#[derive(Debug, Clone, Copy)]
pub struct NewToken<'a> {
    /// Lower-case hex SHA-256.
    pub hash: &'a str,
    pub redacted: &'a str,
}

/// Makes an authorization.
///
/// # Errors
/// The database failed.
pub async fn create(
    tx: &mut Connection,
    new: &NewAuthorization<'_>,
    now: Millis,
) -> Result<OauthAuthorization> {
    sqlx::query(
        "INSERT INTO oauth_authorization (id, account_id, description, scope, token_hash, token_redacted, \
         expires_at, is_login, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)",
    )
    .bind(new.id.to_string())
    .bind(new.account_id.to_string())
    .bind(new.description)
    .bind(json(&new.scope))
    .bind(new.token_hash)
    .bind(new.token_redacted)
    .bind(new.expires_at)
    .bind(i64::from(new.is_login))
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(failed("create an authorization"))?;
    sqlx::query(
        "DELETE FROM oauth_authorization WHERE account_id = $1 AND expires_at IS NOT NULL AND id NOT IN \
         (SELECT id FROM oauth_authorization WHERE account_id = $1 ORDER BY created_at DESC, id LIMIT $2)",
    )
    .bind(new.account_id.to_string())
    .bind(MAX_PER_ACCOUNT)
    .execute(&mut *tx)
    .await
    .map_err(failed("drop old authorizations"))?;
    Ok(OauthAuthorization {
        id: new.id,
        account_id: new.account_id,
        description: new.description.to_owned(),
        scope: new.scope.clone(),
        token_redacted: new.token_redacted.to_owned(),
        expires_at: new.expires_at,
        is_login: new.is_login,
        created_at: now,
        updated_at: now,
    })
}

/// The account's authorizations that have not expired at `now`, oldest first.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, account_id: AccountId, now: Millis) -> Result<Vec<OauthAuthorization>> {
    let rows = sqlx::query(
        "SELECT * FROM oauth_authorization WHERE account_id = $1 AND (expires_at IS NULL OR expires_at > $2) \
         ORDER BY created_at, id",
    )
    .bind(account_id.to_string())
    .bind(now)
    .fetch_all(store.reader())
    .await
    .map_err(failed("list authorizations"))?;
    rows.iter().map(authorization).collect()
}

/// Removes an authorization; its token is worth nothing from then on.
///
/// # Errors
/// The database failed.
pub async fn delete(
    store: &Store,
    authorization: &OauthAuthorization,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        sqlx::query("DELETE FROM oauth_authorization WHERE id = $1")
            .bind(authorization.id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("delete an authorization"))?;
        let event = NewEvent { app_id: None, actor, kind: "oauth_authorization.destroy", log_message: None };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })
}

/// Gives an authorization another description, another token, or both; the old token is then worth nothing.
///
/// # Errors
/// [`StoreError::NotFound`] when it was removed meanwhile.
pub async fn update(
    store: &Store,
    id: AuthorizationId,
    description: Option<&str>,
    token: Option<NewToken<'_>>,
    actor: &Actor,
    now: Millis,
) -> Result<OauthAuthorization> {
    write!(store, tx => {
        let row = sqlx::query(
            "UPDATE oauth_authorization SET description = COALESCE($1, description), \
             token_hash = COALESCE($2, token_hash), token_redacted = COALESCE($3, token_redacted), \
             updated_at = $4 WHERE id = $5 RETURNING *",
        )
        .bind(description)
        .bind(token.map(|token| token.hash))
        .bind(token.map(|token| token.redacted))
        .bind(now)
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("change an authorization"))?
        .ok_or(StoreError::NotFound { what: "authorization" })?;
        let kind = if token.is_some() { "oauth_authorization.rotate" } else { "oauth_authorization.update" };
        let event = NewEvent { app_id: None, actor, kind, log_message: None };
        events::append(&mut tx, event, now).await?;
        authorization(&row)
    })
}

/// Ends every login of the account, but the one to be kept.
pub(crate) async fn end_logins(
    tx: &mut Connection,
    account_id: AccountId,
    keep: Option<AuthorizationId>,
) -> Result<()> {
    sqlx::query("DELETE FROM oauth_authorization WHERE account_id = $1 AND is_login = 1 AND id <> $2")
        .bind(account_id.to_string())
        .bind(keep.map(|id| id.to_string()).unwrap_or_default())
        .execute(&mut *tx)
        .await
        .map_err(failed("end logins"))?;
    Ok(())
}

pub(crate) fn authorization(row: &AnyRow) -> Result<OauthAuthorization> {
    Ok(OauthAuthorization {
        id: row.parsed("id")?,
        account_id: row.parsed("account_id")?,
        description: row.text("description")?,
        scope: row.json("scope")?,
        token_redacted: row.text("token_redacted")?,
        expires_at: row.optional_integer("expires_at")?,
        is_login: row.flag("is_login")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
