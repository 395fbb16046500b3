//! `/ferroku/accounts/X`: what an account may take of the node and what it takes, and how far the admin trusts it.
//!
//! Ours, not Heroku's. X is an id, an email address, or `~`. Everybody may see their own; the node's admins see all, and
//! change the trust: `PATCH {"trust": "trusted"}`.

use crate::api::body::Body;
use crate::api::routes::{Routes, get};
use crate::auth::{Administer, ViewAccount};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::rate_limit::{GIT_REQUESTS_PER_HOUR, REQUESTS_PER_HOUR};
use axum::Json;
use axum::extract::{Path, State};
use ferroku_core::account::Account;
use ferroku_core::authorize::Verb;
use ferroku_core::limits::{Limits, Trust, Usage};
use ferroku_store::{StoreError, accounts, limits};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// The endpoints.
pub fn routes() -> Routes {
    Routes::new().route("/ferroku/accounts/{account}", get(show).patch(update))
}

#[derive(Deserialize)]
struct Update {
    trust: Trust,
}

#[derive(Serialize)]
struct Shown {
    id: Uuid,
    email: String,
    trust: Trust,
    /// Of all of its apps together; none for the node's owner and admins.
    limits: Option<Limits>,
    usage: Usage,
    requests_per_hour: i64,
    git_requests_per_hour_and_app: i64,
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewAccount(user): ViewAccount,
    Path(name): Path<String>,
) -> Result<Json<Shown>, ApiError> {
    let account = &user.account;
    if name == "~" || name == account.id.to_string() || name.eq_ignore_ascii_case(&account.email) {
        return present(&node, account).await;
    }
    user.require(Verb::SeeNode)?;
    present(&node, &find(&node, &name).await?).await
}

async fn update(
    State(node): State<Arc<Node>>,
    Administer(user): Administer,
    Path(name): Path<String>,
    Body(update): Body<Update>,
) -> Result<Json<Shown>, ApiError> {
    let account = find(&node, &name).await?;
    limits::set_trust(&node.store, account.id, update.trust, &user.actor, now_ms()).await?;
    present(&node, &account).await
}

async fn find(node: &Node, name: &str) -> Result<Account, ApiError> {
    let found = match name.parse() {
        Ok(id) => accounts::find(&node.store, id).await?,
        Err(_) => accounts::find_by_email(&node.store, name).await?,
    };
    found.ok_or_else(|| ApiError::not_found("account"))
}

async fn present(node: &Node, account: &Account) -> Result<Json<Shown>, ApiError> {
    let failed = |source| StoreError::Query { action: "get a connection", source };
    let mut connection = node.store.reader().acquire().await.map_err(failed)?;
    let (trust, limits) = limits::of_account(&mut connection, account.id).await?;
    Ok(Json(Shown {
        id: account.id.0,
        email: account.email.clone(),
        trust,
        limits,
        usage: limits::usage(&mut connection, account.id).await?,
        requests_per_hour: REQUESTS_PER_HOUR,
        git_requests_per_hour_and_app: GIT_REQUESTS_PER_HOUR,
    }))
}
