//! `/apps/X/builds`: what was built, its text, and stopping it.
//!
//! A build's text is at `/streams/builds/TOKEN`, without credentials, as Heroku's; see [`super::streams`]. While the build
//! runs, the answer goes on until it ends.

use crate::api::conventions::RequestContext;
use crate::api::links::Links;
use crate::api::range::{ListRange, SortField, SortKey};
use crate::api::routes::{Routes, delete, get};
use crate::api::streams::{self, BUILDS, StreamLinks};
use crate::auth::{PushApp, ViewApp};
use crate::builds::output::Progress;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use ferroku_api::build::{Build, SourceBlob};
use ferroku_core::BuildId;
use ferroku_core::build::Build as Stored;
use ferroku_store::{accounts, builds, events};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;

/// Read at once from a build's text, in bytes.
const READ_BYTES: usize = 32 * 1024;

const SORT_FIELDS: [SortField<Build>; 2] = [
    ("created_at", |build| SortKey::Text(build.created_at.to_string())),
    ("id", |build| SortKey::Text(build.id.to_string())),
];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/apps/{app}/builds", get(list).post(create))
        .route("/apps/{app}/builds/{build}", get(show).delete(cancel))
        .route("/apps/{app}/build-cache", delete(purge_cache))
        .route("/streams/builds/{token}", get(stream))
}

async fn list(
    State(node): State<Arc<Node>>,
    ViewApp { app, user }: ViewApp,
    links: Links,
    range: ListRange,
) -> Result<Response, ApiError> {
    let links = StreamLinks::new(&node, links, BUILDS, &app, &user);
    let stored = builds::list(&node.store, app.id).await?;
    let emails = accounts::emails(&node.store).await?;
    let shown = stored.iter().map(|build| present(build, &app.name, &emails, &links)).collect();
    Ok(range.answer(shown, &SORT_FIELDS))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, user }: ViewApp,
    links: Links,
    Path((_, build)): Path<(String, String)>,
) -> Result<Json<Build>, ApiError> {
    let links = StreamLinks::new(&node, links, BUILDS, &app, &user);
    let missing = || ApiError::not_found("build");
    let id: BuildId = build.parse().map_err(|_| missing())?;
    let stored = builds::find(&node.store, app.id, id).await?.ok_or_else(missing)?;
    let emails = accounts::emails(&node.store).await?;
    Ok(Json(present(&stored, &app.name, &emails, &links)))
}

/// Source archives are not taken yet by this node; git is.
async fn create(PushApp { app, .. }: PushApp) -> ApiError {
    let message = format!(
        "This node builds what is pushed by git, not source archives: push to {}.git instead.",
        app.name
    );
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_params", message)
}

async fn cancel(
    State(node): State<Arc<Node>>,
    PushApp { app, user }: PushApp,
    links: Links,
    Path((_, build)): Path<(String, String)>,
) -> Result<Json<Build>, ApiError> {
    let links = StreamLinks::new(&node, links, BUILDS, &app, &user);
    let missing = || ApiError::not_found("build");
    let id: BuildId = build.parse().map_err(|_| missing())?;
    let stored = builds::find(&node.store, app.id, id).await?.ok_or_else(missing)?;
    if node.builds.output(id).is_none() {
        return Err(ApiError::invalid_params("That build is not under way any more."));
    }
    let message = format!("Cancel build {id}");
    events::record(&node.store, app.id, "build.cancel", &message, &user.actor, now_ms()).await?;
    node.builds.cancel(id);
    let emails = accounts::emails(&node.store).await?;
    Ok(Json(present(&stored, &app.name, &emails, &links)))
}

async fn purge_cache(
    State(node): State<Arc<Node>>,
    PushApp { app, user }: PushApp,
) -> Result<Json<ferroku_api::reference::Id>, ApiError> {
    let message = "Purge the build cache";
    events::record(&node.store, app.id, "build_cache.destroy", message, &user.actor, now_ms()).await?;
    node.builds.purge_cache(app.id).await.map_err(ApiError::internal)?;
    Ok(Json(ferroku_api::reference::Id { id: app.id.0 }))
}

async fn stream(
    State(node): State<Arc<Node>>,
    Path(token): Path<String>,
    context: RequestContext,
) -> Result<Response, ApiError> {
    let missing = || ApiError::not_found("build");
    let (app_id, id, held) = streams::open(&node, BUILDS, &token, &context).await?;
    let id = builds::find(&node.store, app_id, BuildId(id)).await?.ok_or_else(missing)?.id;
    let progress = node.builds.output(id).map(|output| output.watch());
    let file = tokio::fs::File::open(node.builds.output_path(id)).await.map_err(|_| missing())?;
    let body = held.limit(node, HttpBody::from_stream(follow(file, progress)));
    let mut response = body.into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

/// The file's content, and what is added to it until the build has ended.
fn follow(
    file: tokio::fs::File,
    progress: Option<watch::Receiver<Progress>>,
) -> impl futures::Stream<Item = io::Result<Bytes>> + Send {
    futures::stream::unfold((file, progress), |(mut file, mut progress)| async move {
        loop {
            // Marked as seen before the read: what is written after it wakes the wait below.
            let ended = progress.as_mut().is_none_or(|progress| progress.borrow_and_update().ended);
            let mut buffer = BytesMut::with_capacity(READ_BYTES);
            match file.read_buf(&mut buffer).await {
                Ok(0) if ended => return None,
                Ok(0) => {}
                Ok(_) => return Some((Ok(buffer.freeze()), (file, progress))),
                Err(error) => return Some((Err(error), (file, None))),
            }
            if let Some(watched) = progress.as_mut()
                && watched.changed().await.is_err()
            {
                progress = None;
            }
        }
    })
}

fn present(
    build: &Stored,
    app_name: &str,
    emails: &BTreeMap<ferroku_core::AccountId, String>,
    links: &StreamLinks<'_>,
) -> Build {
    let email = emails.get(&build.account_id).map_or("", String::as_str);
    let source = SourceBlob {
        checksum: None,
        url: links.links.git_url(app_name),
        version: build.source_version.clone(),
        version_description: None,
    };
    Build::new(build, email, links.url(build.id.0), source)
}
