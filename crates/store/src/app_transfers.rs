//! App transfers. One that is pending is void once its app has another owner.

use crate::events::NewEvent;
use crate::row::{Columns, failed, word};
use crate::{Connection, Result, Store, StoreError, apps, collaborators, events, write};
use ferroku_core::app::App;
use ferroku_core::app_transfer::{AppTransfer, TransferState};
use ferroku_core::collaborator::Permission::{Deploy, Operate, View};
use ferroku_core::event::Actor;
use ferroku_core::{AccountId, AppId, AppTransferId, Millis};
use sqlx::any::AnyRow;

const SELECT: &str = "SELECT t.id, t.app_id, t.owner_id, t.recipient_id, t.state, t.created_at, t.updated_at, \
     app.name AS app_name, o.email AS owner_email, r.email AS recipient_email FROM app_transfer t \
     JOIN app ON app.id = t.app_id JOIN account o ON o.id = t.owner_id JOIN account r ON r.id = t.recipient_id ";

/// Offers an account's own app to another.
///
/// # Errors
/// [`StoreError::Refused`] when it is offered to somebody already.
pub async fn create(
    store: &Store,
    id: AppTransferId,
    app: &App,
    recipient_id: AccountId,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        refuse_unless_owned(&mut tx, app.id, app.owner_id).await?;
        let pending = sqlx::query("SELECT id FROM app_transfer WHERE app_id = $1 AND state = $2")
            .bind(app.id.to_string())
            .bind(word(&TransferState::Pending))
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed("look for a transfer"))?;
        if pending.is_some() {
            return Err(StoreError::Refused(format!("A transfer of {} is pending already.", app.name)));
        }
        sqlx::query(
            "INSERT INTO app_transfer (id, app_id, owner_id, recipient_id, state, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $6)",
        )
        .bind(id.to_string())
        .bind(app.id.to_string())
        .bind(app.owner_id.to_string())
        .bind(recipient_id.to_string())
        .bind(word(&TransferState::Pending))
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(failed("create a transfer"))?;
        let event = NewEvent { app_id: Some(app.id), actor, kind: "app_transfer.create", log_message: None };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })
}

/// The transfers from and to an account, oldest first.
///
/// # Errors
/// The database failed.
pub async fn list_for_account(store: &Store, account_id: AccountId) -> Result<Vec<AppTransfer>> {
    let statement =
        format!("{SELECT} WHERE t.owner_id = $1 OR t.recipient_id = $1 ORDER BY t.created_at, t.id");
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(account_id.to_string())
        .fetch_all(store.reader())
        .await
        .map_err(failed("list transfers"))?;
    rows.iter().map(transfer).collect()
}

/// Ends a pending transfer: the app becomes the recipient's, and its former owner a collaborator, or nothing changes.
///
/// # Errors
/// [`StoreError::Refused`] when it is not pending any more.
pub async fn decide(
    store: &Store,
    transfer: &AppTransfer,
    state: TransferState,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        let changed = sqlx::query("UPDATE app_transfer SET state = $1, updated_at = $2 WHERE id = $3 AND state = $4")
            .bind(word(&state))
            .bind(now)
            .bind(transfer.id.to_string())
            .bind(word(&TransferState::Pending))
            .execute(&mut *tx)
            .await
            .map_err(failed("end a transfer"))?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::Refused("That transfer is not pending any more.".to_owned()));
        }
        if state == TransferState::Accepted {
            let (app_id, former) = (transfer.app_id, transfer.owner_id);
            refuse_unless_owned(&mut tx, app_id, former).await?;
            apps::set_owner(&mut tx, app_id, transfer.recipient_id, now).await?;
            collaborators::put(&mut tx, app_id, former, &[View, Deploy, Operate].into(), now).await?;
        }
        let kind = match state {
            TransferState::Accepted => "app.transfer",
            _ => "app_transfer.update",
        };
        let event = NewEvent { app_id: Some(transfer.app_id), actor, kind, log_message: None };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })
}

/// Takes a transfer back.
///
/// # Errors
/// The database failed.
pub async fn delete(store: &Store, transfer: &AppTransfer, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query("DELETE FROM app_transfer WHERE id = $1")
            .bind(transfer.id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("delete a transfer"))?;
        let event =
            NewEvent { app_id: Some(transfer.app_id), actor, kind: "app_transfer.destroy", log_message: None };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })
}

/// Removes what is pending of an app that is given away otherwise, inside a transaction.
pub(crate) async fn forget_pending(tx: &mut Connection, app_id: AppId) -> Result<()> {
    sqlx::query("DELETE FROM app_transfer WHERE app_id = $1 AND state = $2")
        .bind(app_id.to_string())
        .bind(word(&TransferState::Pending))
        .execute(&mut *tx)
        .await
        .map_err(failed("delete a pending transfer"))?;
    Ok(())
}

/// Refuses when the app is not this account's own any more: it may have gone into a team, or to somebody else.
async fn refuse_unless_owned(tx: &mut Connection, app_id: AppId, owner_id: AccountId) -> Result<()> {
    let row = sqlx::query("SELECT id FROM app WHERE id = $1 AND owner_id = $2 AND team_id IS NULL")
        .bind(app_id.to_string())
        .bind(owner_id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("look an app's owner up"))?;
    row.map(|_| ()).ok_or_else(|| {
        StoreError::Refused(
            "That app is not its former owner's any more: nobody can transfer it so.".to_owned(),
        )
    })
}

fn transfer(row: &AnyRow) -> Result<AppTransfer> {
    Ok(AppTransfer {
        id: row.parsed("id")?,
        app_id: row.parsed("app_id")?,
        app_name: row.text("app_name")?,
        owner_id: row.parsed("owner_id")?,
        owner_email: row.text("owner_email")?,
        recipient_id: row.parsed("recipient_id")?,
        recipient_email: row.text("recipient_email")?,
        state: row.word("state")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
