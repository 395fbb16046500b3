//! `/teams`: people who have apps together.

use crate::api::body::Body;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{self, Browse, ManageTeam, ViewMembers, ViewTeam};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::app_feature::AppFeature;
use ferroku_api::collaborator::Permission;
use ferroku_api::team::Team;
use ferroku_core::TeamId;
use ferroku_core::collaborator::Permission as Granted;
use ferroku_core::team::{Team as Stored, TeamRole, check_name};
use ferroku_store::{StoreError, teams};
use http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;
use uuid::Uuid;

/// The feature by which clients know that each collaborator of a team's app has permissions of their own.
const ACCESS_CONTROLS: &str = "org-access-controls";
const ACCESS_CONTROLS_ID: Uuid = Uuid::from_u128(0x7c0f_4a51_6f2e_4a3e_9c55_0d7a_9f0e_6b11);

const SORT_FIELDS: [SortField<Team>; 2] =
    [("name", SortBy::Text(|team| team.name.clone())), ("id", SortBy::Text(|team| team.id.to_string()))];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/teams", get(list).post(create))
        .route("/teams/permissions", get(permissions))
        .route("/teams/{team}", get(show).patch(update).delete(destroy))
        .route("/teams/{team}/features", get(features))
        .route("/teams/{team}/features/{feature}", get(feature))
        .route("/teams/{team}/invitations", get(no_invitations))
}

#[derive(Deserialize)]
struct Create {
    name: String,
}

#[derive(Deserialize)]
struct Update {
    #[serde(default)]
    name: Option<String>,
}

async fn list(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    range: ListRange,
) -> Result<Response, ApiError> {
    let stored = teams::list_for_account(&node.store, user.account.id).await?;
    let all = stored.iter().map(|(team, role)| Team::new(team, Some(*role))).collect();
    Ok(range.answer(all, &SORT_FIELDS))
}

async fn create(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Team>), ApiError> {
    check_name(&create.name).map_err(ApiError::invalid_params)?;
    let id = TeamId(Uuid::new_v4());
    let made = teams::create(&node.store, id, &create.name, &user.actor, now_ms()).await;
    let team = made.map_err(|error| taken(error, &create.name))?;
    Ok((StatusCode::CREATED, Json(Team::new(&team, Some(TeamRole::Admin)))))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewTeam { team, user }: ViewTeam,
) -> Result<Json<Team>, ApiError> {
    let role = teams::role(&node.store, team.id, user.account.id).await?;
    Ok(Json(Team::new(&team, role)))
}

async fn update(
    State(node): State<Arc<Node>>,
    ManageTeam { mut team, user }: ManageTeam,
    Body(update): Body<Update>,
) -> Result<Json<Team>, ApiError> {
    if let Some(name) = update.name.filter(|name| *name != team.name) {
        check_name(&name).map_err(ApiError::invalid_params)?;
        let renamed = teams::rename(&node.store, team.id, &name, &user.actor, now_ms()).await;
        team = renamed.map_err(|error| taken(error, &name))?;
    }
    let role = teams::role(&node.store, team.id, user.account.id).await?;
    Ok(Json(Team::new(&team, role)))
}

async fn destroy(
    State(node): State<Arc<Node>>,
    ManageTeam { team, user }: ManageTeam,
) -> Result<Json<Team>, ApiError> {
    let role = teams::role(&node.store, team.id, user.account.id).await?;
    teams::delete(&node.store, team.id, &user.actor, now_ms()).await?;
    Ok(Json(Team::new(&team, role)))
}

/// What may be given to collaborators of teams' apps.
async fn permissions(_user: Browse, range: ListRange) -> Response {
    let all = Granted::ALL.into_iter().map(Permission::from).collect();
    range.answer(all, &[("name", SortBy::Text(|permission: &Permission| permission.name.to_string()))])
}

async fn features(ViewTeam { team, .. }: ViewTeam, range: ListRange) -> Response {
    range.answer(
        vec![access_controls(&team)],
        &[("name", SortBy::Text(|feature: &AppFeature| feature.name.clone()))],
    )
}

async fn feature(
    ViewTeam { team, .. }: ViewTeam,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<AppFeature>, ApiError> {
    if name == ACCESS_CONTROLS || name == ACCESS_CONTROLS_ID.to_string() {
        return Ok(Json(access_controls(&team)));
    }
    Err(ApiError::not_found("feature"))
}

/// Whoever has an account is added at once; nobody is invited.
async fn no_invitations(_team: ViewMembers) -> Json<[(); 0]> {
    Json([])
}

fn access_controls(team: &Stored) -> AppFeature {
    AppFeature {
        created_at: team.created_at.into(),
        description: "Collaborators of the team's apps have permissions of their own".to_owned(),
        display_name: "Access Controls".to_owned(),
        doc_url: "https://devcenter.heroku.com/articles/app-permissions".to_owned(),
        enabled: true,
        feedback_email: String::new(),
        id: ACCESS_CONTROLS_ID,
        name: ACCESS_CONTROLS.to_owned(),
        state: "general".to_owned(),
        updated_at: team.created_at.into(),
    }
}

fn taken(error: StoreError, name: &str) -> ApiError {
    match error {
        StoreError::Taken { .. } => ApiError::invalid_params(format!("Name {name} is already taken")),
        error => error.into(),
    }
}
