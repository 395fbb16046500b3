//! Events: appended with each change, in its transaction; read in the order of their numbers.

use crate::node_settings::{EVENT_SEQUENCE, take_number};
use crate::row::{Columns, failed};
use crate::{Connection, Result, Store, write};
use ferroku_core::event::{Actor, Event};
use ferroku_core::{AppId, Millis};
use sqlx::any::AnyRow;

/// An event to be written.
#[derive(Debug)]
pub struct NewEvent<'a> {
    pub app_id: Option<AppId>,
    pub actor: &'a Actor,
    /// Noun and verb: `release.create`.
    pub kind: &'a str,
    /// What was done, in words: what the app's log says, without the ` by user` ending, a line each for several; and what
    /// the audit trail says, also of what no log tells.
    pub log_message: Option<String>,
}

/// Writes an event and gives its number. Numbers become visible to readers in order.
///
/// # Errors
/// The database failed.
pub async fn append(tx: &mut Connection, event: NewEvent<'_>, now: Millis) -> Result<i64> {
    let sequence = take_number(tx, EVENT_SEQUENCE).await?;
    sqlx::query(
        "INSERT INTO event (sequence, app_id, account_id, email, kind, log_message, remote_address, \
         request_id, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(sequence)
    .bind(event.app_id.map(|id| id.to_string()))
    .bind(event.actor.account_id.to_string())
    .bind(&event.actor.email)
    .bind(event.kind)
    .bind(event.log_message)
    .bind(event.actor.remote_address.clone())
    .bind(event.actor.request_id.clone())
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(failed("write an event"))?;
    Ok(sequence)
}

/// Writes an event of an app whose log line is `log_message`.
///
/// # Errors
/// The database failed.
pub(crate) async fn announce(
    tx: &mut Connection,
    app_id: AppId,
    kind: &str,
    log_message: &str,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    let event = NewEvent { app_id: Some(app_id), actor, kind, log_message: Some(log_message.to_owned()) };
    append(tx, event, now).await?;
    Ok(())
}

/// The same for what is no change of rows, in a transaction of its own.
///
/// # Errors
/// The database failed.
pub async fn record(
    store: &Store,
    app_id: AppId,
    kind: &str,
    log_message: &str,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    write!(store, tx => { announce(&mut tx, app_id, kind, log_message, actor, now).await })
}

/// The same for what is about no app.
///
/// # Errors
/// The database failed.
pub async fn record_of_node(
    store: &Store,
    kind: &str,
    log_message: &str,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        let event = NewEvent { app_id: None, actor, kind, log_message: Some(log_message.to_owned()) };
        append(&mut tx, event, now).await?;
        Ok(())
    })
}

/// The events behind number `sequence`, oldest first, at most `limit`.
///
/// # Errors
/// The database failed.
pub async fn after(store: &Store, sequence: i64, limit: i64) -> Result<Vec<Event>> {
    let rows = sqlx::query("SELECT * FROM event WHERE sequence > $1 ORDER BY sequence LIMIT $2")
        .bind(sequence)
        .bind(limit)
        .fetch_all(store.reader())
        .await
        .map_err(failed("read events"))?;
    rows.iter().map(event).collect()
}

/// The newest events, of one app or of all, newest first: at most `limit`, below number `before`.
///
/// # Errors
/// The database failed.
pub async fn page(store: &Store, app_id: Option<AppId>, before: i64, limit: i64) -> Result<Vec<Event>> {
    let query = match app_id {
        Some(app_id) => sqlx::query(
            "SELECT * FROM event WHERE sequence < $1 AND app_id = $3 ORDER BY sequence DESC LIMIT $2",
        )
        .bind(before)
        .bind(limit)
        .bind(app_id.to_string()),
        None => sqlx::query("SELECT * FROM event WHERE sequence < $1 ORDER BY sequence DESC LIMIT $2")
            .bind(before)
            .bind(limit),
    };
    let rows = query.fetch_all(store.reader()).await.map_err(failed("read events"))?;
    rows.iter().map(event).collect()
}

fn event(row: &AnyRow) -> Result<Event> {
    Ok(Event {
        sequence: row.integer("sequence")?,
        app_id: row.optional_parsed("app_id")?,
        account_id: row.parsed("account_id")?,
        kind: row.text("kind")?,
        log_message: row.optional_text("log_message")?,
        email: row.text("email")?,
        remote_address: row.optional_text("remote_address")?,
        request_id: row.optional_text("request_id")?,
        created_at: row.integer("created_at")?,
    })
}
