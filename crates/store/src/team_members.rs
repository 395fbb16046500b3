//! Who is in a team. A team never loses its last admin.

use crate::events::NewEvent;
use crate::row::{Columns, failed, word};
use crate::{Connection, Result, Store, StoreError, collaborators, events, teams, write};
use ferroku_core::account::Account;
use ferroku_core::event::Actor;
use ferroku_core::team::{TeamMember, TeamRole};
use ferroku_core::{AccountId, Millis, TeamId};
use sqlx::any::AnyRow;
use uuid::Uuid;

/// The team's members, by email address.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store, team_id: TeamId) -> Result<Vec<TeamMember>> {
    let rows = sqlx::query(
        "SELECT m.id, m.team_id, m.account_id, m.role, m.created_at, m.updated_at, a.email, a.name \
         FROM team_member m JOIN account a ON a.id = m.account_id WHERE m.team_id = $1 ORDER BY a.email",
    )
    .bind(team_id.to_string())
    .fetch_all(store.reader())
    .await
    .map_err(failed("list a team's members"))?;
    rows.iter().map(member).collect()
}

/// The team's member of this email address or id (its own or its account's).
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, team_id: TeamId, id_or_email: &str) -> Result<Option<TeamMember>> {
    let key = id_or_email.to_lowercase();
    let is_meant =
        |one: &TeamMember| one.email == key || one.id.to_string() == key || one.account_id.to_string() == key;
    Ok(list(store, team_id).await?.into_iter().find(is_meant))
}

/// Adds an account to a team, or gives it another role there. Whoever is no member any more manages none of its apps.
///
/// # Errors
/// [`StoreError::Refused`] when the team would be left without an admin.
pub async fn put(
    store: &Store,
    team_id: TeamId,
    account: &Account,
    role: TeamRole,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        if role != TeamRole::Admin {
            refuse_last_admin(&mut tx, team_id, account.id, &account.email).await?;
        }
        let before = role_in(&mut tx, team_id, account.id).await?;
        if matches!(before, Some(TeamRole::Admin | TeamRole::Member))
            && matches!(role, TeamRole::Viewer | TeamRole::Collaborator)
        {
            // Their rows of apps that they made would let them go on as before.
            collaborators::demote_in_team(&mut tx, team_id, account.id, now).await?;
        }
        put_in(&mut tx, team_id, account.id, role, now).await?;
        let event = NewEvent { app_id: None, actor, kind: "team_member.update", log_message: None };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })
}

/// Takes an account out of a team, and its access to the team's apps away.
///
/// # Errors
/// [`StoreError::Refused`] when the team would be left without an admin.
pub async fn delete(store: &Store, member: &TeamMember, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        refuse_last_admin(&mut tx, member.team_id, member.account_id, &member.email).await?;
        sqlx::query("DELETE FROM team_member WHERE team_id = $1 AND account_id = $2")
            .bind(member.team_id.to_string())
            .bind(member.account_id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("remove a team member"))?;
        collaborators::delete_of_team(&mut tx, member.team_id, member.account_id).await?;
        let event = NewEvent { app_id: None, actor, kind: "team_member.destroy", log_message: None };
        events::append(&mut tx, event, now).await?;
        Ok(())
    })
}

/// Takes an account out of all its teams, inside a transaction.
///
/// # Errors
/// [`StoreError::Refused`] when one of them would be left without an admin.
pub(crate) async fn leave_all(tx: &mut Connection, account_id: AccountId) -> Result<()> {
    let rows = sqlx::query(
        "SELECT t.name FROM team_member m JOIN team t ON t.id = m.team_id WHERE m.account_id = $1 AND m.role = $2 \
         AND NOT EXISTS (SELECT 1 FROM team_member o WHERE o.team_id = m.team_id AND o.account_id <> $1 \
         AND o.role = $2) ORDER BY t.name",
    )
    .bind(account_id.to_string())
    .bind(word(&TeamRole::Admin))
    .fetch_all(&mut *tx)
    .await
    .map_err(failed("look for teams without another admin"))?;
    let names = rows.iter().map(|row| row.text("name")).collect::<Result<Vec<_>>>()?;
    if !names.is_empty() {
        return Err(StoreError::Refused(format!(
            "The account is the last admin of {}. Make somebody else an admin, or delete the team, first.",
            names.join(", ")
        )));
    }
    sqlx::query("DELETE FROM team_member WHERE account_id = $1")
        .bind(account_id.to_string())
        .execute(&mut *tx)
        .await
        .map_err(failed("leave an account's teams"))?;
    Ok(())
}

/// Writes the account's role, inside a transaction.
pub(crate) async fn put_in(
    tx: &mut Connection,
    team_id: TeamId,
    account_id: AccountId,
    role: TeamRole,
    now: Millis,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO team_member (id, team_id, account_id, role, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $5) \
         ON CONFLICT (team_id, account_id) DO UPDATE SET role = excluded.role, updated_at = excluded.updated_at",
    )
    .bind(Uuid::new_v4().to_string())
    .bind(team_id.to_string())
    .bind(account_id.to_string())
    .bind(word(&role))
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(failed("add a team member"))?;
    Ok(())
}

/// Refuses when the account is the only admin: it is about to be none any more.
async fn refuse_last_admin(
    tx: &mut Connection,
    team_id: TeamId,
    account_id: AccountId,
    email: &str,
) -> Result<()> {
    let role = role_in(tx, team_id, account_id).await?;
    if role == Some(TeamRole::Admin) && teams::other_admins(tx, team_id, account_id).await? == 0 {
        return Err(StoreError::Refused(format!(
            "{email} is the team's last admin. Make somebody else an admin first."
        )));
    }
    Ok(())
}

async fn role_in(tx: &mut Connection, team_id: TeamId, account_id: AccountId) -> Result<Option<TeamRole>> {
    let row = sqlx::query("SELECT role FROM team_member WHERE team_id = $1 AND account_id = $2")
        .bind(team_id.to_string())
        .bind(account_id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("look a team member up"))?;
    row.map(|row| row.word("role")).transpose()
}

fn member(row: &AnyRow) -> Result<TeamMember> {
    Ok(TeamMember {
        id: row.parsed("id")?,
        team_id: row.parsed("team_id")?,
        account_id: row.parsed("account_id")?,
        email: row.text("email")?,
        name: row.optional_text("name")?,
        role: row.word("role")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
