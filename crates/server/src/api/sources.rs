//! `/sources`: where a client puts a source archive, to have it built by the URL that it gets it back from.
//!
//! Both URLs are good for an hour, and no longer than the authorization that asked for them. They need no credentials: what
//! they may do is sealed in them ([`crate::builds::uploads`]).

use crate::api::links::Links;
use crate::api::routes::{Routes, post, put};
use crate::auth::{Authenticated, Create, PushApp, by_authorization};
use crate::builds::uploads::{Action, Grant, LINK_LIFETIME_MS, UploadError};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use ferroku_api::source::{Source, SourceBlob};
use ferroku_core::{AppId, SourceId};
use ferroku_store::events::{self, NewEvent};
use ferroku_store::{StoreError, write};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, StatusCode, Uri};
use std::sync::Arc;
use tokio_util::io::ReaderStream;
use uuid::Uuid;

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/sources", post(create))
        .route("/apps/{app}/sources", post(create_for_app))
        .route("/sources/{source}", put(upload).get(download))
}

async fn create(
    State(node): State<Arc<Node>>,
    Create(user): Create,
    links: Links,
) -> Result<(StatusCode, Json<Source>), ApiError> {
    make(&node, None, &user, &links).await
}

async fn create_for_app(
    State(node): State<Arc<Node>>,
    PushApp { app, user }: PushApp,
    links: Links,
) -> Result<(StatusCode, Json<Source>), ApiError> {
    make(&node, Some(app.id), &user, &links).await
}

async fn make(
    node: &Node,
    app_id: Option<AppId>,
    user: &Authenticated,
    links: &Links,
) -> Result<(StatusCode, Json<Source>), ApiError> {
    let now = now_ms();
    let source_id = SourceId(Uuid::new_v4());
    let written: Result<(), StoreError> = async {
        write!(&node.store, tx => {
            let log_message = Some(format!("Get links to upload source {source_id}"));
            let event = NewEvent { app_id, actor: &user.actor, kind: "source.create", log_message };
            events::append(&mut tx, event, now).await?;
            Ok(())
        })
    }
    .await;
    written?;
    let (account_id, authorization_id) = (user.account.id, user.authorization.id);
    let grant = Grant { source_id, account_id, authorization_id, until: now + LINK_LIFETIME_MS };
    let url = |action| {
        let token = grant.seal(node.store.key(), action);
        links.url(format_args!("/sources/{source_id}?token={token}"))
    };
    let source_blob = SourceBlob { get_url: url(Action::Get), put_url: url(Action::Put) };
    Ok((StatusCode::CREATED, Json(Source { source_blob })))
}

async fn upload(
    State(node): State<Arc<Node>>,
    Path(source): Path<String>,
    uri: Uri,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let grant = opened(&node, Action::Put, &source, &uri).await?;
    node.builds.uploads().receive(&grant, body).await?;
    Ok(StatusCode::OK)
}

async fn download(
    State(node): State<Arc<Node>>,
    Path(source): Path<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let grant = opened(&node, Action::Get, &source, &uri).await?;
    let missing = || ApiError::not_found("source");
    let file = tokio::fs::File::open(node.builds.uploads().place(&grant)).await.map_err(|_| missing())?;
    let length = file.metadata().await.map_err(ApiError::internal)?.len();
    let mut response = Body::from_stream(ReaderStream::new(file)).into_response();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CONTENT_LENGTH, length.into());
    Ok(response)
}

async fn opened(node: &Node, action: Action, source: &str, uri: &Uri) -> Result<Grant, ApiError> {
    let grant = grant_of(node, action, source, uri.query().unwrap_or_default()).await?;
    grant.ok_or_else(|| {
        ApiError::forbidden("This link is not valid, or older than an hour. Get a new one by POST /sources.")
    })
}

/// What a link to this source says, by the URL's query, while the authorization that asked for it is good.
///
/// # Errors
/// The store failed.
pub(super) async fn grant_of(
    node: &Node,
    action: Action,
    source: &str,
    query: &str,
) -> Result<Option<Grant>, ApiError> {
    let token = query.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
    let source_id = source.parse().ok();
    let grant = source_id.and_then(|id| Grant::open(node.store.key(), action, id, token, now_ms()));
    let Some(grant) = grant else { return Ok(None) };
    let holder = by_authorization(node, grant.authorization_id).await?;
    Ok(holder.map(|_| grant))
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        let message = error.to_string();
        match error {
            UploadError::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", message),
            UploadError::Empty | UploadError::UsedUp => Self::invalid_params(message),
            UploadError::DiskFull(_) => Self::disk_full(),
            UploadError::BrokenOff => Self::bad_request(message),
            UploadError::Io(error) => Self::internal(error),
        }
    }
}
