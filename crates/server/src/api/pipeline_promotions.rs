//! `/pipeline-promotions`: what runs in one app is released in others of its pipeline. And `/filters/apps`, by which clients
//! look up a pipeline's apps.
//!
//! Who promotes must be able to fetch the source's code and to push to the target, for that is what it comes to. A target
//! that somebody may not push to fails by itself; the others are promoted to.

use crate::api::apps::present_all;
use crate::api::body::Body;
use crate::api::links::Links;
use crate::api::pipelines::{find, seen_apps};
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get, post};
use crate::auth::{self, Authenticated, Browse, find_app};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::app::App;
use ferroku_api::pipeline::{PipelinePromotion, PipelinePromotionTarget};
use ferroku_core::AppId;
use ferroku_core::authorize::Verb;
use ferroku_core::pipeline::{MAX_TARGETS, Promotion};
use ferroku_core::release::{Release, ReleaseStatus};
use ferroku_store::pipelines::{self, NewPromotion};
use ferroku_store::{releases, slugs};
use http::StatusCode;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;

const SORT_FIELDS: [SortField<PipelinePromotionTarget>; 2] = [
    ("id", SortBy::Text(|target| target.id.to_string())),
    ("status", SortBy::Text(|target| format!("{:?}", target.status))),
];
const APP_SORT_FIELDS: [SortField<App>; 2] =
    [("id", SortBy::Text(|app| app.id.to_string())), ("name", SortBy::Text(|app| app.name.clone()))];
/// What a target says that may not be pushed to: Heroku's words.
const NO_ACCESS: &str = "User does not have access to that app";

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/filters/apps", post(filter))
        .route("/pipeline-promotions", post(create))
        .route("/pipeline-promotions/{promotion}", get(show))
        .route("/pipeline-promotions/{promotion}/promotion-targets", get(targets))
}

#[derive(Deserialize)]
struct Filter {
    #[serde(rename = "in")]
    within: Within,
}

#[derive(Deserialize)]
struct Within {
    id: Vec<String>,
}

#[derive(Deserialize)]
struct Create {
    pipeline: Reference,
    source: Source,
    targets: Vec<To>,
}

#[derive(Deserialize)]
struct Reference {
    id: String,
}

#[derive(Deserialize)]
struct Source {
    app: Reference,
    #[serde(default)]
    release: Option<Reference>,
}

#[derive(Deserialize)]
struct To {
    app: Reference,
}

/// Those of the apps asked for that the user sees.
async fn filter(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    links: Links,
    range: ListRange,
    Body(filter): Body<Filter>,
) -> Result<Response, ApiError> {
    let wanted: BTreeSet<&String> = filter.within.id.iter().collect();
    let mut apps = seen_apps(&node, &user).await?;
    apps.retain(|app| wanted.contains(&app.id.to_string()));
    Ok(range.answer(present_all(&node, &links, &apps).await?, &APP_SORT_FIELDS))
}

async fn create(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<PipelinePromotion>), ApiError> {
    let pipeline = find(&node, &user, &create.pipeline.id).await?;
    let source = find_app(&node, user.principal(), &create.source.app.id, Verb::Fetch).await?;
    let coupled: BTreeSet<AppId> =
        pipelines::couplings(&node.store, pipeline.id).await?.iter().map(|one| one.app_id).collect();
    let outside = |name: &str| {
        ApiError::invalid_params(format!("App {name} is not in the pipeline {}.", pipeline.name))
    };
    if !coupled.contains(&source.id) {
        return Err(outside(&source.name));
    }
    if create.targets.is_empty() || create.targets.len() > MAX_TARGETS {
        let message = format!("Name the apps to promote to (targets): 1 to {MAX_TARGETS}.");
        return Err(ApiError::invalid_params(message));
    }
    let mut targets: Vec<(AppId, Option<String>)> = Vec::new();
    for To { app } in &create.targets {
        let app_id: AppId = app.id.parse().map_err(|_| outside(&app.id))?;
        if !coupled.contains(&app_id) {
            return Err(outside(&app.id));
        }
        if app_id == source.id {
            return Err(ApiError::invalid_params("An app cannot be promoted to itself."));
        }
        if targets.iter().all(|(known, _)| *known != app_id) {
            let refused = find_app(&node, user.principal(), &app.id, Verb::Push).await.is_err();
            targets.push((app_id, refused.then(|| NO_ACCESS.to_owned())));
        }
    }
    let release = release(&node, source.id, create.source.release.as_ref()).await?;
    let slug = match release.slug_id {
        Some(slug_id) => slugs::find(&node.store, slug_id).await?,
        None => None,
    };
    let slug = slug.ok_or_else(|| {
        ApiError::invalid_params(format!("App {} has no code yet: nothing can be promoted.", source.name))
    })?;
    let new =
        NewPromotion { pipeline_id: pipeline.id, source: &source, release: &release, slug: &slug, targets };
    let promotion = pipelines::promote(&node.store, &new, &user.actor, now_ms()).await?;
    node.events.poke();
    for target in promotion.targets.iter().filter(|target| target.release.is_some()) {
        node.dynos.poke(target.app_id);
    }
    Ok((StatusCode::CREATED, Json(PipelinePromotion::from(&promotion))))
}

/// The release to be promoted: the one asked for, or the current one.
async fn release(node: &Node, app_id: AppId, wanted: Option<&Reference>) -> Result<Release, ApiError> {
    let missing = || ApiError::not_found("release");
    let Some(wanted) = wanted else {
        return releases::current(&node.store, app_id).await?.ok_or_else(missing);
    };
    let release = releases::find(&node.store, app_id, &wanted.id).await?.ok_or_else(missing)?;
    match release.status {
        ReleaseStatus::Succeeded => Ok(release),
        ReleaseStatus::Expired => Err(ApiError::invalid_params(format!(
            "Cannot promote v{}: its slug was removed to save space. Push that commit again.",
            release.version
        ))),
        _ => {
            Err(ApiError::invalid_params(format!("Cannot promote v{}: it did not succeed.", release.version)))
        }
    }
}

async fn show(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    Path(promotion): Path<String>,
) -> Result<Json<PipelinePromotion>, ApiError> {
    Ok(Json(PipelinePromotion::from(&find_promotion(&node, &user, &promotion).await?)))
}

async fn targets(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    Path(promotion): Path<String>,
    range: ListRange,
) -> Result<Response, ApiError> {
    let stored = find_promotion(&node, &user, &promotion).await?;
    let all = stored.targets.iter().map(|target| PipelinePromotionTarget::new(&stored, target));
    Ok(range.answer(all.collect(), &SORT_FIELDS))
}

/// A promotion in a pipeline that the user sees.
async fn find_promotion(node: &Node, user: &Authenticated, id: &str) -> Result<Promotion, ApiError> {
    let missing = || ApiError::not_found("pipeline promotion");
    let stored = pipelines::promotion(&node.store, id).await?.ok_or_else(missing)?;
    find(node, user, &stored.pipeline_id.to_string()).await.map_err(|_| missing())?;
    Ok(stored)
}
