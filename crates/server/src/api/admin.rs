//! `/admin/...`: what the node's owner and admins do with accounts. Ours; Heroku has nothing like it in its API.

use crate::api::body::{Body, flag};
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get, patch, post};
use crate::auth::{Administer, Authenticated, SeeNode};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::people::{account, sign_up};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::node_account::{Invitation, Invite, NodeAccount};
use ferroku_core::account::{Account, Role};
use ferroku_store::{account_changes, accounts, two_factor};
use http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;

const SORT_FIELDS: [SortField<NodeAccount>; 2] = [
    ("email", SortBy::Text(|one| one.account.email.clone())),
    ("id", SortBy::Text(|one| one.account.id.to_string())),
];

/// The endpoints.
pub fn routes() -> Routes {
    Routes::new()
        .route("/admin/accounts", get(list))
        .route("/admin/accounts/{account}", patch(update).delete(destroy))
        .route("/admin/invitations", post(invite))
}

async fn list(State(node): State<Arc<Node>>, _: SeeNode, range: ListRange) -> Result<Response, ApiError> {
    let accounts = accounts::list(&node.store).await?;
    Ok(range.answer(accounts.iter().map(NodeAccount::from).collect(), &SORT_FIELDS))
}

async fn invite(
    State(node): State<Arc<Node>>,
    Administer(user): Administer,
    Body(invite): Body<Invite>,
) -> Result<(StatusCode, Json<Invitation>), ApiError> {
    let invited = sign_up::invite(&node, &invite.email, &user.actor).await?;
    let letter_file = invited.file.map(|path| path.display().to_string());
    let answer = Invitation { email: invited.email, expires_at: invited.expires_at.into(), letter_file };
    Ok((StatusCode::CREATED, Json(answer)))
}

#[derive(Deserialize)]
struct Update {
    #[serde(default, deserialize_with = "flag")]
    suspended: Option<bool>,
    /// `false` only: for somebody who lost both phone and recovery codes.
    #[serde(default, deserialize_with = "flag")]
    two_factor_authentication: Option<bool>,
}

async fn update(
    State(node): State<Arc<Node>>,
    Administer(user): Administer,
    Path(account): Path<String>,
    Body(update): Body<Update>,
) -> Result<Json<NodeAccount>, ApiError> {
    let mut account = other(&node, &user, &account).await?;
    let now = now_ms();
    match update.two_factor_authentication {
        Some(true) => {
            return Err(ApiError::invalid_params("Only an account itself can turn its second factor on."));
        }
        Some(false) => {
            two_factor::disable(&node.store, account.id, &user.actor, now).await?;
            account.two_factor = false;
        }
        None => {}
    }
    if let Some(suspended) = update.suspended {
        let since = suspended.then(|| account.suspended_at.unwrap_or(now));
        account = account_changes::set_suspended(&node.store, account.id, since, &user.actor, now).await?;
    }
    Ok(Json(NodeAccount::from(&account)))
}

async fn destroy(
    State(node): State<Arc<Node>>,
    Administer(user): Administer,
    Path(account): Path<String>,
) -> Result<Json<NodeAccount>, ApiError> {
    let stored = other(&node, &user, &account).await?;
    account::delete(&node, &stored, &user.actor).await?;
    Ok(Json(NodeAccount::from(&stored)))
}

/// The account with this id or address, which somebody else than its owner is about to change.
async fn other(node: &Node, user: &Authenticated, name: &str) -> Result<Account, ApiError> {
    let found = match name.parse() {
        Ok(id) => accounts::find(&node.store, id).await?,
        Err(_) => accounts::find_by_email(&node.store, name).await?,
    };
    let account = found.ok_or_else(|| ApiError::not_found("account"))?;
    if account.id == user.account.id {
        return Err(ApiError::invalid_params("That is your own account."));
    }
    if account.role == Role::Owner || (account.role == Role::Admin && user.account.role != Role::Owner) {
        return Err(ApiError::forbidden(
            "Only the node's owner may change an admin's account, and nobody the owner's.",
        ));
    }
    Ok(account)
}
