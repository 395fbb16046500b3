//! Accounts, and whom an access token belongs to.

use crate::events::NewEvent;
use crate::oauth_authorizations::authorization;
use crate::row::{Columns, failed, failed_or_taken, word};
use crate::{Connection, Result, Store, StoreError, events, write};
use ferroku_core::account::{Account, Role};
use ferroku_core::event::Actor;
use ferroku_core::oauth_authorization::OauthAuthorization;
use ferroku_core::{AccountId, AuthorizationId, Millis};
use sqlx::any::AnyRow;
use std::collections::BTreeMap;

/// An account to be made.
#[derive(Debug)]
pub struct NewAccount<'a> {
    pub id: AccountId,
    /// Kept in lower case.
    pub email: &'a str,
    pub name: Option<&'a str>,
    /// In the PHC format (`$argon2id$...`).
    pub password_hash: &'a str,
    pub role: Role,
}

/// Makes an account.
///
/// # Errors
/// [`crate::StoreError::Taken`] when the address has an account already.
pub async fn create(tx: &mut Connection, new: &NewAccount<'_>, now: Millis) -> Result<Account> {
    let account = Account {
        id: new.id,
        email: new.email.to_ascii_lowercase(),
        name: new.name.map(str::to_owned),
        role: new.role,
        last_login_at: None,
        suspended_at: None,
        two_factor: false,
        created_at: now,
        updated_at: now,
    };
    sqlx::query(
        "INSERT INTO account (id, email, name, password_hash, role, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $6)",
    )
    .bind(account.id.to_string())
    .bind(&account.email)
    .bind(account.name.clone())
    .bind(new.password_hash)
    .bind(word(&account.role))
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(failed_or_taken("create an account", "email address"))?;
    Ok(account)
}

/// The account with this id.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, id: AccountId) -> Result<Option<Account>> {
    let row = sqlx::query("SELECT * FROM account WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find an account"))?;
    row.as_ref().map(account).transpose()
}

/// The account with this email address, whatever its case.
///
/// # Errors
/// The database failed.
pub async fn find_by_email(store: &Store, email: &str) -> Result<Option<Account>> {
    Ok(find_with_password_hash(store, email).await?.map(|(account, _)| account))
}

/// The account with this email address and its password's hash, to check a login.
///
/// # Errors
/// The database failed.
pub async fn find_with_password_hash(store: &Store, email: &str) -> Result<Option<(Account, String)>> {
    let row = sqlx::query("SELECT * FROM account WHERE email = $1 AND deleted_at IS NULL")
        .bind(email.to_ascii_lowercase())
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find an account"))?;
    row.map(|row| Ok((account(&row)?, row.text("password_hash")?))).transpose()
}

/// Whose access token has this hash (lower-case hex SHA-256), if it has not expired at `now`.
///
/// # Errors
/// The database failed.
pub async fn by_token_hash(
    store: &Store,
    token_hash: &str,
    now: Millis,
) -> Result<Option<(Account, OauthAuthorization)>> {
    let writes = store.recent.writes.so_far();
    if let Some(holder) = store.recent.holders.get(writes, token_hash) {
        return Ok(
            Some(holder).filter(|(_, authorization)| authorization.expires_at.is_none_or(|at| at > now))
        );
    }
    let row = sqlx::query(
        "SELECT * FROM oauth_authorization WHERE token_hash = $1 AND (expires_at IS NULL OR expires_at > $2)",
    )
    .bind(token_hash)
    .bind(now)
    .fetch_optional(store.reader())
    .await
    .map_err(failed("look an access token up"))?;
    let found = holder(store, row).await?;
    if let Some(holder) = &found {
        store.recent.holders.put(writes, token_hash.to_owned(), holder.clone());
    }
    Ok(found)
}

