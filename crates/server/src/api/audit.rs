//! `/ferroku/events` and `/ferroku/apps/X/events`: who changed what, when, and from where.
//!
//! Ours, not Heroku's. In: `?max=N&before=ID`. Out: the newest events first, and the address of the next page as a `Link`
//! (RFC 8288) while there may be one. An app's events are its owner's and the node's admins' to read, all events the
//! admins'; those of an app that is gone stay there.

use crate::api::routes::{Routes, get};
use crate::auth::{SeeNode, ViewApp, require_app};
use crate::error::ApiError;
use crate::node::Node;
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{OriginalUri, Query, State};
use axum::response::{IntoResponse, Response};
use ferroku_api::Timestamp;
use ferroku_core::AppId;
use ferroku_core::authorize::Verb;
use ferroku_core::event::Event;
use ferroku_store::events;
use http::HeaderValue;
use http::header::LINK;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// Events of a page when nobody says how many, and at most; as lists elsewhere.
const DEFAULT_MAX: i64 = 200;
const LARGEST_MAX: i64 = 1_000;

/// The endpoints.
pub fn routes() -> Routes {
    Routes::new().route("/ferroku/events", get(of_node)).route("/ferroku/apps/{app}/events", get(of_app))
}

#[derive(Deserialize)]
struct Page {
    max: Option<i64>,
    before: Option<i64>,
}

/// An event on the wire.
#[derive(Serialize)]
struct Shown {
    id: i64,
    /// Noun and verb: `release.create`.
    kind: String,
    description: Option<String>,
    actor: Actor,
    app: Option<ferroku_api::reference::Id>,
    /// Address of the client that asked for it.
    remote_address: Option<String>,
    request_id: Option<String>,
    created_at: Timestamp,
}

#[derive(Serialize)]
struct Actor {
    id: Uuid,
    email: String,
}

async fn of_node(
    State(node): State<Arc<Node>>,
    SeeNode(_): SeeNode,
    uri: OriginalUri,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, ApiError> {
    answer(&node, None, &uri, page).await
}

async fn of_app(
    State(node): State<Arc<Node>>,
    ViewApp { app, user }: ViewApp,
    uri: OriginalUri,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, ApiError> {
    if user.account.id != app.owner_id && !user.sees_every_app() {
        require_app(&node, user.principal(), &app, Verb::Manage).await?;
    }
    answer(&node, Some(app.id), &uri, page).await
}

async fn answer(
    node: &Node,
    app_id: Option<AppId>,
    uri: &OriginalUri,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, ApiError> {
    let page =
        page.map_err(|_| ApiError::bad_request("max and before are numbers: `?max=200&before=1234`."))?;
    let max = page.max.unwrap_or(DEFAULT_MAX).clamp(1, LARGEST_MAX);
    let found = events::page(&node.store, app_id, page.before.unwrap_or(i64::MAX), max).await?;
    let is_full = i64::try_from(found.len()).is_ok_and(|count| count == max);
    let next = found.last().filter(|_| is_full).map(|last| {
        let text = format!("<{}?before={}&max={max}>; rel=\"next\"", uri.path(), last.sequence);
        HeaderValue::from_str(&text).map_err(ApiError::internal)
    });
    let shown: Vec<Shown> = found.into_iter().map(present).collect();
    let mut response = Json(shown).into_response();
    if let Some(next) = next {
        response.headers_mut().insert(LINK, next?);
    }
    Ok(response)
}

fn present(event: Event) -> Shown {
    Shown {
        id: event.sequence,
        kind: event.kind,
        description: event.log_message,
        actor: Actor { id: event.account_id.0, email: event.email },
        app: event.app_id.map(|id| ferroku_api::reference::Id { id: id.0 }),
        remote_address: event.remote_address,
        request_id: event.request_id,
        created_at: Timestamp(event.created_at),
    }
}
