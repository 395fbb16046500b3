//! `/apps/X/collaborators`: who works on an app.

use crate::auth::ViewApp;
use crate::error::ApiError;
use crate::node::Node;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use ferroku_api::collaborator::Collaborator;
use std::sync::Arc;

/// The endpoints of this noun.
pub fn routes() -> Router<Arc<Node>> {
    Router::new().route("/apps/{app}/collaborators", get(list))
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
) -> Result<Json<Vec<Collaborator>>, ApiError> {
    let stored = ferroku_store::collaborators::list(&node.store, app.id).await?;
    Ok(Json(stored.iter().map(|collaborator| Collaborator::new(collaborator, &app)).collect()))
}
