//! The second factor: a secret shared with an app on a phone (RFC 6238), and recovery codes for when the phone is gone.

use crate::events::NewEvent;
use crate::row::{Columns, failed};
use crate::{Connection, Result, Store, StoreError, events, write};
use ferroku_core::event::Actor;
use ferroku_core::{AccountId, Millis};
use zeroize::Zeroizing;

/// What the account shares with a phone.
pub struct Shared {
    pub secret: Zeroizing<Vec<u8>>,
    /// Otherwise it is only offered: no code has proved yet that the phone has it.
    pub enabled: bool,
}

fn additional_data(id: AccountId) -> String {
    format!("account/{id}/1")
}

/// Offers a new secret, in place of one offered before.
///
/// # Errors
/// [`StoreError::Refused`] when the second factor is on already.
pub async fn offer(store: &Store, id: AccountId, secret: &[u8], now: Millis) -> Result<()> {
    let sealed = store.key().seal(&additional_data(id), secret);
    write!(store, tx => {
        let changed = sqlx::query(
            "UPDATE account SET totp_sealed = $1, totp_last_step = NULL, updated_at = $2 \
             WHERE id = $3 AND totp_enabled_at IS NULL",
        )
        .bind(&sealed)
        .bind(now)
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("offer a second factor"))?;
        match changed.rows_affected() {
            0 => Err(StoreError::Refused("Two-factor authentication is on already.".to_owned())),
            _ => Ok(()),
        }
    })
}

/// The secret, offered or in use.
///
/// # Errors
/// The database failed, or the secret cannot be unsealed.
pub async fn shared(store: &Store, id: AccountId) -> Result<Option<Shared>> {
    let row = sqlx::query("SELECT totp_sealed, totp_enabled_at FROM account WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find a second factor"))?;
    let Some(row) = row else { return Ok(None) };
    let Some(sealed) = row.optional_text("totp_sealed")? else { return Ok(None) };
    let secret = store.key().unseal(&additional_data(id), &sealed)?;
    Ok(Some(Shared { secret, enabled: row.optional_integer("totp_enabled_at")?.is_some() }))
}

/// Takes the offered secret into use, with the step of the code that proved it and new recovery codes.
///
/// # Errors
/// [`StoreError::Refused`] when nothing is offered.
pub async fn enable(
    store: &Store,
    id: AccountId,
    step: i64,
    recovery_hashes: &[String],
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        let changed = sqlx::query(
            "UPDATE account SET totp_enabled_at = $1, totp_last_step = $2, updated_at = $1 \
             WHERE id = $3 AND totp_sealed IS NOT NULL AND totp_enabled_at IS NULL",
        )
        .bind(now)
        .bind(step)
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("take a second factor into use"))?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::Refused("Two-factor authentication is on already, or was not begun.".to_owned()));
        }
        put_recovery_codes(&mut tx, id, recovery_hashes).await?;
        announce(&mut tx, "account.two_factor.enable", actor, now).await
    })
}

/// Notes that a code of this step was taken; false when one of this step or a later one was taken before.
///
/// # Errors
/// The database failed.
pub async fn take_step(store: &Store, id: AccountId, step: i64) -> Result<bool> {
    write!(store, tx => {
        let changed = sqlx::query(
            "UPDATE account SET totp_last_step = $1 \
             WHERE id = $2 AND (totp_last_step IS NULL OR totp_last_step < $1)",
        )
        .bind(step)
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("note a code"))?;
        Ok(changed.rows_affected() == 1)
    })
}

/// Takes a recovery code; false when there is no such code any more.
///
/// # Errors
/// The database failed.
pub async fn take_recovery_code(store: &Store, id: AccountId, code_hash: &str) -> Result<bool> {
    write!(store, tx => {
        let changed = sqlx::query("DELETE FROM recovery_code WHERE account_id = $1 AND code_hash = $2")
            .bind(id.to_string())
            .bind(code_hash)
            .execute(&mut *tx)
            .await
            .map_err(failed("take a recovery code"))?;
        Ok(changed.rows_affected() == 1)
    })
}

/// How many recovery codes are left.
///
/// # Errors
/// The database failed.
pub async fn recovery_codes_left(store: &Store, id: AccountId) -> Result<i64> {
    let row = sqlx::query("SELECT COUNT(*) AS count FROM recovery_code WHERE account_id = $1")
        .bind(id.to_string())
        .fetch_one(store.reader())
        .await
        .map_err(failed("count recovery codes"))?;
    row.integer("count")
}

/// New recovery codes in place of all that there are.
///
/// # Errors
/// The database failed.
pub async fn replace_recovery_codes(
    store: &Store,
    id: AccountId,
    hashes: &[String],
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        put_recovery_codes(&mut tx, id, hashes).await?;
        announce(&mut tx, "account.two_factor.recovery_codes", actor, now).await
    })
}

/// Turns the second factor off and forgets its secret and codes.
///
/// # Errors
/// The database failed.
pub async fn disable(store: &Store, id: AccountId, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query(
            "UPDATE account SET totp_sealed = NULL, totp_enabled_at = NULL, totp_last_step = NULL, updated_at = $1 \
             WHERE id = $2",
        )
        .bind(now)
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("turn a second factor off"))?;
        put_recovery_codes(&mut tx, id, &[]).await?;
        announce(&mut tx, "account.two_factor.disable", actor, now).await
    })
}

async fn put_recovery_codes(tx: &mut Connection, id: AccountId, hashes: &[String]) -> Result<()> {
    sqlx::query("DELETE FROM recovery_code WHERE account_id = $1")
        .bind(id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("drop recovery codes"))?;
    for hash in hashes {
        sqlx::query("INSERT INTO recovery_code (account_id, code_hash) VALUES ($1, $2)")
            .bind(id.to_string())
            .bind(hash)
            .execute(&mut *tx)
            .await
            .map_err(failed("keep a recovery code"))?;
    }
    Ok(())
}

async fn announce(tx: &mut Connection, kind: &str, actor: &Actor, now: Millis) -> Result<()> {
    events::append(tx, NewEvent { app_id: None, actor, kind, log_message: None }, now).await.map(|_| ())
}
