//! `/apps`: create, list, show, change, destroy.

use crate::api::accounts::own;
use crate::api::body::{Body, flag};
use crate::api::links::Links;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{self, Authenticated, Browse, ChangeApp, ManageApp, ViewApp};
use crate::crash_point;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::app::App;
use ferroku_core::app::{
    App as Stored, DEFAULT_REGION, DEFAULT_STACK, check_name, random_name, resolve_stack,
};
use ferroku_core::authorize::Verb;
use ferroku_core::team::Team;
use ferroku_core::{AppId, TeamId};
use ferroku_store::apps::{AppChange, NewApp};
use ferroku_store::{StoreError, accounts, apps, domains, teams};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use uuid::Uuid;

/// How many random names are tried before the node gives up; with 90,000 numbers for each pair of words a second
/// try is rare already.
const NAME_ATTEMPTS: usize = 10;
const SORT_FIELDS: [SortField<App>; 2] =
    [("name", SortBy::Text(|app| app.name.clone())), ("id", SortBy::Text(|app| app.id.to_string()))];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/apps", get(list).post(create))
        .route("/apps/{app}", get(show).patch(update).delete(destroy))
        .route("/users/{user}/apps", get(list_of_user))
}

/// An app that is asked for.
#[derive(Deserialize)]
pub(super) struct Create {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    stack: Option<String>,
    #[serde(default)]
    space: Option<Value>,
}

#[derive(Deserialize)]
struct Update {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "flag")]
    maintenance: Option<bool>,
    #[serde(default)]
    build_stack: Option<String>,
}

async fn create(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    links: Links,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<App>), ApiError> {
    let app = make(&node, &user, create, None).await?;
    Ok((StatusCode::CREATED, Json(present_stored(&node, &links, &app).await?)))
}

/// Makes an app, in a team if one is given.
pub(super) async fn make(
    node: &Node,
    user: &Authenticated,
    create: Create,
    team: Option<TeamId>,
) -> Result<Stored, ApiError> {
    if create.space.is_some_and(|space| !space.is_null()) {
        return Err(ApiError::invalid_params("This node has no private spaces: leave `space` out."));
    }
    if let Some(region) = create.region.as_deref()
        && !is_own_region(region)
    {
        let message =
            format!("Region {region} is not available: this node is its only region, {DEFAULT_REGION}.");
        return Err(ApiError::invalid_params(message));
    }
    let stack = match create.stack.as_deref() {
        None => DEFAULT_STACK,
        Some(name) => known_stack(name)?,
    };
    let app = match create.name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => {
            check_name(name).map_err(ApiError::invalid_params)?;
            create_named(node, user, name, stack, team).await?.ok_or_else(|| taken(name))?
        }
        None => create_random(node, user, stack, team).await?,
    };
    crash_point::hit("app.created");
    node.events.poke();
    node.dynos.poke(app.id);
    Ok(app)
}

