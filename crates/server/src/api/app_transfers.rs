//! `/account/app-transfers`: an app is offered to another account, which accepts or declines it.

use crate::api::body::Body;
use crate::api::collaborators::find_account;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{self, Authenticated, Browse, find_app};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::app_transfer::AppTransfer;
use ferroku_core::AppTransferId;
use ferroku_core::app_transfer::{AppTransfer as Stored, TransferState};
use ferroku_core::authorize::Verb;
use ferroku_store::app_transfers;
use http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;
use uuid::Uuid;

const SORT_FIELDS: [SortField<AppTransfer>; 2] = [
    ("id", SortBy::Text(|transfer| transfer.id.to_string())),
    ("name", SortBy::Text(|transfer| transfer.app.name.clone())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/account/app-transfers", get(list).post(create))
        .route("/account/app-transfers/{transfer}", get(show).patch(update).delete(destroy))
}

#[derive(Deserialize)]
struct Create {
    /// Name or id.
    app: String,
    /// Email address of an account.
    recipient: String,
}

#[derive(Deserialize)]
struct Update {
    state: TransferState,
}

async fn list(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    range: ListRange,
) -> Result<Response, ApiError> {
    let stored = app_transfers::list_for_account(&node.store, user.account.id).await?;
    Ok(range.answer(stored.iter().map(AppTransfer::from).collect(), &SORT_FIELDS))
}

async fn create(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<AppTransfer>), ApiError> {
    let app = find_app(&node, user.principal(), &create.app, Verb::Share).await?;
    if !app.belongs_to(user.account.id) {
        let message = match app.team_id {
            Some(_) => {
                format!("The app {} is a team's: PATCH /teams/apps/{} transfers it.", app.name, app.name)
            }
            None => format!("Only the owner of {} offers it to others.", app.name),
        };
        return Err(ApiError::invalid_params(message));
    }
    let recipient = find_account(&node, &user, &create.recipient).await?;
    if recipient.id == user.account.id {
        return Err(ApiError::invalid_params(format!("The app {} is yours already.", app.name)));
    }
    let id = AppTransferId(Uuid::new_v4());
    app_transfers::create(&node.store, id, &app, recipient.id, &user.actor, now_ms()).await?;
    let stored = find(&node, &user, &id.to_string()).await?;
    Ok((StatusCode::CREATED, Json(AppTransfer::from(&stored))))
}

async fn show(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    Path(id): Path<String>,
) -> Result<Json<AppTransfer>, ApiError> {
    Ok(Json(AppTransfer::from(&find(&node, &user, &id).await?)))
}

/// The recipient accepts or declines.
async fn update(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    Path(id): Path<String>,
    Body(update): Body<Update>,
) -> Result<Json<AppTransfer>, ApiError> {
    let stored = find(&node, &user, &id).await?;
    if stored.recipient_id != user.account.id {
        return Err(ApiError::forbidden("Only its recipient accepts or declines a transfer."));
    }
    if update.state == TransferState::Pending {
        return Err(ApiError::invalid_params("Invalid value for state: it is accepted or declined."));
    }
    app_transfers::decide(&node.store, &stored, update.state, &user.actor, now_ms()).await?;
    node.events.poke();
    Ok(Json(AppTransfer::from(&find(&node, &user, &id).await?)))
}

/// The owner takes it back.
async fn destroy(
    State(node): State<Arc<Node>>,
    auth::Create(user): auth::Create,
    Path(id): Path<String>,
) -> Result<Json<AppTransfer>, ApiError> {
    let stored = find(&node, &user, &id).await?;
    if stored.owner_id != user.account.id {
        return Err(ApiError::forbidden("Only the owner takes a transfer back; decline it instead."));
    }
    app_transfers::delete(&node.store, &stored, &user.actor, now_ms()).await?;
    Ok(Json(AppTransfer::from(&stored)))
}

/// The transfer of this id, or of the app of this name, from or to whoever asks; to others there is none.
async fn find(node: &Node, user: &Authenticated, id_or_name: &str) -> Result<Stored, ApiError> {
    let all = app_transfers::list_for_account(&node.store, user.account.id).await?;
    let is_meant = |one: &&Stored| one.id.to_string() == id_or_name || one.app_name == id_or_name;
    // Of several of one app the newest.
    all.iter().rfind(is_meant).cloned().ok_or_else(|| ApiError::not_found("app transfer"))
}
