//! `/pipelines` and `/pipeline-couplings`: apps in stages.
//!
//! A pipeline is seen by its owner, by the members of the team that has it, and by whoever sees one of its apps; of its apps
//! everybody sees those that they see anyway. Its owner and the team's admins rename and destroy it. Who operates an app
//! puts it into a pipeline that they see, moves it and takes it out.

use crate::api::body::Body;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{self, Authenticated, Browse, ViewApp, find_app, find_team};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::Response;
use ferroku_api::pipeline::{Owner, OwnerKind, Pipeline, PipelineCoupling};
use ferroku_core::AppId;
use ferroku_core::app::App;
use ferroku_core::authorize::Verb;
use ferroku_core::pipeline::{Coupling, Pipeline as Stored, PipelineOwner, Stage, check_name};
use ferroku_store::{StoreError, apps, pipelines};
use http::StatusCode;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;

const SORT_FIELDS: [SortField<Pipeline>; 2] = [
    ("name", SortBy::Text(|pipeline| pipeline.name.clone())),
    ("id", SortBy::Text(|pipeline| pipeline.id.to_string())),
];
const COUPLING_SORT_FIELDS: [SortField<PipelineCoupling>; 2] = [
    ("id", SortBy::Text(|coupling| coupling.id.to_string())),
    ("name", SortBy::Text(|coupling| coupling.pipeline.name.clone())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/pipelines", get(list).post(create))
        .route("/pipelines/{pipeline}", get(show).patch(update).delete(destroy))
        .route("/pipelines/{pipeline}/pipeline-couplings", get(couplings))
        .route("/pipeline-couplings", get(all_couplings).post(couple))
        .route("/pipeline-couplings/{coupling}", get(show_coupling).patch(update_coupling).delete(uncouple))
        .route("/apps/{app}/pipeline-couplings", get(coupling_of_app))
}

#[derive(Deserialize)]
struct Filter {
    /// The one of this name, as the CLI asks for it.
    #[serde(rename = "eq[name]")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct Create {
    name: String,
    #[serde(default)]
    owner: Option<Owner>,
}

#[derive(Deserialize)]
struct Update {
    #[serde(default)]
    name: Option<String>,
}

#[derive(Deserialize)]
struct Couple {
    /// Name or id.
    app: String,
    pipeline: String,
    stage: Stage,
}

#[derive(Deserialize)]
struct Move {
    stage: Stage,
}

async fn list(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    Query(filter): Query<Filter>,
    range: ListRange,
) -> Result<Response, ApiError> {
    let mut all = seen(&node, &user).await?;
    if let Some(name) = filter.name {
        all.retain(|one| one.name == name);
    }
    Ok(range.answer(all.iter().map(Pipeline::from).collect(), &SORT_FIELDS))
}

async fn create(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Pipeline>), ApiError> {
    check_name(&create.name).map_err(ApiError::invalid_params)?;
    let owner = match create.owner {
        Some(Owner { id, kind: OwnerKind::Team }) => {
            let team = find_team(&node, user.principal(), &id.to_string(), Verb::AddTeamApp).await?;
            PipelineOwner::Team(team.id)
        }
        Some(Owner { id, kind: OwnerKind::User }) if id != user.account.id.0 => {
            return Err(ApiError::forbidden("A pipeline is its maker's, or a team's."));
        }
        _ => PipelineOwner::User(user.account.id),
    };
    let made = pipelines::create(&node.store, &create.name, owner, &user.actor, now_ms()).await;
    let pipeline = made.map_err(|error| taken(error, &create.name))?;
    Ok((StatusCode::CREATED, Json(Pipeline::from(&pipeline))))
}

async fn show(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    Path(pipeline): Path<String>,
) -> Result<Json<Pipeline>, ApiError> {
    Ok(Json(Pipeline::from(&find(&node, &user, &pipeline).await?)))
}

async fn update(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    Path(pipeline): Path<String>,
    Body(update): Body<Update>,
) -> Result<Json<Pipeline>, ApiError> {
    let mut stored = find_own(&node, &user, &pipeline).await?;
    if let Some(name) = update.name.filter(|name| *name != stored.name) {
        check_name(&name).map_err(ApiError::invalid_params)?;
        let renamed = pipelines::rename(&node.store, stored.id, &name, &user.actor, now_ms()).await;
        stored = renamed.map_err(|error| taken(error, &name))?;
    }
    Ok(Json(Pipeline::from(&stored)))
}

async fn destroy(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    Path(pipeline): Path<String>,
) -> Result<Json<Pipeline>, ApiError> {
    let stored = find_own(&node, &user, &pipeline).await?;
    pipelines::delete(&node.store, stored.id, &user.actor, now_ms()).await?;
    Ok(Json(Pipeline::from(&stored)))
}

async fn couplings(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    Path(pipeline): Path<String>,
    range: ListRange,
) -> Result<Response, ApiError> {
    let stored = find(&node, &user, &pipeline).await?;
    let all = pipelines::couplings(&node.store, stored.id).await?;
    answer(&node, &user, all, &range).await
}

async fn all_couplings(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    range: ListRange,
) -> Result<Response, ApiError> {
    let all = pipelines::all_couplings(&node.store).await?;
    answer(&node, &user, all, &range).await
}

async fn answer(
    node: &Node,
    user: &Authenticated,
    mut all: Vec<Coupling>,
    range: &ListRange,
) -> Result<Response, ApiError> {
    let visible: BTreeSet<AppId> = seen_apps(node, user).await?.iter().map(|app| app.id).collect();
    all.retain(|coupling| visible.contains(&coupling.app_id));
    Ok(range.answer(all.iter().map(PipelineCoupling::from).collect(), &COUPLING_SORT_FIELDS))
}

async fn couple(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    Body(couple): Body<Couple>,
) -> Result<(StatusCode, Json<PipelineCoupling>), ApiError> {
    let app = find_app(&node, user.principal(), &couple.app, Verb::Operate).await?;
    let pipeline = find_to_couple(&node, &user, &couple.pipeline).await?;
    let made = pipelines::couple(&node.store, &pipeline, &app, couple.stage, &user.actor, now_ms()).await?;
    node.events.poke();
    Ok((StatusCode::CREATED, Json(PipelineCoupling::from(&made))))
}

async fn show_coupling(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    Path(coupling): Path<String>,
) -> Result<Json<PipelineCoupling>, ApiError> {
    Ok(Json(PipelineCoupling::from(&find_coupling(&node, &user, &coupling, Verb::View).await?)))
}

async fn update_coupling(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    Path(coupling): Path<String>,
    Body(to): Body<Move>,
) -> Result<Json<PipelineCoupling>, ApiError> {
    let mut stored = find_coupling(&node, &user, &coupling, Verb::Operate).await?;
    pipelines::set_stage(&node.store, &stored, to.stage, &user.actor, now_ms()).await?;
    node.events.poke();
    stored.stage = to.stage;
    Ok(Json(PipelineCoupling::from(&stored)))
}

async fn uncouple(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    Path(coupling): Path<String>,
) -> Result<Json<PipelineCoupling>, ApiError> {
    let stored = find_coupling(&node, &user, &coupling, Verb::Operate).await?;
    pipelines::uncouple(&node.store, &stored, &user.actor, now_ms()).await?;
    node.events.poke();
    Ok(Json(PipelineCoupling::from(&stored)))
}

async fn coupling_of_app(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
) -> Result<Json<PipelineCoupling>, ApiError> {
    let stored = pipelines::coupling_of_app(&node.store, app.id).await?;
    let stored = stored.ok_or_else(|| ApiError::not_found("pipeline coupling"))?;
    Ok(Json(PipelineCoupling::from(&stored)))
}

/// The apps that somebody sees.
pub(super) async fn seen_apps(node: &Node, user: &Authenticated) -> Result<Vec<App>, ApiError> {
    Ok(match user.sees_every_app() {
        true => apps::list(&node.store).await?,
        false => apps::list_for_account(&node.store, user.account.id).await?,
    })
}

async fn seen(node: &Node, user: &Authenticated) -> Result<Vec<Stored>, ApiError> {
    Ok(match user.sees_every_app() {
        true => pipelines::list(&node.store).await?,
        false => pipelines::list_for_account(&node.store, user.account.id).await?,
    })
}

/// The pipeline of this id or name; to who does not see it there is none.
pub(super) async fn find(node: &Node, user: &Authenticated, id_or_name: &str) -> Result<Stored, ApiError> {
    let missing = || ApiError::not_found("pipeline");
    let stored = pipelines::find(&node.store, id_or_name).await?.ok_or_else(missing)?;
    seen(node, user).await?.into_iter().find(|one| one.id == stored.id).ok_or_else(missing)
}

/// The same, for who may rename and destroy it.
async fn find_own(node: &Node, user: &Authenticated, id_or_name: &str) -> Result<Stored, ApiError> {
    let stored = find(node, user, id_or_name).await?;
    match stored.owner {
        PipelineOwner::User(id) if id == user.account.id => {}
        // The node's owner changes whatever there is.
        PipelineOwner::User(_) if user.require(Verb::Appoint).is_ok() => {}
        PipelineOwner::User(_) => {
            return Err(ApiError::forbidden("Only the owner of a pipeline changes it."));
        }
        PipelineOwner::Team(id) => {
            find_team(node, user.principal(), &id.to_string(), Verb::ManageTeam).await?;
        }
    }
    Ok(stored)
}

/// The same, for who may take apps into it: what is promoted goes to them, so to see it is not enough.
async fn find_to_couple(node: &Node, user: &Authenticated, id_or_name: &str) -> Result<Stored, ApiError> {
    let stored = find(node, user, id_or_name).await?;
    for coupling in pipelines::couplings(&node.store, stored.id).await? {
        if find_app(node, user.principal(), &coupling.app_id.to_string(), Verb::Operate).await.is_ok() {
            return Ok(stored);
        }
    }
    find_own(node, user, id_or_name).await.map_err(|error| match error.status {
        http::StatusCode::FORBIDDEN => ApiError::forbidden(
            "Only the owner of a pipeline, and who may operate one of its apps, take apps into it.",
        ),
        _ => error,
    })
}

async fn find_coupling(
    node: &Node,
    user: &Authenticated,
    id: &str,
    verb: Verb,
) -> Result<Coupling, ApiError> {
    let missing = || ApiError::not_found("pipeline coupling");
    let stored = pipelines::find_coupling(&node.store, id).await?.ok_or_else(missing)?;
    find_app(node, user.principal(), &stored.app_id.to_string(), verb).await?;
    Ok(stored)
}

fn taken(error: StoreError, name: &str) -> ApiError {
    match error {
        StoreError::Taken { .. } => ApiError::invalid_params(format!("Name {name} is already taken")),
        error => error.into(),
    }
}