/// Makes an app of this name; None when the name is taken.
async fn create_named(
    node: &Node,
    user: &Authenticated,
    name: &str,
    stack: &str,
    team: Option<TeamId>,
) -> Result<Option<Stored>, ApiError> {
    let new = NewApp { id: AppId(Uuid::new_v4()), name, stack, region: DEFAULT_REGION };
    match apps::create_in(&node.store, &new, team, &user.actor, now_ms()).await {
        Ok(app) => Ok(Some(app)),
        Err(StoreError::Taken { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn create_random(
    node: &Node,
    user: &Authenticated,
    stack: &str,
    team: Option<TeamId>,
) -> Result<Stored, ApiError> {
    for _ in 0..NAME_ATTEMPTS {
        let (random, _) = Uuid::new_v4().as_u64_pair();
        // A version 4 UUID has six fixed bits, two of them here; the words and the number use the others.
        if let Some(app) = create_named(node, user, &random_name(random.rotate_left(16)), stack, team).await?
        {
            return Ok(app);
        }
    }
    Err(ApiError::unavailable("No free random name was found. Try again, or give the app a name."))
}

async fn list(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    links: Links,
    range: ListRange,
) -> Result<Response, ApiError> {
    let apps = if user.sees_every_app() {
        apps::list(&node.store).await?
    } else {
        apps::list_for_account(&node.store, user.account.id).await?
    };
    answer(&node, &links, &range, &apps).await
}

async fn list_of_user(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    Path(name): Path<String>,
    links: Links,
    range: ListRange,
) -> Result<Response, ApiError> {
    own(&user, &name)?;
    let mut apps = apps::list_for_account(&node.store, user.account.id).await?;
    // As on Heroku: the apps of teams are in the teams' lists.
    apps.retain(|app| app.team_id.is_none());
    answer(&node, &links, &range, &apps).await
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, user }: ViewApp,
    links: Links,
) -> Result<Json<App>, ApiError> {
    Ok(Json(match app.belongs_to(user.account.id) {
        true => present(&node, &links, &app, &user.account.email, None),
        false => present_stored(&node, &links, &app).await?,
    }))
}

async fn update(
    State(node): State<Arc<Node>>,
    ChangeApp { app, user }: ChangeApp,
    links: Links,
    Body(update): Body<Update>,
) -> Result<Json<App>, ApiError> {
    if update.maintenance.is_some() || update.build_stack.is_some() {
        auth::require_app(&node, user.principal(), &app, Verb::Operate).await?;
    }
    let mut change = AppChange { maintenance: update.maintenance, ..AppChange::default() };
    if let Some(name) = update.name.filter(|name| *name != app.name) {
        // Renaming takes the old name away from everybody: the owner's to do.
        auth::require_app(&node, user.principal(), &app, Verb::Manage).await?;
        check_name(&name).map_err(ApiError::invalid_params)?;
        let own_name = app.default_host(&node.config.domain);
        let below = format!(".{own_name}");
        let domains = domains::list(&node.store, app.id).await?;
        if let Some(left) = domains.iter().find(|domain| domain.hostname.ends_with(&below)) {
            // They would be served by this app under what may become another app's name.
            return Err(ApiError::invalid_params(format!(
                "{} is a name under {own_name}: remove it with `heroku domains:remove` before you rename the app.",
                left.hostname
            )));
        }
        change.name = Some(name);
    }
    if let Some(stack) = update.build_stack {
        change.build_stack = Some(known_stack(&stack)?.to_owned());
    }
    if change == AppChange::default() {
        return Ok(Json(present_stored(&node, &links, &app).await?));
    }
    let changed = apps::update(&node.store, app.id, &change, &user.actor, now_ms()).await;
    let app = match (changed, change.name) {
        (Err(StoreError::Taken { .. }), Some(name)) => return Err(taken(&name)),
        (changed, _) => changed?,
    };
    crash_point::hit("app.updated");
    node.events.poke();
    node.dynos.poke(app.id);
    Ok(Json(present_stored(&node, &links, &app).await?))
}

async fn destroy(
    State(node): State<Arc<Node>>,
    ManageApp { app, user }: ManageApp,
    links: Links,
) -> Result<Json<App>, ApiError> {
    let answer = present_stored(&node, &links, &app).await?;
    crash_point::hit("app.before_destroy");
    apps::destroy(&node.store, app.id, &user.actor, now_ms()).await?;
    crash_point::hit("app.destroyed");
    node.events.poke();
    node.dynos.poke(app.id);
    node.destructions.poke();
    Ok(Json(answer))
}

async fn answer(
    node: &Node,
    links: &Links,
    range: &ListRange,
    apps: &[Stored],
) -> Result<Response, ApiError> {
    Ok(range.answer(present_all(node, links, apps).await?, &SORT_FIELDS))
}

pub(super) async fn present_all(node: &Node, links: &Links, apps: &[Stored]) -> Result<Vec<App>, ApiError> {
    let emails = accounts::emails(&node.store).await?;
    let teams = teams::all(&node.store).await?;
    let email = |app: &Stored| emails.get(&app.owner_id).map_or("", String::as_str);
    let team = |app: &Stored| app.team_id.and_then(|id| teams.get(&id));
    Ok(apps.iter().map(|app| present(node, links, app, email(app), team(app))).collect())
}

pub(super) async fn present_stored(node: &Node, links: &Links, app: &Stored) -> Result<App, ApiError> {
    let owner =
        accounts::find(&node.store, app.owner_id).await?.ok_or_else(|| ApiError::not_found("account"))?;
    let team = match app.team_id {
        Some(id) => teams::find(&node.store, &id.to_string()).await?,
        None => None,
    };
    Ok(present(node, links, app, &owner.email, team.as_ref()))
}

fn present(node: &Node, links: &Links, app: &Stored, owner_email: &str, team: Option<&Team>) -> App {
    App::new(app, owner_email, team, links.git_url(&app.name), node.config.web_url(&app.name))
}

fn taken(name: &str) -> ApiError {
    ApiError::invalid_params(format!("Name {name} is already taken"))
}

/// A stack of this node's, by name or id.
///
/// # Errors
/// There is none.
pub(super) fn known_stack(name: &str) -> Result<&'static str, ApiError> {
    let by_id = ferroku_api::stack::reference(DEFAULT_STACK).id.to_string() == name;
    resolve_stack(name).or(by_id.then_some(DEFAULT_STACK)).ok_or_else(|| {
        ApiError::invalid_params(format!("Stack {name} is not available: this node has {DEFAULT_STACK}."))
    })
}

fn is_own_region(region: &str) -> bool {
    region == DEFAULT_REGION || region == ferroku_api::region::reference(DEFAULT_REGION).id.to_string()
}
