//! `/account`, `/users/~` and the account's rate limit.

use crate::api::body::Body;
use crate::api::routes::{Routes, get};
use crate::auth::{Authenticated, ChangeAccount, ViewAccount};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use ferroku_api::account::Account;
use ferroku_api::rate_limit::RateLimit;
use serde::Deserialize;
use std::sync::Arc;

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/account", get(show).patch(update))
        .route("/account/rate-limits", get(rate_limit))
        .route("/users/{user}", get(show_user))
}

async fn show(ViewAccount(user): ViewAccount) -> Json<Account> {
    Json(Account::from(&user.account))
}

#[derive(Deserialize)]
struct Update {
    #[serde(default)]
    name: Option<String>,
}

async fn update(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Body(update): Body<Update>,
) -> Result<Json<Account>, ApiError> {
    let Some(name) = update.name else { return Ok(Json(Account::from(&user.account))) };
    let account =
        ferroku_store::accounts::rename(&node.store, user.account.id, &name, &user.actor, now_ms()).await?;
    Ok(Json(Account::from(&account)))
}

async fn show_user(
    ViewAccount(user): ViewAccount,
    Path(name): Path<String>,
) -> Result<Json<Account>, ApiError> {
    own(&user, &name)?;
    Ok(Json(Account::from(&user.account)))
}

async fn rate_limit(State(node): State<Arc<Node>>, ViewAccount(user): ViewAccount) -> Json<RateLimit> {
    Json(RateLimit { remaining: node.rate_limits.remaining(user.account.id, now_ms()) })
}

/// Refuses unless `name` (`~`, an id or an email address) is the account that asks.
///
/// # Errors
/// 403.
pub fn own(user: &Authenticated, name: &str) -> Result<(), ApiError> {
    let account = &user.account;
    let is_own = name == "~" || name == account.id.to_string() || name.eq_ignore_ascii_case(&account.email);
    if is_own { Ok(()) } else { Err(ApiError::forbidden("You do not have access to that account.")) }
}
