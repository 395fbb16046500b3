//! `/apps/X/features`: switches of how the router treats an app, and of who gets into its dynos.

use crate::api::body::{Body, flag};
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{OperateApp, ViewApp};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::app_feature::AppFeature;
use ferroku_core::app::App;
use ferroku_core::app_feature::{FEATURES, Feature};
use ferroku_store::app_features;
use serde::Deserialize;
use std::sync::Arc;

const SORT_FIELDS: [SortField<AppFeature>; 2] = [
    ("name", SortBy::Text(|feature| feature.name.clone())),
    ("id", SortBy::Text(|feature| feature.id.to_string())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/apps/{app}/features", get(list))
        .route("/apps/{app}/features/{feature}", get(show).patch(update))
}

#[derive(Deserialize)]
struct Update {
    #[serde(default, deserialize_with = "flag")]
    enabled: Option<bool>,
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    range: ListRange,
) -> Result<Response, ApiError> {
    let all = all(&node, &app).await?;
    Ok(range.answer(all.into_iter().map(|(_, feature)| feature).collect(), &SORT_FIELDS))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<AppFeature>, ApiError> {
    Ok(Json(find(&node, &app, &name).await?.1))
}

async fn update(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Path((_, name)): Path<(String, String)>,
    Body(update): Body<Update>,
) -> Result<Json<AppFeature>, ApiError> {
    let (feature, shown) = find(&node, &app, &name).await?;
    let enabled = update
        .enabled
        .ok_or_else(|| ApiError::invalid_params("Invalid request: missing field `enabled`."))?;
    if shown.enabled != enabled {
        app_features::set(&node.store, app.id, feature.name, enabled, &user.actor, now_ms()).await?;
        node.events.poke();
        node.dynos.poke(app.id);
    }
    Ok(Json(find(&node, &app, feature.name).await?.1))
}

async fn find(node: &Node, app: &App, id_or_name: &str) -> Result<(&'static Feature, AppFeature), ApiError> {
    let named = |shown: &AppFeature| shown.name == id_or_name || shown.id.to_string() == id_or_name;
    let found = all(node, app).await?.into_iter().find(|(_, shown)| named(shown));
    found.ok_or_else(|| ApiError::not_found("feature"))
}

async fn all(node: &Node, app: &App) -> Result<Vec<(&'static Feature, AppFeature)>, ApiError> {
    let switched = app_features::list(&node.store, app.id).await?;
    let present = |feature| (feature, AppFeature::new(feature, app, &switched));
    Ok(FEATURES.iter().map(present).collect())
}
