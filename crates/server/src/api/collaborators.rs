//! `/apps/X/collaborators`: who works on an app.

use crate::api::routes::{Routes, get};
use crate::auth::ViewApp;
use crate::error::ApiError;
use crate::node::Node;
use axum::Json;
use axum::extract::State;
use ferroku_api::collaborator::Collaborator;
use std::sync::Arc;

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new().route("/apps/{app}/collaborators", get(list))
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
) -> Result<Json<Vec<Collaborator>>, ApiError> {
    let stored = ferroku_store::collaborators::list(&node.store, app.id).await?;
    Ok(Json(stored.iter().map(|collaborator| Collaborator::new(collaborator, &app)).collect()))
}
