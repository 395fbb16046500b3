//! OAuth clients: each with a secret, known here only by its hash.

use crate::events::NewEvent;
use crate::row::{Columns, failed};
use crate::{Connection, Result, Store, StoreError, events, write};
use ferroku_core::event::Actor;
use ferroku_core::oauth_client::OauthClient;
use ferroku_core::{AccountId, Millis, OauthClientId};
use sqlx::any::AnyRow;

/// Most clients of one account. Ours.
pub const MAX_PER_ACCOUNT: i64 = 100;

/// A client to be made.
#[derive(Debug)]
pub struct NewOauthClient<'a> {
    pub id: OauthClientId,
    pub account_id: AccountId,
    pub name: &'a str,
    pub redirect_uri: &'a str,
    /// Lower-case hex SHA-256.
    pub secret_hash: &'a str,
}

/// What of a client is to change.
#[derive(Debug, Default)]
pub struct OauthClientChange<'a> {
    pub name: Option<&'a str>,
    pub redirect_uri: Option<&'a str>,
    /// The old secret is worth nothing from then on.
    pub secret_hash: Option<&'a str>,
}

/// Makes a client.
///
/// # Errors
/// [`StoreError::Refused`] when the account has too many.
pub async fn create(
    store: &Store,
    new: &NewOauthClient<'_>,
    actor: &Actor,
    now: Millis,
) -> Result<OauthClient> {
    write!(store, tx => {
        let row = sqlx::query("SELECT COUNT(*) AS count FROM oauth_client WHERE account_id = $1")
            .bind(new.account_id.to_string())
            .fetch_one(&mut *tx)
            .await
            .map_err(failed("count clients"))?;
        if row.integer("count")? >= MAX_PER_ACCOUNT {
            return Err(StoreError::Refused(format!("An account has at most {MAX_PER_ACCOUNT} clients. Remove some first.")));
        }
        let row = sqlx::query(
            "INSERT INTO oauth_client (id, account_id, name, redirect_uri, secret_hash, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $6) RETURNING *",
        )
        .bind(new.id.to_string())
        .bind(new.account_id.to_string())
        .bind(new.name)
        .bind(new.redirect_uri)
        .bind(new.secret_hash)
        .bind(now)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed("make a client"))?;
        announce(&mut tx, "oauth_client.create", actor, now).await?;
        client(&row)
    })
}

/// The account's clients, oldest first.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, account_id: AccountId) -> Result<Vec<OauthClient>> {
    let rows = sqlx::query("SELECT * FROM oauth_client WHERE account_id = $1 ORDER BY created_at, id")
        .bind(account_id.to_string())
        .fetch_all(store.reader())
        .await
        .map_err(failed("list clients"))?;
    rows.iter().map(client).collect()
}

/// Whether the client has a secret with this hash.
///
/// # Errors
/// The database failed.
pub async fn has_secret(store: &Store, id: OauthClientId, secret_hash: &str) -> Result<bool> {
    let row = sqlx::query("SELECT id FROM oauth_client WHERE id = $1 AND secret_hash = $2")
        .bind(id.to_string())
        .bind(secret_hash)
        .fetch_optional(store.reader())
        .await
        .map_err(failed("check a client's secret"))?;
    Ok(row.is_some())
}

/// Changes a client.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn update(
    store: &Store,
    id: OauthClientId,
    change: &OauthClientChange<'_>,
    actor: &Actor,
    now: Millis,
) -> Result<OauthClient> {
    write!(store, tx => {
        let row = sqlx::query(
            "UPDATE oauth_client SET name = COALESCE($1, name), redirect_uri = COALESCE($2, redirect_uri), \
             secret_hash = COALESCE($3, secret_hash), updated_at = $4 WHERE id = $5 RETURNING *",
        )
        .bind(change.name)
        .bind(change.redirect_uri)
        .bind(change.secret_hash)
        .bind(now)
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("change a client"))?
        .ok_or(StoreError::NotFound { what: "client" })?;
        let kind = if change.secret_hash.is_some() { "oauth_client.rotate" } else { "oauth_client.update" };
        announce(&mut tx, kind, actor, now).await?;
        client(&row)
    })
}

/// Removes a client.
///
/// # Errors
/// The database failed.
pub async fn delete(store: &Store, id: OauthClientId, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query("DELETE FROM oauth_client WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("remove a client"))?;
        announce(&mut tx, "oauth_client.destroy", actor, now).await
    })
}

async fn announce(tx: &mut Connection, kind: &str, actor: &Actor, now: Millis) -> Result<()> {
    events::append(tx, NewEvent { app_id: None, actor, kind, log_message: None }, now).await.map(|_| ())
}

fn client(row: &AnyRow) -> Result<OauthClient> {
    Ok(OauthClient {
        id: row.parsed("id")?,
        account_id: row.parsed("account_id")?,
        name: row.text("name")?,
        redirect_uri: row.text("redirect_uri")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
