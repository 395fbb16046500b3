//! `/account`, `/users/~`, the account's rate limit and its eco hours.

use crate::api::body::Body;
use crate::api::routes::{Routes, get};
use crate::auth::{Authenticated, Browse, ChangeAccount, ViewAccount};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::people;
use crate::people::account::Own;
use axum::Json;
use axum::extract::{FromRequest, Path, Request, State};
use ferroku_api::account::Account;
use ferroku_api::rate_limit::RateLimit;
use ferroku_store::account_changes::Keep;
use ferroku_store::{accounts, eco_hours};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

const NO_PASSWORD: &str = "Your current password is needed for this: send it as `password`.";

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/account", get(show).patch(update).delete(destroy))
        .route("/account/rate-limits", get(rate_limit))
        .route("/accounts/{account}/actions/get-quota", get(eco_hours))
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

/// Eco hours, in seconds. Not in Heroku's schema; the fields are those that `heroku ps` reads.
#[derive(Serialize)]
struct Quota {
    account_id: Uuid,
    account_quota: i64,
    quota_used: i64,
    apps: Vec<AppQuota>,
}

#[derive(Serialize)]
struct AppQuota {
    app_uuid: Uuid,
    quota_used: i64,
}

/// It names apps, which is more than who the account is. 404 where the admin set no quota: the CLI then says nothing of it.
async fn eco_hours(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    Path(name): Path<String>,
) -> Result<Json<Quota>, ApiError> {
    own(&user, &name)?;
    let quota_ms = node.config.dynos.eco_quota_ms().ok_or_else(|| ApiError::not_found("account quota"))?;
    let used = eco_hours::used(&node.store, user.account.id, now_ms()).await?;
    // Nobody has used more than there is: what runs over while dynos are being stopped is not told.
    let quota_used = used.standing(quota_ms).used_ms.min(quota_ms) / 1000;
    let apps =
        used.by_app.iter().map(|(id, ms)| AppQuota { app_uuid: id.0, quota_used: ms / 1000 }).collect();
    Ok(Json(Quota { account_id: user.account.id.0, account_quota: quota_ms / 1000, quota_used, apps }))
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
