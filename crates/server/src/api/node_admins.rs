//! `/admin/admins/EMAIL`: who runs the node beside its owner. Ours; Heroku has nothing like it in its API.

use crate::api::collaborators::find_account;
use crate::api::routes::{Routes, put};
use crate::auth::{Appoint, Authenticated};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use ferroku_core::account::Role;
use ferroku_store::accounts;
use serde::Serialize;
use std::sync::Arc;
use uuid::Uuid;

/// The endpoints.
pub fn routes() -> Routes {
    Routes::new().route("/admin/admins/{account}", put(appoint).delete(dismiss))
}

/// An account and what it is on the node.
#[derive(Serialize)]
struct Appointed {
    email: String,
    id: Uuid,
    role: Role,
}

async fn appoint(
    State(node): State<Arc<Node>>,
    Appoint(user): Appoint,
    Path(name): Path<String>,
) -> Result<Json<Appointed>, ApiError> {
    set_role(&node, &user, &name, Role::Admin).await
}

async fn dismiss(
    State(node): State<Arc<Node>>,
    Appoint(user): Appoint,
    Path(name): Path<String>,
) -> Result<Json<Appointed>, ApiError> {
    set_role(&node, &user, &name, Role::Member).await
}

async fn set_role(
    node: &Node,
    user: &Authenticated,
    name: &str,
    role: Role,
) -> Result<Json<Appointed>, ApiError> {
    let account = find_account(node, user, name).await?;
    if account.role == Role::Owner {
        return Err(ApiError::invalid_params(format!(
            "{} owns this node and stays its owner.",
            account.email
        )));
    }
    let account = accounts::set_role(&node.store, account.id, role, &user.actor, now_ms()).await?;
    node.events.poke();
    Ok(Json(Appointed { email: account.email, id: account.id.0, role: account.role }))
}
