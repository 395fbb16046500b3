//! `/apps/X/releases`: the ledger, and going back in it.

use crate::api::body::Body;
use crate::api::range::{ListRange, SortField, SortKey};
use crate::auth::{OperateApp, ViewApp};
use crate::crash_point;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use ferroku_api::release::Release;
use ferroku_core::app::App;
use ferroku_core::config_var::ConfigVars;
use ferroku_core::release::Release as Stored;
use ferroku_store::{accounts, releases};
use http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;

const SORT_FIELDS: [SortField<Release>; 2] = [
    ("version", |release| SortKey::Number(release.version)),
    ("id", |release| SortKey::Text(release.id.to_string())),
];

/// The endpoints of this noun.
pub fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/apps/{app}/releases", get(list).post(create))
        .route("/apps/{app}/releases/{release}", get(show))
        .route("/apps/{app}/releases/{release}/config-vars", get(config_vars))
}

/// Which release to go back to: an id, `vN` or `N`, as text or as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Target {
    Version(i64),
    Name(String),
}

#[derive(Deserialize)]
struct Create {
    release: Target,
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    range: ListRange,
) -> Result<Response, ApiError> {
    let stored = releases::list(&node.store, app.id).await?;
    let current = releases::current(&node.store, app.id).await?;
    let emails = accounts::emails(&node.store).await?;
    let email = |release: &Stored| emails.get(&release.account_id).map_or("", String::as_str);
    let present = |release: &Stored| Release::new(release, &app, email(release), current.as_ref());
    Ok(range.answer(stored.iter().map(present).collect(), &SORT_FIELDS))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    Path((_, release)): Path<(String, String)>,
) -> Result<Json<Release>, ApiError> {
    let stored = find(&node, &app, &release).await?;
    Ok(Json(present(&node, &app, &stored).await?))
}

async fn config_vars(
    State(node): State<Arc<Node>>,
    OperateApp { app, .. }: OperateApp,
    Path((_, release)): Path<(String, String)>,
) -> Result<Json<ConfigVars>, ApiError> {
    let stored = find(&node, &app, &release).await?;
    Ok(Json(releases::config_vars(&node.store, &stored).await?))
}

async fn create(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Release>), ApiError> {
    let target = match create.release {
        Target::Version(version) => version.to_string(),
        Target::Name(name) => name,
    };
    crash_point::hit("rollback.before_commit");
    let stored = releases::rollback(&node.store, app.id, &target, &user.actor, now_ms()).await?;
    crash_point::hit("rollback.committed");
    node.events.poke();
    node.dynos.poke(app.id);
    Ok((StatusCode::CREATED, Json(present(&node, &app, &stored).await?)))
}

async fn find(node: &Node, app: &App, id_or_version: &str) -> Result<Stored, ApiError> {
    releases::find(&node.store, app.id, id_or_version).await?.ok_or_else(|| ApiError::not_found("release"))
}

async fn present(node: &Node, app: &App, release: &Stored) -> Result<Release, ApiError> {
    let current = releases::current(&node.store, app.id).await?;
    let emails = accounts::emails(&node.store).await?;
    let email = emails.get(&release.account_id).map_or("", String::as_str);
    Ok(Release::new(release, app, email, current.as_ref()))
}
