//! `GET /metrics`: for Prometheus, with the token of the node's owner or an admin.

use crate::api::routes::{Routes, get};
use crate::auth::SeeNode;
use crate::error::ApiError;
use crate::metrics::{Facts, render};
use crate::node::Node;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use ferroku_store::{apps, dynos, sni_endpoints};
use http::header::CONTENT_TYPE;
use std::sync::Arc;

/// Prometheus' text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The endpoint.
pub fn routes() -> Routes {
    Routes::new().route("/metrics", get(show))
}

async fn show(State(node): State<Arc<Node>>, _user: SeeNode) -> Result<Response, ApiError> {
    let names = apps::list(&node.store).await?.into_iter().map(|app| (app.id, app.name)).collect();
    let facts = Facts {
        names,
        dynos: dynos::counts(&node.store).await?,
        certificates: sni_endpoints::list_all(&node.store).await?,
    };
    node.metrics.take(node.router.metrics());
    Ok(([(CONTENT_TYPE, TEXT)], render(&node.metrics.totals(), &facts)).into_response())
}
