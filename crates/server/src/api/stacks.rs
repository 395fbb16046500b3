//! `/stacks`: the root file systems that dynos can have.

use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::Browse;
use crate::error::ApiError;
use crate::node::Node;
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::stack::Stack;
use std::sync::Arc;

const SORT_FIELDS: [SortField<Stack>; 2] =
    [("name", SortBy::Text(|stack| stack.name.clone())), ("id", SortBy::Text(|stack| stack.id.to_string()))];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new().route("/stacks", get(list)).route("/stacks/{stack}", get(show))
}

async fn list(State(node): State<Arc<Node>>, _user: Browse, range: ListRange) -> Result<Response, ApiError> {
    Ok(range.answer(vec![stack(&node).await?], &SORT_FIELDS))
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