/// Whose authorization this is, if it has not expired at `now`.
///
/// # Errors
/// The database failed.
pub async fn by_authorization(
    store: &Store,
    id: AuthorizationId,
    now: Millis,
) -> Result<Option<(Account, OauthAuthorization)>> {
    let row = sqlx::query(
        "SELECT * FROM oauth_authorization WHERE id = $1 AND (expires_at IS NULL OR expires_at > $2)",
    )
    .bind(id.to_string())
    .bind(now)
    .fetch_optional(store.reader())
    .await
    .map_err(failed("look an authorization up"))?;
    holder(store, row).await
}

async fn holder(store: &Store, row: Option<AnyRow>) -> Result<Option<(Account, OauthAuthorization)>> {
    let Some(row) = row else { return Ok(None) };
    let authorization = authorization(&row)?;
    Ok(find(store, authorization.account_id).await?.map(|account| (account, authorization)))
}

/// Every account, oldest first; not those that were deleted.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store) -> Result<Vec<Account>> {
    let rows = sqlx::query("SELECT * FROM account WHERE deleted_at IS NULL ORDER BY created_at, id")
        .fetch_all(store.reader())
        .await
        .map_err(failed("list accounts"))?;
    rows.iter().map(account).collect()
}

/// Every account's email address by id; a node has few accounts.
///
/// # Errors
/// The database failed.
pub async fn emails(store: &Store) -> Result<BTreeMap<AccountId, String>> {
    let rows = sqlx::query("SELECT id, email FROM account")
        .fetch_all(store.reader())
        .await
        .map_err(failed("list accounts"))?;
    rows.iter().map(|row| Ok((row.parsed("id")?, row.text("email")?))).collect()
}

/// Gives the account another role on the node.
///
/// # Errors
/// [`StoreError::NotFound`] when there is no such account.
pub async fn set_role(
    store: &Store,
    id: AccountId,
    role: Role,
    actor: &Actor,
    now: Millis,
) -> Result<Account> {
    write!(store, tx => {
        let row = sqlx::query("UPDATE account SET role = $1, updated_at = $2 WHERE id = $3 RETURNING *")
            .bind(word(&role))
            .bind(now)
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed("change an account's role"))?
            .ok_or(StoreError::NotFound { what: "account" })?;
        let event = NewEvent { app_id: None, actor, kind: "account.appoint", log_message: None };
        events::append(&mut tx, event, now).await?;
        account(&row)
    })
}

/// When the node's first account was made: as good as the node itself. 0 without any.
///
/// # Errors
/// The database failed.
pub async fn first_created_at(store: &Store) -> Result<Millis> {
    let row = sqlx::query("SELECT COALESCE(MIN(created_at), 0) AS created_at FROM account")
        .fetch_one(store.reader())
        .await
        .map_err(failed("find the first account"))?;
    row.integer("created_at")
}

/// Changes the account's full name.
///
/// # Errors
/// [`StoreError::NotFound`] when there is no such account.
pub async fn rename(store: &Store, id: AccountId, name: &str, actor: &Actor, now: Millis) -> Result<Account> {
    write!(store, tx => {
        let row = sqlx::query("UPDATE account SET name = $1, updated_at = $2 WHERE id = $3 RETURNING *")
            .bind(name)
            .bind(now)
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed("rename an account"))?
            .ok_or(StoreError::NotFound { what: "account" })?;
        let event = NewEvent { app_id: None, actor, kind: "account.update", log_message: None };
        events::append(&mut tx, event, now).await?;
        account(&row)
    })
}

/// Notes that somebody logged in with the account's password.
///
/// # Errors
/// The database failed.
pub async fn record_login(store: &Store, id: AccountId, now: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query("UPDATE account SET last_login_at = $1 WHERE id = $2")
            .bind(now)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("note a login"))?;
        Ok(())
    })
}

pub(crate) fn account(row: &AnyRow) -> Result<Account> {
    Ok(Account {
        id: row.parsed("id")?,
        email: row.text("email")?,
        name: row.optional_text("name")?,
        role: row.word("role")?,
        last_login_at: row.optional_integer("last_login_at")?,
        suspended_at: row.optional_integer("suspended_at")?,
        two_factor: row.optional_integer("totp_enabled_at")?.is_some(),
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
