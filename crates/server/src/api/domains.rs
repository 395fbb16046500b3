//! `/apps/X/domains`: the host name that each app has from its creation.

use crate::auth::ViewApp;
use crate::node::Node;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use ferroku_api::domain::Domain;
use std::sync::Arc;

/// The endpoints of this noun.
pub fn routes() -> Router<Arc<Node>> {
    Router::new().route("/apps/{app}/domains", get(list))
}

async fn list(State(node): State<Arc<Node>>, ViewApp { app, .. }: ViewApp) -> Json<[Domain; 1]> {
    Json([Domain::default_of(&app, &node.config.domain)])
}
