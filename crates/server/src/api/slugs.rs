//! `/apps/X/slugs`: what a build made, or a client makes itself and uploads.
//!
//! A slug's `blob` is a link for an hour, which needs no credentials: to put the archive of an announced slug, and to get that of
//! another. It is good only while the authorization that asked for it may push to the app, or fetch its code. What it may do is
//! sealed in it ([`crate::builds::uploads`]).

use crate::access::{Access, Held};
use crate::api::apps::known_stack;
use crate::api::body::Body;
use crate::api::builds::{check_words, read_checksum};
use crate::api::conventions::RequestContext;
use crate::api::links::Links;
use crate::api::routes::{Routes, get, post, put};
use crate::auth::{Authenticated, PushApp, ViewApp};
use crate::builds::slugs::{digest_of, take};
use crate::builds::uploads::{Action, Grant, LINK_LIFETIME_MS};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::body::Body as HttpBody;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use ferroku_api::slug::Slug;
use ferroku_core::authorize::Verb;
use ferroku_core::procfile::refuse_process_types;
use ferroku_core::slug::{ProcessTypes, SlugUpload};
use ferroku_core::{AppId, SlugId, SourceId};
use ferroku_store::{apps, slug_uploads, slugs};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode, Uri};
use serde::Deserialize;
use std::sync::Arc;
use uuid::Uuid;

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/apps/{app}/slugs", post(create))
        .route("/apps/{app}/slugs/{slug}", get(show))
        .route("/slugs/{slug}", put(upload).get(download))
}

/// Body of `POST /apps/X/slugs`.
#[derive(Deserialize)]
struct Create {
    process_types: ProcessTypes,
    buildpack_provided_description: Option<String>,
    checksum: Option<String>,
    commit: Option<String>,
    commit_description: Option<String>,
    stack: Option<String>,
}

async fn create(
    State(node): State<Arc<Node>>,
    PushApp { app, user }: PushApp,
    links: Links,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<Slug>), ApiError> {
    if let Some(why) = refuse_process_types(&create.process_types) {
        return Err(ApiError::invalid_params(format!("Invalid value for process_types: {why}.")));
    }
    for (name, text) in [
        ("buildpack_provided_description", &create.buildpack_provided_description),
        ("commit", &create.commit),
        ("commit_description", &create.commit_description),
    ] {
        check_words(name, text.as_deref())?;
    }
    let stack = match create.stack.as_deref() {
        None => app.build_stack.clone(),
        Some(name) => known_stack(name)?.to_owned(),
    };
    let upload = SlugUpload {
        id: SlugId(Uuid::new_v4()),
        app_id: app.id,
        commit: create.commit,
        commit_description: create.commit_description,
        stack,
        process_types: create.process_types,
        buildpack_provided_description: create.buildpack_provided_description,
        sha256: create.checksum.as_deref().map(read_checksum).transpose()?,
        created_at: now_ms(),
    };
    slug_uploads::create(&node.store, &upload, &user.actor).await?;
    node.events.poke();
    let url = link(&node, &links, &user, upload.id, Action::PutSlug);
    Ok((StatusCode::CREATED, Json(Slug::announced(&upload, url))))
}

async fn show(
    State(node): State<Arc<Node>>,
    ViewApp { app, user }: ViewApp,
    links: Links,
    Path((_, slug)): Path<(String, String)>,
) -> Result<Json<Slug>, ApiError> {
    let missing = || ApiError::not_found("slug");
    let id: SlugId = slug.parse().map_err(|_| missing())?;
    let url = |action| link(&node, &links, &user, id, action);
    // In this order: an announced slug may become one in between.
    if let Some(upload) = slug_uploads::find(&node.store, id).await?.filter(|slug| slug.app_id == app.id) {
        return Ok(Json(Slug::announced(&upload, url(Action::PutSlug))));
    }
    let stored = slugs::find(&node.store, id).await?.filter(|slug| slug.app_id == app.id);
    Ok(Json(Slug::new(&stored.ok_or_else(missing)?, url(Action::GetSlug))))
}

