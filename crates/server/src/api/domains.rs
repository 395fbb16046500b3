//! `/apps/X/domains`: the host name that each app has from its creation, and those that its owner adds.

use crate::api::body::Body;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get};
use crate::auth::{OperateApp, ViewApp, random_letters};
use crate::crash_point;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::domain::Domain;
use ferroku_core::app::App;
use ferroku_core::domain::{CNAME_LETTERS, Domain as Stored, check_place, cname, normalize};
use ferroku_core::sni_endpoint::SniEndpoint;
use ferroku_core::{DomainId, Millis};
use ferroku_store::domains::NewDomain;
use ferroku_store::{StoreError, domains, sni_endpoints};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use uuid::Uuid;

/// How often another DNS target is drawn when one is taken, which 24 random letters never are.
const CNAME_ATTEMPTS: usize = 3;
const SORT_FIELDS: [SortField<Domain>; 2] = [
    ("id", SortBy::Text(|domain| domain.id.to_string())),
    ("hostname", SortBy::Text(|domain| domain.hostname.clone())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/apps/{app}/domains", get(list).post(create))
        .route("/apps/{app}/domains/{domain}", get(show).patch(update).delete(destroy))
}

#[derive(Deserialize)]
struct Create {
    hostname: String,
    /// Name or id of a certificate; null for none.
    #[serde(default)]
    sni_endpoint: Option<String>,
}

/// `sni_endpoint` must be there: leaving it out is not the same as null.
#[derive(Deserialize)]
struct Update {
    sni_endpoint: Value,
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    range: ListRange,
) -> Result<Response, ApiError> {
    let stored = domains::list(&node.store, app.id).await?;
    let endpoints = sni_endpoints::list(&node.store, app.id).await?;
    let mut all = vec![Domain::default_of(&app, &node.config.domain)];
    all.extend(stored.iter().map(|domain| Domain::new(domain, &app, &endpoints)));
    Ok(range.answer(all, &SORT_FIELDS))
}

async fn create(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Domain>), ApiError> {
    let hostname = normalize(&create.hostname).map_err(ApiError::invalid_params)?;
    let machine = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
    check_place(&hostname, &app.name, &node.config.domain, &machine).map_err(ApiError::invalid_params)?;
    let endpoints = sni_endpoints::list(&node.store, app.id).await?;
    let endpoint = match create.sni_endpoint.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => Some(endpoint_for(&endpoints, name, &hostname)?),
        // As when a certificate is added after its domain.
        None => endpoints.iter().find(|endpoint| !endpoint.acm && endpoint.certificate.covers(&hostname)),
    };
    crash_point::hit("domain.before_create");
    let mut attempts = 0;
    let stored = loop {
        attempts += 1;
        let (random, _) = Uuid::new_v4().as_u64_pair();
        let letters = random_letters(CNAME_LETTERS).to_ascii_lowercase();
        let cname = cname(random.rotate_left(16), &letters, &node.config.domain);
        let new = NewDomain {
            id: new_id(now_ms()),
            hostname: &hostname,
            cname: &cname,
            // A managed certificate is for one domain: the node gets this one its own.
            sni_endpoint_id: endpoint.filter(|endpoint| !endpoint.acm).map(|endpoint| endpoint.id),
        };
        match domains::create(&node.store, &app, &new, &user.actor, now_ms()).await {
            // Either the target, or the name by another request at the same time: the next attempt says which.
            Err(StoreError::Taken { .. }) if attempts < CNAME_ATTEMPTS => {}
            created => break created?,
        }
    };
    crash_point::hit("domain.created");
    changed(&node, &app);
    Ok((StatusCode::CREATED, Json(Domain::new(&stored, &app, &endpoints))))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, .. }: ViewApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<Domain>, ApiError> {
    if is_default(&node, &app, &name) {
        return Ok(Json(Domain::default_of(&app, &node.config.domain)));
    }
    let stored = find(&node, &app, &name).await?;
    Ok(Json(present(&node, &app, &stored).await?))
}

