//! SSH keys of accounts, as data.

use crate::events::NewEvent;
use crate::row::{Columns, failed, failed_or_taken};
use crate::{Result, Store, StoreError, events, write};
use ferroku_core::event::Actor;
use ferroku_core::ssh_key::SshKey;
use ferroku_core::{AccountId, Millis, SshKeyId};
use sqlx::any::AnyRow;

/// Most keys of one account. Ours: a person has few machines.
pub const MAX_PER_ACCOUNT: i64 = 100;

/// A key to be kept.
#[derive(Debug)]
pub struct NewSshKey<'a> {
    pub id: SshKeyId,
    pub account_id: AccountId,
    pub public_key: &'a str,
    pub fingerprint: &'a str,
    pub comment: &'a str,
}

/// Keeps a key.
///
/// # Errors
/// [`StoreError::Taken`] when the account has it already; [`StoreError::Refused`] when it has too many.
pub async fn create(store: &Store, new: &NewSshKey<'_>, actor: &Actor, now: Millis) -> Result<SshKey> {
    write!(store, tx => {
        let row = sqlx::query("SELECT COUNT(*) AS count FROM ssh_key WHERE account_id = $1")
            .bind(new.account_id.to_string())
            .fetch_one(&mut *tx)
            .await
            .map_err(failed("count keys"))?;
        if row.integer("count")? >= MAX_PER_ACCOUNT {
            return Err(StoreError::Refused(format!("An account has at most {MAX_PER_ACCOUNT} keys. Remove some first.")));
        }
        let row = sqlx::query(
            "INSERT INTO ssh_key (id, account_id, public_key, fingerprint, comment, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $6) RETURNING *",
        )
        .bind(new.id.to_string())
        .bind(new.account_id.to_string())
        .bind(new.public_key)
        .bind(new.fingerprint)
        .bind(new.comment)
        .bind(now)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed_or_taken("keep a key", "key"))?;
        let event = NewEvent { app_id: None, actor, kind: "key.create", log_message: None };
        events::append(&mut tx, event, now).await?;
        key(&row)
    })
}

/// The account's keys, oldest first.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, account_id: AccountId) -> Result<Vec<SshKey>> {
    let rows = sqlx::query("SELECT * FROM ssh_key WHERE account_id = $1 ORDER BY created_at, id")
        .bind(account_id.to_string())
        .fetch_all(store.reader())
        .await
        .map_err(failed("list keys"))?;
    rows.iter().map(key).collect()
}

/// Removes a key.
///
/// # Errors
/// The database failed.
pub async fn delete(store: &Store, id: SshKeyId, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query("DELETE FROM ssh_key WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("remove a key"))?;
        let event = NewEvent { app_id: None, actor, kind: "key.destroy", log_message: None };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })
}

fn key(row: &AnyRow) -> Result<SshKey> {
    Ok(SshKey {
        id: row.parsed("id")?,
        public_key: row.text("public_key")?,
        fingerprint: row.text("fingerprint")?,
        comment: row.text("comment")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
