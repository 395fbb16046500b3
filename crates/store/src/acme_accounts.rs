//! The node's accounts at certificate authorities, sealed.

use crate::row::{Columns, failed};
use crate::{Result, Store, write};
use ferroku_core::Millis;
use zeroize::Zeroizing;

/// The credentials of the node's account at the authority with this directory, as [`save`] got them.
///
/// # Errors
/// The database failed, or another master key sealed them.
pub async fn find(store: &Store, directory_url: &str) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let row = sqlx::query("SELECT sealed_credentials FROM acme_account WHERE directory_url = $1")
        .bind(directory_url)
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find an ACME account"))?;
    let Some(row) = row else { return Ok(None) };
    store.key().unseal(&additional_data(directory_url), &row.text("sealed_credentials")?).map(Some)
}

/// Keeps the credentials of a new account; those of an older one are overwritten.
///
/// # Errors
/// The database failed.
pub async fn save(store: &Store, directory_url: &str, credentials: &[u8], now: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query(
            "INSERT INTO acme_account (directory_url, key_id, sealed_credentials, created_at) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (directory_url) DO UPDATE SET key_id = excluded.key_id, \
             sealed_credentials = excluded.sealed_credentials, created_at = excluded.created_at",
        )
        .bind(directory_url)
        .bind(store.key().id())
        .bind(store.key().seal(&additional_data(directory_url), credentials))
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(failed("keep an ACME account"))?;
        Ok(())
    })
}

/// Forgets the account: the authority does not know it any more.
///
/// # Errors
/// The database failed.
pub async fn forget(store: &Store, directory_url: &str) -> Result<()> {
    write!(store, tx => {
        sqlx::query("DELETE FROM acme_account WHERE directory_url = $1")
            .bind(directory_url)
            .execute(&mut *tx)
            .await
            .map_err(failed("forget an ACME account"))?;
        Ok(())
    })
}

fn additional_data(directory_url: &str) -> String {
    format!("acme_account/{directory_url}/1")
}
