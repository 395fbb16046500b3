//! `/regions`: the node itself.

use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::Browse;
use crate::error::ApiError;
use crate::node::Node;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::region::Region;
use std::sync::Arc;

const SORT_FIELDS: [SortField<Region>; 2] = [
    ("name", SortBy::Text(|region| region.name.clone())),
    ("id", SortBy::Text(|region| region.id.to_string())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new().route("/regions", get(list)).route("/regions/{region}", get(show))
}

async fn list(State(node): State<Arc<Node>>, _user: Browse, range: ListRange) -> Result<Response, ApiError> {
    Ok(range.answer(vec![region(&node).await?], &SORT_FIELDS))
}

async fn show(
    State(node): State<Arc<Node>>,
    _user: Browse,
    Path(name): Path<String>,
) -> Result<Json<Region>, ApiError> {
    let region = region(&node).await?;
    if name == region.name || name == region.id.to_string() {
        return Ok(Json(region));
    }
    Err(ApiError::not_found("region"))
}

async fn region(node: &Node) -> Result<Region, ApiError> {
    let created_at = ferroku_store::accounts::first_created_at(&node.store).await?;
    Ok(Region::of_node(&node.config.domain, created_at.into()))
}
