//! OAuth authorizations: one access token each, known here only by its hash.

use crate::events::NewEvent;
use crate::row::{Columns, failed, json};
use crate::{Connection, Result, Store, events, write};
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
         expires_at, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
    )
    .bind(new.id.to_string())
    .bind(new.account_id.to_string())
    .bind(new.description)
    .bind(json(&new.scope))
    .bind(new.token_hash)
    .bind(new.token_redacted)
    .bind(new.expires_at)
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

pub(crate) fn authorization(row: &AnyRow) -> Result<OauthAuthorization> {
    Ok(OauthAuthorization {
        id: row.parsed("id")?,
        account_id: row.parsed("account_id")?,
        description: row.text("description")?,
        scope: row.json("scope")?,
        token_redacted: row.text("token_redacted")?,
        expires_at: row.optional_integer("expires_at")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
