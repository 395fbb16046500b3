//! `/stacks`: the root file systems that dynos can have.

use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::node::Node;
use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use ferroku_api::stack::Stack;
use std::sync::Arc;

/// The endpoints of this noun.
pub fn routes() -> Router<Arc<Node>> {
    Router::new().route("/stacks", get(list)).route("/stacks/{stack}", get(show))
}

async fn list(State(node): State<Arc<Node>>, _user: Authenticated) -> Result<Json<[Stack; 1]>, ApiError> {
    Ok(Json([stack(&node).await?]))
}

async fn show(
    State(node): State<Arc<Node>>,
    _user: Authenticated,
    Path(name): Path<String>,
) -> Result<Json<Stack>, ApiError> {
    let stack = stack(&node).await?;
    if name == stack.name || name == stack.id.to_string() {
        return Ok(Json(stack));
    }
    Err(ApiError::not_found("stack"))
}

async fn stack(node: &Node) -> Result<Stack, ApiError> {
    let created_at = ferroku_store::accounts::first_created_at(&node.store).await?;
    Ok(Stack::default_stack(created_at.into()))
}
