//! What accounts have and may have: the sums behind [`ferroku_core::limits`].

use crate::events::NewEvent;
use crate::row::{Columns, failed, word};
use crate::{Connection, Result, Store, StoreError, events, write};
use ferroku_core::build::BuildStatus;
use ferroku_core::event::Actor;
use ferroku_core::limits::{Limits, Trust, Usage, limits};
use ferroku_core::{AccountId, AppId, Millis, dyno_size};
use sqlx::AssertSqlSafe;
use std::collections::BTreeSet;

/// What takes an owner's disk space for good: repositories, config vars of all releases, slugs.
const ON_DISK: &str = "SELECT owner_id, repo_size_bytes + config_bytes AS bytes FROM app UNION ALL \
     SELECT a.owner_id, s.size_bytes FROM slug s JOIN app a ON a.id = s.app_id WHERE s.deleted_at IS NULL";

/// How far an account is trusted, and its limits; no limits for the node's owner and admins.
///
/// # Errors
/// The database failed, or there is no such account.
pub async fn of_account(
    connection: &mut Connection,
    account_id: AccountId,
) -> Result<(Trust, Option<Limits>)> {
    let row = sqlx::query("SELECT role, trust FROM account WHERE id = $1")
        .bind(account_id.to_string())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed("find an account's limits"))?
        .ok_or(StoreError::NotFound { what: "account" })?;
    let trust = row.word("trust")?;
    Ok((trust, limits(row.word("role")?, trust)))
}

/// What the account's apps take.
///
/// # Errors
/// The database failed.
pub async fn usage(connection: &mut Connection, account_id: AccountId) -> Result<Usage> {
    let dynos = sqlx::query(
        "SELECT size, CAST(SUM(quantity) AS BIGINT) AS quantity FROM ( \
         SELECT f.size, f.quantity FROM formation f JOIN app a ON a.id = f.app_id WHERE a.owner_id = $1 \
         UNION ALL SELECT d.size, 1 FROM dyno d JOIN app a ON a.id = d.app_id \
         WHERE a.owner_id = $1 AND d.kind = 'run' AND d.ended_at IS NULL) wanted GROUP BY size",
    )
    .bind(account_id.to_string())
    .fetch_all(&mut *connection)
    .await
    .map_err(failed("add an account's dynos up"))?;
    let apps = sqlx::query("SELECT COUNT(*) AS apps FROM app WHERE owner_id = $1")
        .bind(account_id.to_string())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("count an account's apps"))?;
    let disk_bytes = disk_bytes(connection, account_id).await?;
    let mut usage = Usage { apps: apps.number("apps")?, disk_bytes, ..Usage::default() };
    for row in &dynos {
        let quantity: u64 = row.number("quantity")?;
        usage.dynos += quantity;
        usage.memory_bytes +=
            dyno_size::find(&row.text("size")?).map_or(0, |size| size.memory_bytes * quantity);
    }
    Ok(usage)
}

