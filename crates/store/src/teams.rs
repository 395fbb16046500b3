//! Teams.

use crate::events::NewEvent;
use crate::row::{Columns, failed, failed_or_taken, word};
use crate::{Result, Store, StoreError, events, team_members, write};
use ferroku_core::event::Actor;
use ferroku_core::team::{Team, TeamRole};
use ferroku_core::{AccountId, Millis, TeamId};
use sqlx::any::AnyRow;
use std::collections::BTreeMap;

/// Makes a team with the actor as its admin.
///
/// # Errors
/// [`StoreError::Taken`] when there is one of this name.
pub async fn create(store: &Store, id: TeamId, name: &str, actor: &Actor, now: Millis) -> Result<Team> {
    write!(store, tx => {
        let row = sqlx::query(
            "INSERT INTO team (id, name, created_at, updated_at) VALUES ($1, $2, $3, $3) RETURNING *",
        )
        .bind(id.to_string())
        .bind(name)
        .bind(now)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed_or_taken("create a team", "team name"))?;
        team_members::put_in(&mut tx, id, actor.account_id, TeamRole::Admin, now).await?;
        let event = NewEvent { app_id: None, actor, kind: "team.create", log_message: None };
        events::append(&mut tx, event, now).await?;
        team(&row)
    })
}

/// The team of this id or name.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, id_or_name: &str) -> Result<Option<Team>> {
    let row = sqlx::query("SELECT * FROM team WHERE id = $1 OR name = $1")
        .bind(id_or_name)
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find a team"))?;
    row.as_ref().map(team).transpose()
}

/// Every team by its id; a node has few.
///
/// # Errors
/// The database failed.
pub async fn all(store: &Store) -> Result<BTreeMap<TeamId, Team>> {
    let rows =
        sqlx::query("SELECT * FROM team").fetch_all(store.reader()).await.map_err(failed("list teams"))?;
    rows.iter().map(|row| team(row).map(|team| (team.id, team))).collect()
}

/// The teams that an account is in, by name, and what it is there.
///
/// # Errors
/// The database failed.
pub async fn list_for_account(store: &Store, account_id: AccountId) -> Result<Vec<(Team, TeamRole)>> {
    let rows = sqlx::query(
        "SELECT t.id, t.name, t.created_at, t.updated_at, m.role FROM team t \
         JOIN team_member m ON m.team_id = t.id WHERE m.account_id = $1 ORDER BY t.name",
    )
    .bind(account_id.to_string())
    .fetch_all(store.reader())
    .await
    .map_err(failed("list an account's teams"))?;
    rows.iter().map(|row| Ok((team(row)?, row.word("role")?))).collect()
}

/// Renames a team.
///
/// # Errors
/// [`StoreError::Taken`]; [`StoreError::NotFound`].
pub async fn rename(store: &Store, id: TeamId, name: &str, actor: &Actor, now: Millis) -> Result<Team> {
    write!(store, tx => {
        let row = sqlx::query("UPDATE team SET name = $1, updated_at = $2 WHERE id = $3 RETURNING *")
            .bind(name)
            .bind(now)
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed_or_taken("rename a team", "team name"))?
            .ok_or(StoreError::NotFound { what: "team" })?;
        let event = NewEvent { app_id: None, actor, kind: "team.update", log_message: None };
        events::append(&mut tx, event, now).await?;
        team(&row)
    })
}

/// Removes a team.
///
/// # Errors
/// [`StoreError::Refused`] while it has apps.
pub async fn delete(store: &Store, id: TeamId, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        let row = sqlx::query("SELECT COUNT(*) AS count FROM app WHERE team_id = $1")
            .bind(id.to_string())
            .fetch_one(&mut *tx)
            .await
            .map_err(failed("count a team's apps"))?;
        match row.integer("count")? {
            0 => {}
            count => return Err(StoreError::Refused(format!(
                "The team still has {count} apps. Destroy them, or transfer them to somebody, before you delete it."
            ))),
        }
        for statement in ["DELETE FROM team_member WHERE team_id = $1", "DELETE FROM team WHERE id = $1"] {
            sqlx::query(statement).bind(id.to_string()).execute(&mut *tx).await.map_err(failed("delete a team"))?;
        }
        let event = NewEvent { app_id: None, actor, kind: "team.destroy", log_message: None };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })
}

/// What the account is in the team.
///
/// # Errors
/// The database failed.
pub async fn role(store: &Store, team_id: TeamId, account_id: AccountId) -> Result<Option<TeamRole>> {
    let row = sqlx::query("SELECT role FROM team_member WHERE team_id = $1 AND account_id = $2")
        .bind(team_id.to_string())
        .bind(account_id.to_string())
        .fetch_optional(store.reader())
        .await
        .map_err(failed("look a team member up"))?;
    row.map(|row| row.word("role")).transpose()
}

/// How many admins the team has beside this account, inside a transaction.
pub(crate) async fn other_admins(
    tx: &mut crate::Connection,
    team_id: TeamId,
    account_id: AccountId,
) -> Result<i64> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS count FROM team_member WHERE team_id = $1 AND account_id <> $2 AND role = $3",
    )
    .bind(team_id.to_string())
    .bind(account_id.to_string())
    .bind(word(&TeamRole::Admin))
    .fetch_one(&mut *tx)
    .await
    .map_err(failed("count a team's admins"))?;
    row.integer("count")
}

fn team(row: &AnyRow) -> Result<Team> {
    Ok(Team {
        id: row.parsed("id")?,
        name: row.text("name")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
