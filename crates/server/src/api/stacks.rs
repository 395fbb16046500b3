//! `/stacks`: the root file systems that dynos can have.

use crate::api::routes::{Routes, get};
use crate::auth::Browse;
use crate::error::ApiError;
use crate::node::Node;
use axum::Json;
use axum::extract::{Path, State};
use ferroku_api::stack::Stack;
use std::sync::Arc;

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new().route("/stacks", get(list)).route("/stacks/{stack}", get(show))
}

async fn list(State(node): State<Arc<Node>>, _user: Browse) -> Result<Json<[Stack; 1]>, ApiError> {
    Ok(Json([stack(&node).await?]))
}

async fn show(
    State(node): State<Arc<Node>>,
    _user: Browse,
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