async fn upload(
    State(node): State<Arc<Node>>,
    Path(slug): Path<String>,
    uri: Uri,
    context: RequestContext,
    body: HttpBody,
) -> Result<StatusCode, ApiError> {
    let missing = || ApiError::not_found("slug");
    let grant = opened(&node, Action::PutSlug, &slug, &uri)?;
    let id = SlugId(grant.source_id.0);
    let (awaited, present) =
        (slug_uploads::find(&node.store, id).await?, slugs::find(&node.store, id).await?);
    let app_id = awaited.as_ref().map(|slug| slug.app_id).or(present.as_ref().map(|slug| slug.app_id));
    let app_id = app_id.ok_or_else(missing)?;
    let account = Access::new(grant.authorization_id, app_id, Verb::Push).check(&node).await?;
    context.spend(&node, &account)?;
    let app = apps::by_id(&node.store, app_id).await?.ok_or_else(missing)?;
    let uploads = node.builds.uploads();
    uploads.receive(&grant, body).await?;
    let file = uploads.place(&grant);
    let taken = match (awaited, present) {
        (Some(awaited), _) => {
            take(&node.builds, app, context.actor(&account), awaited, file.clone()).await.map(drop)
        }
        (None, present) => match digest_of(&file).await {
            Ok(sha256) if present.as_ref().and_then(|slug| slug.archive_sha256.as_ref()) == Some(&sha256) => {
                Ok(())
            }
            Ok(_) => Err(crate::builds::error::BuildError::Refused(
                "The slug has its archive already. Make another slug for this one.".to_owned(),
            )),
            Err(error) => Err(error),
        },
    };
    // Best effort: it goes by itself after a while.
    let _ = tokio::fs::remove_file(&file).await;
    taken?;
    node.events.poke();
    Ok(StatusCode::OK)
}

async fn download(
    State(node): State<Arc<Node>>,
    Path(slug): Path<String>,
    uri: Uri,
    context: RequestContext,
) -> Result<Response, ApiError> {
    let missing = || ApiError::not_found("slug");
    let grant = opened(&node, Action::GetSlug, &slug, &uri)?;
    let slug = slugs::find(&node.store, SlugId(grant.source_id.0)).await?.ok_or_else(missing)?;
    let held = read_access(&node, &grant, slug.app_id, &context).await?;
    let archive = node.builds.slug_archive(&slug).ok_or_else(|| {
        ApiError::new(StatusCode::GONE, "gone", "The slug was removed to save space. Push its commit again.")
    })?;
    let mut response = held.limit(node, archive).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/gzip"));
    Ok(response)
}

async fn read_access(
    node: &Node,
    grant: &Grant,
    app_id: AppId,
    context: &RequestContext,
) -> Result<Held, ApiError> {
    Access::new(grant.authorization_id, app_id, Verb::Fetch).read(node, context).await
}

fn link(node: &Node, links: &Links, user: &Authenticated, id: SlugId, action: Action) -> String {
    let grant = Grant {
        source_id: SourceId(id.0),
        account_id: user.account.id,
        authorization_id: user.authorization.id,
        until: now_ms() + LINK_LIFETIME_MS,
    };
    let token = grant.seal(node.store.key(), action);
    links.url(format_args!("/slugs/{id}?token={token}"))
}

fn opened(node: &Node, action: Action, slug: &str, uri: &Uri) -> Result<Grant, ApiError> {
    let token = uri.query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("token="));
    let grant = slug.parse().ok().zip(token);
    let grant = grant.and_then(|(id, token)| Grant::open(node.store.key(), action, id, token, now_ms()));
    grant.ok_or_else(|| {
        ApiError::forbidden(
            "This link is not valid, or older than an hour. Get a new one by GET /apps/APP/slugs/SLUG.",
        )
    })
}
