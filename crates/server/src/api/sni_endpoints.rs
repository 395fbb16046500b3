//! `/apps/X/sni-endpoints`: certificates that users add, and those that the node got.

use crate::api::body::Body;
use crate::api::domains::changed;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{OperateApp, ViewApp};
use crate::certificate::{self, Checked};
use crate::crash_point;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::sni_endpoint::SniEndpoint;
use ferroku_core::app::App;
use ferroku_core::sni_endpoint::{SniEndpoint as Stored, random_name};
use ferroku_store::{StoreError, acm, domains, sni_endpoints};
use http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;
use uuid::Uuid;
use zeroize::Zeroizing;

/// How many random names are tried: 2.7 million make a second try rare already.
pub(crate) const NAME_ATTEMPTS: usize = 10;
const SORT_FIELDS: [SortField<SniEndpoint>; 2] = [
    ("name", SortBy::Text(|endpoint| endpoint.name.clone())),
    ("id", SortBy::Text(|endpoint| endpoint.id.to_string())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/apps/{app}/sni-endpoints", get(list).post(create))
        .route("/apps/{app}/sni-endpoints/{endpoint}", get(show).patch(update).delete(destroy))
}

#[derive(Deserialize)]
struct Input {
    certificate_chain: String,
    private_key: String,
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    range: ListRange,
) -> Result<Response, ApiError> {
    Ok(range.answer(shown(&node, &app).await?, &SORT_FIELDS))
}

async fn create(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Body(input): Body<Input>,
) -> Result<(StatusCode, Json<SniEndpoint>), ApiError> {
    let checked = check(input).await?;
    crash_point::hit("sni_endpoint.before_create");
    let mut attempts = 0;
    let stored = loop {
        attempts += 1;
        let name = new_name();
        match sni_endpoints::create(&node.store, app.id, &name, &checked.material(), &user.actor, now_ms())
            .await
        {
            Err(StoreError::Taken { .. }) if attempts < NAME_ATTEMPTS => {}
            created => break created?,
        }
    };
    crash_point::hit("sni_endpoint.created");
    changed(&node, &app);
    Ok((StatusCode::CREATED, Json(present(&node, &app, &stored).await?)))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<SniEndpoint>, ApiError> {
    Ok(Json(find(&node, &app, &name).await?.1))
}

/// A user's certificate in place of those that the node got ends automatic management, as Heroku's CLI promises.
async fn update(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Path((_, name)): Path<(String, String)>,
    Body(input): Body<Input>,
) -> Result<Json<SniEndpoint>, ApiError> {
    let (stored, _) = find(&node, &app, &name).await?;
    let checked = check(input).await?;
    let material = checked.material();
    let updated = match stored.acm {
        true => acm::replace(&node.store, &stored, &material, &user.actor, now_ms()).await?,
        false => sni_endpoints::update(&node.store, &stored, &material, &user.actor, now_ms()).await?,
    };
    crash_point::hit("sni_endpoint.updated");
    changed(&node, &app);
    Ok(Json(present(&node, &app, &updated).await?))
}

async fn destroy(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<SniEndpoint>, ApiError> {
    let (stored, answer) = find(&node, &app, &name).await?;
    if stored.acm {
        return Err(ApiError::invalid_params(format!(
            "{name} is managed by the node. Turn that off with `heroku certs:auto:disable`, or remove its domain."
        )));
    }
    sni_endpoints::delete(&node.store, &stored, &user.actor, now_ms()).await?;
    crash_point::hit("sni_endpoint.destroyed");
    changed(&node, &app);
    Ok(Json(answer))
}

/// A random name in Heroku's form.
pub(crate) fn new_name() -> String {
    let (random, _) = Uuid::new_v4().as_u64_pair();
    random_name(random.rotate_left(16))
}

/// RSA arithmetic and reading the system's authorities take milliseconds: not on a thread that serves requests.
async fn check(input: Input) -> Result<Checked, ApiError> {
    let now = now_ms();
    let (chain, key) = (input.certificate_chain, Zeroizing::new(input.private_key));
    let check = move || certificate::check(&chain, &key, now);
    let checked = tokio::task::spawn_blocking(check).await.map_err(ApiError::internal)?;
    checked.map_err(|error| ApiError::invalid_params(error.to_string()))
}

async fn present(node: &Node, app: &App, stored: &Stored) -> Result<SniEndpoint, ApiError> {
    let domains = domains::list(&node.store, app.id).await?;
    Ok(SniEndpoint::new(stored, app, &domains))
}

async fn shown(node: &Node, app: &App) -> Result<Vec<SniEndpoint>, ApiError> {
    let domains = domains::list(&node.store, app.id).await?;
    let stored = sni_endpoints::list(&node.store, app.id).await?;
    Ok(SniEndpoint::list(&stored, app, &domains))
}

/// The endpoint of this id or name, as stored and as shown.
async fn find(node: &Node, app: &App, id_or_name: &str) -> Result<(Stored, SniEndpoint), ApiError> {
    let none = || ApiError::not_found("SNI endpoint");
    let stored = sni_endpoints::find(&node.store, app.id, id_or_name).await?.ok_or_else(none)?;
    let shown = shown(node, app).await?.into_iter().find(|one| one.id == stored.id.0).ok_or_else(none)?;
    Ok((stored, shown))
}
