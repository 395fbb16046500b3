//! `/account`, `/users/~` and the account's rate limit.

use crate::api::body::Body;
use crate::api::routes::{Routes, get};
use crate::auth::{Authenticated, ChangeAccount, ViewAccount};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::people;
use crate::people::account::Own;
use axum::Json;
use axum::extract::{FromRequest, Path, Request, State};
use ferroku_api::account::Account;
use ferroku_api::rate_limit::RateLimit;
use ferroku_store::account_changes::Keep;
use ferroku_store::accounts;
use secrecy::SecretString;
use serde::Deserialize;
use std::sync::Arc;

const NO_PASSWORD: &str = "Your current password is needed for this: send it as `password`.";

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/account", get(show).patch(update).delete(destroy))
        .route("/account/rate-limits", get(rate_limit))
        .route("/users/{user}", get(show_user).patch(update_user).delete(destroy_user))
}

async fn show(ViewAccount(user): ViewAccount) -> Json<Account> {
    Json(Account::from(&user.account))
}

/// Heroku's published schema has `name` alone; the rest is what its dashboard sends.
#[derive(Deserialize)]
struct Update {
    #[serde(default)]
    name: Option<String>,
    /// A letter goes there; the account keeps its address until the link in it is followed.
    #[serde(default)]
    email: Option<String>,
    /// The current one, for a new address or a new password.
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    new_password: Option<String>,
}

async fn update(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Body(update): Body<Update>,
) -> Result<Json<Account>, ApiError> {
    let own = Own { account: &user.account, actor: &user.actor };
    let name = update.name.as_deref().map(people::name).transpose()?;
    let password = update.password.map(SecretString::from);
    if update.new_password.is_some() || update.email.is_some() {
        let current = password.ok_or_else(|| ApiError::invalid_params(NO_PASSWORD))?;
        if let Some(new) = update.email {
            own.change_email(&node, &new, current.clone()).await?;
        }
        if let Some(new) = update.new_password {
            let keep = Keep { session: None, authorization: Some(user.authorization.id) };
            own.change_password(&node, current, new.into(), keep).await?;
        }
    }
    let account = match name {
        Some(name) => accounts::rename(&node.store, user.account.id, &name, &user.actor, now_ms()).await?,
        None => user.account,
    };
    Ok(Json(Account::from(&account)))
}

/// Whose account it is comes before what is asked of it.
async fn update_user(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Account>, ApiError> {
    own(&user, &name)?;
    update(State(node), ChangeAccount(user), Body::from_request(request, &()).await?).await
}

/// Heroku asks for nothing here; ours asks for the password, because a token alone should not be able to do this.
#[derive(Deserialize)]
struct Destroy {
    #[serde(default)]
    password: Option<String>,
}

async fn destroy(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Body(destroy): Body<Destroy>,
) -> Result<Json<Account>, ApiError> {
    let password = destroy.password.ok_or_else(|| ApiError::invalid_params(NO_PASSWORD))?;
    Own { account: &user.account, actor: &user.actor }.delete(&node, password.into()).await?;
    Ok(Json(Account::from(&user.account)))
}

async fn destroy_user(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Account>, ApiError> {
    own(&user, &name)?;
    destroy(State(node), ChangeAccount(user), Body::from_request(request, &()).await?).await
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