/// What the account's apps take on the disk for good.
async fn disk_bytes(connection: &mut Connection, account_id: AccountId) -> Result<u64> {
    let sql = format!(
        "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes FROM ({ON_DISK}) used WHERE owner_id = $1"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(account_id.to_string())
        .fetch_one(&mut *connection)
        .await
        .map_err(failed("add an account's disk space up"))?;
    row.number("bytes")
}

/// The accounts whose disk space is nearly used up.
///
/// # Errors
/// The database failed.
pub async fn crowded_accounts(store: &Store) -> Result<BTreeSet<AccountId>> {
    let sql = format!(
        "SELECT o.id, o.role, o.trust, CAST(SUM(used.bytes) AS BIGINT) AS bytes FROM ({ON_DISK}) used \
         JOIN account o ON o.id = used.owner_id GROUP BY o.id, o.role, o.trust"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .fetch_all(store.reader())
        .await
        .map_err(failed("see whose disk space is used up"))?;
    let mut crowded = BTreeSet::new();
    for row in &rows {
        let limits = limits(row.word("role")?, row.word("trust")?);
        let used_bytes = row.number("bytes")?;
        if limits.is_some_and(|limits| limits.is_disk_crowded(used_bytes)) {
            crowded.insert(row.parsed("id")?);
        }
    }
    Ok(crowded)
}

/// Refuses what would take the account over its limits: `change` makes what it has into what it would have.
///
/// # Errors
/// [`StoreError::Refused`], with why; or the database failed.
pub async fn check(
    connection: &mut Connection,
    account_id: AccountId,
    change: impl FnOnce(&mut Usage),
) -> Result<()> {
    let (_, Some(limits)) = of_account(connection, account_id).await? else { return Ok(()) };
    let before = usage(connection, account_id).await?;
    let mut after = before;
    change(&mut after);
    limits.refuse(&before, &after).map_or(Ok(()), |why| Err(StoreError::Refused(why)))
}

/// The same of what has been written already in this transaction: `before` is the account's usage before that.
///
/// # Errors
/// As [`check`].
pub async fn check_growth(connection: &mut Connection, account_id: AccountId, before: &Usage) -> Result<()> {
    let (_, Some(limits)) = of_account(connection, account_id).await? else { return Ok(()) };
    let after = usage(connection, account_id).await?;
    limits.refuse(before, &after).map_or(Ok(()), |why| Err(StoreError::Refused(why)))
}

/// Refuses dynos that are larger than the account may have.
///
/// # Errors
/// As [`check`].
pub async fn check_dyno_size(connection: &mut Connection, account_id: AccountId, size: &str) -> Result<()> {
    let (_, Some(limits)) = of_account(connection, account_id).await? else { return Ok(()) };
    let refused =
        dyno_size::find(size).and_then(|size| limits.refuse_dyno(size.display_name, size.memory_bytes));
    refused.map_or(Ok(()), |why| Err(StoreError::Refused(why)))
}

/// Refuses another build while the account has as many under way as it may.
///
/// # Errors
/// As [`check`].
pub async fn check_build(connection: &mut Connection, account_id: AccountId) -> Result<()> {
    let (_, Some(limits)) = of_account(connection, account_id).await? else { return Ok(()) };
    let row = sqlx::query(
        "SELECT COUNT(*) AS builds FROM build b JOIN app a ON a.id = b.app_id WHERE a.owner_id = $1 AND b.status = $2",
    )
    .bind(account_id.to_string())
    .bind(word(&BuildStatus::Pending))
    .fetch_one(&mut *connection)
    .await
    .map_err(failed("count an account's builds"))?;
    limits.refuse_build(row.number("builds")?).map_or(Ok(()), |why| Err(StoreError::Refused(why)))
}

/// Refuses to add to the disk for an app whose owner has used up what there is.
///
/// # Errors
/// As [`check`].
pub async fn check_disk(connection: &mut Connection, app_id: AppId) -> Result<()> {
    let row = sqlx::query("SELECT owner_id FROM app WHERE id = $1")
        .bind(app_id.to_string())
        .fetch_optional(&mut *connection)
        .await
        .map_err(failed("find an app's owner"))?
        .ok_or(StoreError::NotFound { what: "app" })?;
    let owner_id = row.parsed("owner_id")?;
    let (_, Some(limits)) = of_account(connection, owner_id).await? else { return Ok(()) };
    let used = disk_bytes(connection, owner_id).await?;
    limits.refuse_on_disk(used).map_or(Ok(()), |why| Err(StoreError::Refused(why)))
}

/// Sets how far the account is trusted.
///
/// # Errors
/// [`StoreError::NotFound`] when there is no such account.
pub async fn set_trust(
    store: &Store,
    account_id: AccountId,
    trust: Trust,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        let row = sqlx::query("UPDATE account SET trust = $1, updated_at = $2 WHERE id = $3 RETURNING email")
            .bind(word(&trust))
            .bind(now)
            .bind(account_id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed("set an account's trust"))?
            .ok_or(StoreError::NotFound { what: "account" })?;
        let message = format!("Set the trust in {} to {}", row.text("email")?, word(&trust));
        let event = NewEvent { app_id: None, actor, kind: "account.trust", log_message: Some(message) };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })
}
