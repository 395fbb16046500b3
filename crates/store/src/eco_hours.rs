//! Eco hours: how long the eco dynos of an account have been awake.
//!
//! A dyno's row says since when its time is not counted (`eco_since`); each change of its state counts what was until
//! then in the same transaction, and so does [`count_all`], every few minutes. So a killed process loses nothing: the row
//! still says since when. What counts is decided by [`ferroku_core::eco_hours`].

use crate::row::{Columns, failed};
use crate::{Connection, Result, Store};
use ferroku_core::eco_hours::{Month, Standing, count};
use ferroku_core::{AccountId, AppId, DynoId, Millis, dyno_size};
use sqlx::any::AnyRow;
use std::collections::BTreeMap;

/// How long counted months are kept, in milliseconds: a year.
const KEPT_MS: Millis = 366 * 24 * 60 * 60 * 1000;

/// What an account's eco dynos have used in a month.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    /// Also of apps that are gone.
    pub by_app: BTreeMap<AppId, Millis>,
    /// How many are awake.
    pub awake: u32,
}

impl Used {
    /// How the account stands with this quota.
    pub fn standing(&self, quota_ms: Millis) -> Standing {
        Standing { quota_ms, used_ms: self.by_app.values().sum(), awake: self.awake }
    }
}

/// What the account's eco dynos have used in the month of `now`, until now.
///
/// # Errors
/// The database failed.
pub async fn used(store: &Store, account_id: AccountId, now: Millis) -> Result<Used> {
    let month = Month::of(now);
    let counted =
        sqlx::query("SELECT app_id, milliseconds FROM eco_hours WHERE account_id = $1 AND month = $2")
            .bind(account_id.to_string())
            .bind(month.0)
            .fetch_all(store.reader())
            .await
            .map_err(failed("read an account's eco hours"))?;
    let awake = sqlx::query(
        "SELECT d.app_id, d.eco_since FROM dyno d JOIN app a ON a.id = d.app_id \
         WHERE a.owner_id = $1 AND d.eco_since IS NOT NULL",
    )
    .bind(account_id.to_string())
    .fetch_all(store.reader())
    .await
    .map_err(failed("find an account's eco dynos"))?;
    let mut used = Used::default();
    for row in &counted {
        used.by_app.insert(row.parsed("app_id")?, row.integer("milliseconds")?);
    }
    for row in &awake {
        let parts = count(row.integer("eco_since")?, now);
        let since: Millis = parts.iter().filter(|(of, _)| *of == month).map(|(_, ms)| ms).sum();
        *used.by_app.entry(row.parsed("app_id")?).or_default() += since;
        used.awake += 1;
    }
    Ok(used)
}

/// Counts the time of every dyno that is awake until now, and forgets months that are long over.
///
/// # Errors
/// The database failed.
pub async fn count_all(tx: &mut Connection, now: Millis) -> Result<()> {
    let awake = sqlx::query("SELECT id, app_id, eco_since FROM dyno WHERE eco_since IS NOT NULL")
        .fetch_all(&mut *tx)
        .await
        .map_err(failed("find the eco dynos that are awake"))?;
    count_until(tx, &awake, now).await?;
    sqlx::query("DELETE FROM eco_hours WHERE month < $1")
        .bind(Month::of(now - KEPT_MS).0)
        .execute(tx)
        .await
        .map_err(failed("forget eco hours"))?;
    Ok(())
}

/// Counts the time of an app's dynos for whoever has it now, before somebody else does, or nobody.
pub(crate) async fn count_app(tx: &mut Connection, app_id: AppId, now: Millis) -> Result<()> {
    let awake =
        sqlx::query("SELECT id, app_id, eco_since FROM dyno WHERE app_id = $1 AND eco_since IS NOT NULL")
            .bind(app_id.to_string())
            .fetch_all(&mut *tx)
            .await
            .map_err(failed("find an app's eco dynos"))?;
    count_until(tx, &awake, now).await
}

async fn count_until(tx: &mut Connection, awake: &[AnyRow], now: Millis) -> Result<()> {
    for row in awake {
        add(tx, row.parsed("app_id")?, row.integer("eco_since")?, now).await?;
        set_since(tx, row.parsed("id")?, Some(now)).await?;
    }
    Ok(())
}

/// A dyno's state has changed: counts its time until now. `changed` has its `size`, `app_id` and `eco_since`.
pub(crate) async fn turn(
    tx: &mut Connection,
    id: DynoId,
    changed: &AnyRow,
    is_awake: bool,
    now: Millis,
) -> Result<()> {
    let since = changed.optional_integer("eco_since")?;
    let counts = is_awake && dyno_size::sleeps(&changed.text("size")?);
    if let Some(since) = since {
        add(tx, changed.parsed("app_id")?, since, now).await?;
    }
    if since.is_some() || counts {
        set_since(tx, id, counts.then_some(now)).await?;
    }
    Ok(())
}

async fn set_since(tx: &mut Connection, id: DynoId, since: Option<Millis>) -> Result<()> {
    sqlx::query("UPDATE dyno SET eco_since = $1 WHERE id = $2")
        .bind(since)
        .bind(id.to_string())
        .execute(tx)
        .await
        .map_err(failed("note since when an eco dyno is awake"))?;
    Ok(())
}

async fn add(tx: &mut Connection, app_id: AppId, from: Millis, to: Millis) -> Result<()> {
    for (month, ms) in count(from, to) {
        sqlx::query(
            "INSERT INTO eco_hours (account_id, app_id, month, milliseconds) \
             SELECT owner_id, id, CAST($1 AS BIGINT), CAST($2 AS BIGINT) FROM app WHERE id = $3 \
             ON CONFLICT (account_id, app_id, month) \
             DO UPDATE SET milliseconds = eco_hours.milliseconds + excluded.milliseconds",
        )
        .bind(month.0)
        .bind(ms)
        .bind(app_id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("count eco hours"))?;
    }
    Ok(())
}
