//! `/teams/T/members`: who is in a team, and what they may do there.

use crate::api::body::Body;
use crate::api::collaborators::find_account;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, delete, get};
use crate::auth::{Authenticated, OwnAccessTeam, ShareTeam, ViewMembers, find_team};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::team::TeamMember;
use ferroku_core::authorize::Verb;
use ferroku_core::team::{Team, TeamMember as Stored, TeamRole};
use ferroku_store::team_members;
use http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;

const SORT_FIELDS: [SortField<TeamMember>; 2] = [
    ("email", SortBy::Text(|member| member.email.clone())),
    ("id", SortBy::Text(|member| member.id.to_string())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/teams/{team}/members", get(list).post(create).put(put).patch(update))
        .route("/teams/{team}/members/{member}", delete(destroy))
}

#[derive(Deserialize)]
struct Membership {
    /// Of an account of this node.
    email: String,
    role: String,
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewMembers { team, .. }: ViewMembers,
    range: ListRange,
) -> Result<Response, ApiError> {
    let stored = team_members::list(&node.store, team.id).await?;
    Ok(range.answer(stored.iter().map(TeamMember::from).collect(), &SORT_FIELDS))
}

/// Adds somebody who is not in the team yet.
async fn create(
    State(node): State<Arc<Node>>,
    ShareTeam { team, user }: ShareTeam,
    Body(wanted): Body<Membership>,
) -> Result<(StatusCode, Json<TeamMember>), ApiError> {
    if find(&node, &team, &wanted.email).await.is_ok() {
        let message = format!("{} is in the team {} already.", wanted.email, team.name);
        return Err(ApiError::invalid_params(message));
    }
    Ok((StatusCode::CREATED, write(&node, &team, &user, &wanted).await?))
}

/// Adds somebody, or gives them another role.
async fn put(
    State(node): State<Arc<Node>>,
    ShareTeam { team, user }: ShareTeam,
    Body(wanted): Body<Membership>,
) -> Result<Json<TeamMember>, ApiError> {
    write(&node, &team, &user, &wanted).await
}

/// Gives somebody in the team another role.
async fn update(
    State(node): State<Arc<Node>>,
    ShareTeam { team, user }: ShareTeam,
    Body(wanted): Body<Membership>,
) -> Result<Json<TeamMember>, ApiError> {
    find(&node, &team, &wanted.email).await?;
    write(&node, &team, &user, &wanted).await
}

/// Everybody may leave; to remove others is for the team's admins.
async fn destroy(
    State(node): State<Arc<Node>>,
    OwnAccessTeam { team, user }: OwnAccessTeam,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<TeamMember>, ApiError> {
    let own = [user.account.email.clone(), user.account.id.to_string()];
    if !own.contains(&name.to_lowercase()) {
        find_team(&node, user.principal(), &team.id.to_string(), Verb::ManageTeam).await?;
    }
    let stored = find(&node, &team, &name).await?;
    team_members::delete(&node.store, &stored, &user.actor, now_ms()).await?;
    node.events.poke();
    Ok(Json(TeamMember::from(&stored)))
}

async fn write(
    node: &Node,
    team: &Team,
    user: &Authenticated,
    wanted: &Membership,
) -> Result<Json<TeamMember>, ApiError> {
    let role = TeamRole::find(&wanted.role).ok_or_else(|| {
        let message = format!(
            "Invalid value for role: {:?} is none of admin, member, viewer, collaborator.",
            wanted.role
        );
        ApiError::invalid_params(message)
    })?;
    let account = find_account(node, user, &wanted.email).await?;
    team_members::put(&node.store, team.id, &account, role, &user.actor, now_ms()).await?;
    node.events.poke();
    Ok(Json(TeamMember::from(&find(node, team, &account.email).await?)))
}

async fn find(node: &Node, team: &Team, id_or_email: &str) -> Result<Stored, ApiError> {
    let found = team_members::find(&node.store, team.id, id_or_email).await?;
    found.ok_or_else(|| ApiError::not_found("team member"))
}
