//! `/teams/apps` and `/teams/T/apps`: the apps of teams; and every app on its way into a team or out of one.

use crate::api::apps::{Create, make, present_all, present_stored};
use crate::api::body::{Body, flag};
use crate::api::collaborators::{find_account, not_of_team};
use crate::api::links::Links;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get, post};
use crate::auth::{self, Authenticated, ManageApp, ViewApp, ViewMembers, find_team, require_app};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::team::TeamApp;
use ferroku_core::AccountId;
use ferroku_core::app::App;
use ferroku_core::authorize::Verb;
use ferroku_store::{apps, collaborators, team_members, teams};
use http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;

const SORT_FIELDS: [SortField<TeamApp>; 2] =
    [("name", SortBy::Text(|one| one.app.name.clone())), ("id", SortBy::Text(|one| one.app.id.to_string()))];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/teams/apps", post(create))
        .route("/teams/apps/{app}", get(show).patch(update))
        .route("/teams/{team}/apps", get(list))
        .route("/teams/{team}/members/{member}/apps", get(list_of_member))
}

#[derive(Deserialize)]
struct CreateInTeam {
    #[serde(default)]
    team: Option<String>,
    #[serde(flatten)]
    app: Create,
}

#[derive(Deserialize)]
struct Update {
    #[serde(default, deserialize_with = "flag")]
    locked: Option<bool>,
    /// A team's name or id, or an account's email address.
    #[serde(default)]
    owner: Option<String>,
}

async fn create(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    links: Links,
    Body(create): Body<CreateInTeam>,
) -> Result<(StatusCode, Json<TeamApp>), ApiError> {
    let team = match create.team.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => Some(find_team(&node, user.principal(), name, Verb::AddTeamApp).await?.id),
        None => None,
    };
    let app = make(&node, &user, create.app, team).await?;
    Ok((StatusCode::CREATED, Json(present(&node, &links, &app, &user).await?)))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, user }: ViewApp,
    links: Links,
) -> Result<Json<TeamApp>, ApiError> {
    if app.team_id.is_none() {
        return Err(not_of_team(&app));
    }
    Ok(Json(present(&node, &links, &app, &user).await?))
}

async fn update(
    State(node): State<Arc<Node>>,
    ManageApp { app, user }: ManageApp,
    links: Links,
    Body(update): Body<Update>,
) -> Result<Json<TeamApp>, ApiError> {
    let app = match (update.owner, update.locked) {
        (Some(owner), None) => transfer(&node, &user, &app, &owner).await?,
        (None, Some(locked)) => {
            if app.team_id.is_none() {
                return Err(not_of_team(&app));
            }
            apps::set_locked(&node.store, app.id, locked, &user.actor, now_ms()).await?
        }
        _ => return Err(ApiError::invalid_params("Give either `locked` or the new `owner`.")),
    };
    node.events.poke();
    Ok(Json(present(&node, &links, &app, &user).await?))
}

/// Gives an app to a team that the sender may bring apps into, or a team's app to one of its members. Out of a team only
/// its admins give one: everybody else there loses it.
async fn transfer(node: &Node, user: &Authenticated, app: &App, owner: &str) -> Result<App, ApiError> {
    require_app(node, user.principal(), app, Verb::Share).await?;
    if let Some(team_id) = app.team_id {
        find_team(node, user.principal(), &team_id.to_string(), Verb::ManageTeam).await?;
    }
    if !owner.contains('@') && teams::find(&node.store, owner).await?.is_some() {
        let team = find_team(node, user.principal(), owner, Verb::AddTeamApp).await?;
        return Ok(apps::give_to_team(&node.store, app.id, team.id, &user.actor, now_ms()).await?);
    }
    let team_id = app.team_id.ok_or_else(|| {
        ApiError::invalid_params(format!(
            "There is no team {owner}. To another account an app is offered: `heroku apps:transfer {owner} -a {}`.",
            app.name
        ))
    })?;
    let account = find_account(node, user, owner).await?;
    let is_member = teams::role(&node.store, team_id, account.id).await?.is_some();
    // Nobody finds themselves with an app that they have nothing to do with.
    if account.id != user.account.id && !is_member {
        return Err(ApiError::invalid_params(format!(
            "{} is not in the team that has {}. Transfer it to yourself, and offer it to them then.",
            account.email, app.name
        )));
    }
    Ok(apps::give_to_account(&node.store, app.id, account.id, &user.actor, now_ms()).await?)
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewMembers { team, user }: ViewMembers,
    links: Links,
    range: ListRange,
) -> Result<Response, ApiError> {
    let stored = apps::list_of_team(&node.store, team.id).await?;
    let joined = present_list(&node, &links, &stored, user.account.id).await?;
    Ok(range.answer(joined, &SORT_FIELDS))
}

/// The team's apps that a member has joined.
async fn list_of_member(
    State(node): State<Arc<Node>>,
    ViewMembers { team, .. }: ViewMembers,
    Path((_, name)): Path<(String, String)>,
    links: Links,
    range: ListRange,
) -> Result<Response, ApiError> {
    let member = team_members::find(&node.store, team.id, &name).await?;
    let member = member.ok_or_else(|| ApiError::not_found("team member"))?;
    let stored = apps::list_of_team(&node.store, team.id).await?;
    let mut all = present_list(&node, &links, &stored, member.account_id).await?;
    all.retain(|one| one.joined);
    Ok(range.answer(all, &SORT_FIELDS))
}

async fn present_list(
    node: &Node,
    links: &Links,
    stored: &[App],
    account_id: AccountId,
) -> Result<Vec<TeamApp>, ApiError> {
    let joined = collaborators::app_ids(&node.store, account_id).await?;
    let apps = present_all(node, links, stored).await?;
    let with = |(app, stored): (_, &App)| TeamApp { app, joined: joined.contains(&stored.id) };
    Ok(apps.into_iter().zip(stored).map(with).collect())
}

async fn present(node: &Node, links: &Links, app: &App, user: &Authenticated) -> Result<TeamApp, ApiError> {
    let granted = collaborators::permissions(&node.store, app.id, user.account.id).await?;
    Ok(TeamApp { app: present_stored(node, links, app).await?, joined: !granted.is_empty() })
}
