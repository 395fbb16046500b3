//! `/apps/X/collaborators` and `/teams/apps/X/collaborators`: who works on an app.
//!
//! A personal app's collaborators all may do the same; on a team's app each has permissions of their own.

use crate::api::body::Body;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{Authenticated, OwnAccessApp, ShareApp, ViewApp, require_app};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::people;
use crate::people::throttle::MISSES_PER_ACCOUNT;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::collaborator::Collaborator;
use ferroku_core::account::{Account, Role};
use ferroku_core::app::App;
use ferroku_core::authorize::Verb;
use ferroku_core::collaborator::Permission::{self, Deploy, Operate, View};
use ferroku_core::collaborator::{Collaborator as Stored, Permissions};
use ferroku_core::team::TeamRole;
use ferroku_store::{StoreError, accounts, collaborators, team_members, teams};
use http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;

/// What a collaborator may do who was given no permissions of their own: all that Heroku's may on a personal app.
const DEFAULT: [Permission; 3] = [View, Deploy, Operate];

const SORT_FIELDS: [SortField<Collaborator>; 2] = [
    ("email", SortBy::Text(|collaborator| collaborator.user.email.clone())),
    ("id", SortBy::Text(|collaborator| collaborator.id.to_string())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/apps/{app}/collaborators", get(list).post(create))
        .route("/apps/{app}/collaborators/{collaborator}", get(show).delete(destroy))
        .route("/teams/apps/{app}/collaborators", get(list).post(create_in_team))
        .route("/teams/apps/{app}/collaborators/{collaborator}", get(show).patch(update).delete(destroy))
}

#[derive(Deserialize)]
struct Create {
    /// Email address.
    user: String,
}

#[derive(Deserialize)]
struct CreateInTeam {
    user: String,
    #[serde(default)]
    permissions: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Update {
    permissions: Vec<String>,
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    range: ListRange,
) -> Result<Response, ApiError> {
    let stored = collaborators::list(&node.store, app.id).await?;
    let members = match app.team_id {
        Some(team_id) => team_members::list(&node.store, team_id).await?,
        None => Vec::new(),
    };
    let role =
        |one: &Stored| members.iter().find(|member| member.account_id == one.account_id).map(|one| one.role);
    let present = |one: &Stored| Collaborator::new(one, &app, role_shown(&app, role(one)));
    Ok(range.answer(stored.iter().map(present).collect(), &SORT_FIELDS))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<Collaborator>, ApiError> {
    let stored = find(&node, &app, &name).await?;
    Ok(Json(present(&node, &app, &stored).await?))
}

async fn create(
    State(node): State<Arc<Node>>,
    ShareApp { app, user }: ShareApp,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Collaborator>), ApiError> {
    let account = find_account(&node, &user, &create.user).await?;
    add(&node, &app, &user, &account, &DEFAULT.into()).await
}

/// Adds somebody to a team's app; a member of the team may add themselves (`apps:join`) unless it is locked.
async fn create_in_team(
    State(node): State<Arc<Node>>,
    OwnAccessApp { app, user }: OwnAccessApp,
    Body(create): Body<CreateInTeam>,
) -> Result<(StatusCode, Json<Collaborator>), ApiError> {
    let team_id = app.team_id.ok_or_else(|| not_of_team(&app))?;
    let shares = require_app(&node, user.principal(), &app, Verb::Share).await;
    let own = [user.account.email.clone(), user.account.id.to_string()];
    if shares.is_err() && own.contains(&create.user.to_lowercase()) {
        let role = teams::role(&node.store, team_id, user.account.id).await?;
        if !matches!(role, Some(TeamRole::Admin | TeamRole::Member)) {
            return Err(ApiError::forbidden(format!(
                "Only the team's members can join {} by themselves. Ask somebody who manages it to add you.",
                app.name
            )));
        }
        if app.locked {
            return Err(ApiError::forbidden(format!(
                "The app {} is locked: its team's members cannot join it. Ask somebody who manages it to add you.",
                app.name
            )));
        }
        return add(&node, &app, &user, &user.account, &DEFAULT.into()).await;
    }
    shares?;
    let account = find_account(&node, &user, &create.user).await?;
    let permissions = match create.permissions {
        Some(names) => read(&names)?,
        None => DEFAULT.into(),
    };
    add(&node, &app, &user, &account, &permissions).await
}

async fn update(
    State(node): State<Arc<Node>>,
    ShareApp { app, user }: ShareApp,
    Path((_, name)): Path<(String, String)>,
    Body(update): Body<Update>,
) -> Result<Json<Collaborator>, ApiError> {
    if app.team_id.is_none() {
        return Err(not_of_team(&app));
    }
    let permissions = read(&update.permissions)?;
    let stored = find(&node, &app, &name).await?;
    collaborators::update(&node.store, &stored, &permissions, &user.actor, now_ms()).await?;
    node.events.poke();
    let stored = find(&node, &app, &name).await?;
    Ok(Json(present(&node, &app, &stored).await?))
}

/// Everybody may leave; to remove others is for those who manage the app.
async fn destroy(
    State(node): State<Arc<Node>>,
    OwnAccessApp { app, user }: OwnAccessApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<Collaborator>, ApiError> {
    let stored = find(&node, &app, &name).await?;
    if stored.account_id != user.account.id {
        require_app(&node, user.principal(), &app, Verb::Manage).await?;
    }
    if app.belongs_to(stored.account_id) {
        return Err(ApiError::invalid_params(format!(
            "{} owns {}. Transfer the app to somebody else first: `heroku apps:transfer`.",
            stored.email, app.name
        )));
    }
    let answer = present(&node, &app, &stored).await?;
    collaborators::delete(&node.store, &stored, &user.actor, now_ms()).await?;
    node.events.poke();
    Ok(Json(answer))
}

async fn add(
    node: &Node,
    app: &App,
    user: &Authenticated,
    account: &Account,
    permissions: &Permissions,
) -> Result<(StatusCode, Json<Collaborator>), ApiError> {
    let added = collaborators::add(&node.store, app.id, account, permissions, &user.actor, now_ms()).await;
    match added {
        Err(StoreError::Taken { .. }) => {
            let message = format!("{} is a collaborator of {} already.", account.email, app.name);
            return Err(ApiError::invalid_params(message));
        }
        added => added?,
    }
    node.events.poke();
    let stored = find(node, app, &account.email).await?;
    Ok((StatusCode::CREATED, Json(present(node, app, &stored).await?)))
}

/// The account of this email address, which `user` names.
///
/// # Errors
/// 422 when there is none: it is what a request names, not where it goes; 429 after [`MISSES_PER_ACCOUNT`] of these in an
/// hour, except for those who run the node.
pub(super) async fn find_account(
    node: &Node,
    user: &Authenticated,
    email: &str,
) -> Result<Account, ApiError> {
    let is_limited = user.account.role == Role::Member;
    if is_limited && !node.throttle.look_up(user.account.id, now_ms()) {
        return Err(ApiError::rate_limit(format!(
            "You named more than {MISSES_PER_ACCOUNT} addresses without an account in an hour. Try again later, or ask the \
             node's admin."
        )));
    }
    // By no id: it would tell the address behind it.
    let found = match people::email(email) {
        Ok(email) => accounts::find_by_email(&node.store, &email).await?,
        Err(_) => None,
    };
    let account = found.ok_or_else(|| {
        ApiError::invalid_params(format!(
            "There is no account {email} on this node. Whoever it is must have one first: ask the node's admin."
        ))
    })?;
    if is_limited {
        node.throttle.found(user.account.id);
    }
    Ok(account)
}

/// The refusal of what only teams' apps have.
pub(super) fn not_of_team(app: &App) -> ApiError {
    ApiError::invalid_params(format!("The app {} is not owned by a team.", app.name))
}

async fn find(node: &Node, app: &App, id_or_email: &str) -> Result<Stored, ApiError> {
    let found = collaborators::find(&node.store, app.id, id_or_email).await?;
    found.ok_or_else(|| ApiError::not_found("collaborator"))
}

async fn present(node: &Node, app: &App, stored: &Stored) -> Result<Collaborator, ApiError> {
    let role = match app.team_id {
        Some(team_id) => teams::role(&node.store, team_id, stored.account_id).await?,
        None => None,
    };
    Ok(Collaborator::new(stored, app, role_shown(app, role)))
}

/// Whoever works on a team's app without being in the team is its collaborator.
fn role_shown(app: &App, role: Option<TeamRole>) -> Option<TeamRole> {
    app.team_id.map(|_| role.unwrap_or(TeamRole::Collaborator))
}

/// Permissions by their names; to view always goes with them, as on Heroku.
fn read(names: &[String]) -> Result<Permissions, ApiError> {
    let mut permissions = Permissions::from([View]);
    for name in names {
        let known = Permission::ALL.into_iter().find(|permission| permission.name() == name.trim());
        permissions.insert(known.ok_or_else(|| {
            let message =
                format!("Invalid value for permissions: {name:?} is none of view, deploy, operate, manage.");
            ApiError::invalid_params(message)
        })?);
    }
    Ok(permissions)
}