async fn update(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Path((_, name)): Path<(String, String)>,
    Body(update): Body<Update>,
) -> Result<Json<Domain>, ApiError> {
    refuse_default(&node, &app, &name, "changed")?;
    let stored = find(&node, &app, &name).await?;
    let endpoints = sni_endpoints::list(&node.store, app.id).await?;
    let endpoint = match update.sni_endpoint {
        Value::Null => None,
        Value::String(name) => {
            let chosen = endpoint_for(&endpoints, &name, &stored.hostname)?;
            let current = endpoints.iter().find(|endpoint| Some(endpoint.id) == stored.sni_endpoint_id);
            if chosen.acm && current.is_some_and(|endpoint| endpoint.acm) {
                return Ok(Json(present(&node, &app, &stored).await?));
            }
            Some(chosen.id).filter(|_| !chosen.acm)
        }
        _ => {
            return Err(ApiError::invalid_params(
                "Invalid value for sni_endpoint: give its name or id, or null.",
            ));
        }
    };
    let stored = domains::set_endpoint(&node.store, &stored, endpoint, &user.actor, now_ms()).await?;
    crash_point::hit("domain.updated");
    changed(&node, &app);
    Ok(Json(present(&node, &app, &stored).await?))
}

async fn destroy(
    State(node): State<Arc<Node>>,
    OperateApp { app, user }: OperateApp,
    Path((_, name)): Path<(String, String)>,
) -> Result<Json<Domain>, ApiError> {
    refuse_default(&node, &app, &name, "removed")?;
    let stored = find(&node, &app, &name).await?;
    let answer = present(&node, &app, &stored).await?;
    domains::delete(&node.store, &stored, &user.actor, now_ms()).await?;
    crash_point::hit("domain.destroyed");
    changed(&node, &app);
    Ok(Json(answer))
}

/// Tells whom an app's domains or certificates concern that they changed.
pub(super) fn changed(node: &Node, app: &App) {
    node.events.poke();
    node.dynos.poke(app.id);
    node.acm.poke();
}

async fn present(node: &Node, app: &App, stored: &Stored) -> Result<Domain, ApiError> {
    let endpoints = sni_endpoints::list(&node.store, app.id).await?;
    Ok(Domain::new(stored, app, &endpoints))
}

async fn find(node: &Node, app: &App, id_or_hostname: &str) -> Result<Stored, ApiError> {
    // An id is no host name, for want of a dot; a name may be typed in any form.
    let key = normalize(id_or_hostname).unwrap_or_else(|_| id_or_hostname.to_ascii_lowercase());
    domains::find(&node.store, app.id, &key).await?.ok_or_else(|| ApiError::not_found("domain"))
}

fn is_default(node: &Node, app: &App, id_or_hostname: &str) -> bool {
    let name = id_or_hostname.to_ascii_lowercase();
    name == app.id.to_string() || name == app.default_host(&node.config.domain)
}

fn refuse_default(node: &Node, app: &App, name: &str, what: &str) -> Result<(), ApiError> {
    match is_default(node, app, name) {
        true => Err(ApiError::invalid_params(format!(
            "{} is the app's own name and cannot be {what}.",
            app.default_host(&node.config.domain)
        ))),
        false => Ok(()),
    }
}

/// The certificate of this name or id, if clients would take it for `hostname`; a managed one stands for whatever the
/// node gets.
fn endpoint_for<'a>(
    endpoints: &'a [SniEndpoint],
    name: &str,
    hostname: &str,
) -> Result<&'a SniEndpoint, ApiError> {
    let endpoint = endpoints
        .iter()
        .find(|endpoint| endpoint.name == name || endpoint.id.to_string() == name)
        .ok_or_else(|| ApiError::not_found("SNI endpoint"))?;
    if endpoint.acm || endpoint.certificate.covers(hostname) {
        return Ok(endpoint);
    }
    let names = endpoint.certificate.domains.join(", ");
    Err(ApiError::invalid_params(format!(
        "The certificate of {} is not for {hostname}, but for {names}.",
        endpoint.name
    )))
}

/// Ids rise with time (UUID version 7), so that lists by id are in the order in which domains were added.
fn new_id(now: Millis) -> DomainId {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    let random = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    let mut bytes = [0; 10];
    // Away from the version's fixed bits.
    bytes[..2].copy_from_slice(&random[..2]);
    bytes[2..].copy_from_slice(&random[8..]);
    let millis = u64::try_from(now).unwrap_or(0);
    DomainId(uuid::Builder::from_unix_timestamp_millis(millis, &bytes).into_uuid())
}
