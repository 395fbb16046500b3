//! `/apps/X/slugs/S`: what a build made.

use crate::api::links::Links;
use crate::api::routes::{Routes, get};
use crate::auth::ViewApp;
use crate::error::ApiError;
use crate::node::Node;
use axum::Json;
use axum::extract::{Path, State};
use ferroku_api::slug::Slug;
use ferroku_core::SlugId;
use ferroku_store::slugs;
use std::sync::Arc;

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new().route("/apps/{app}/slugs/{slug}", get(show))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    links: Links,
    Path((_, slug)): Path<(String, String)>,
) -> Result<Json<Slug>, ApiError> {
    let missing = || ApiError::not_found("slug");
    let id: SlugId = slug.parse().map_err(|_| missing())?;
    let stored = slugs::find(&node.store, id).await?;
    let stored = stored.filter(|slug| slug.app_id == app.id).ok_or_else(missing)?;
    let blob_url = links.url(format_args!("/apps/{}/slugs/{id}", app.id));
    Ok(Json(Slug::new(&stored, blob_url)))
}
