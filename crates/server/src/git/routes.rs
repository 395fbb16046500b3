//! The paths that git clients ask for: who it is, which app, and then git itself.

use super::{Caller, Endpoint, refuse, service};
use crate::api::routes::{Routes, get, post};
use crate::auth;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::rate_limit::GIT_REQUESTS_PER_HOUR;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use ferroku_core::authorize::Verb;
use http::request::Parts;
use std::sync::Arc;

/// `APP.git` and what is below it.
pub fn routes() -> Routes {
    Routes::new()
        .route("/{repository}/info/refs", get(info_refs))
        .route("/{repository}/git-upload-pack", post(upload_pack))
        .route("/{repository}/git-receive-pack", post(receive_pack))
}

async fn info_refs(node: State<Arc<Node>>, repository: Path<String>, request: Request) -> Response {
    serve(node, repository, request, Endpoint::InfoRefs).await
}

async fn upload_pack(node: State<Arc<Node>>, repository: Path<String>, request: Request) -> Response {
    serve(node, repository, request, Endpoint::UploadPack).await
}

async fn receive_pack(node: State<Arc<Node>>, repository: Path<String>, request: Request) -> Response {
    serve(node, repository, request, Endpoint::ReceivePack).await
}

async fn serve(
    State(node): State<Arc<Node>>,
    Path(repository): Path<String>,
    request: Request,
    endpoint: Endpoint,
) -> Response {
    let (parts, body) = request.into_parts();
    let caller = match admit(&node, &parts, &repository, endpoint).await {
        Ok(caller) => caller,
        Err(error) => return refuse(error.status, &error.message),
    };
    let app_id = caller.app.id;
    let builds = node.builds.clone();
    let request = Request::from_parts(parts, body);
    node.builds.git().serve(endpoint, caller, request, move || builds.after_push(app_id)).await
}

/// What a request wants of the app: what comes after `info/refs` is told by its query.
fn verb(endpoint: Endpoint, parts: &Parts) -> Verb {
    match endpoint {
        Endpoint::UploadPack => Verb::Fetch,
        Endpoint::ReceivePack => Verb::Push,
        Endpoint::InfoRefs => match service(parts.uri.query().unwrap_or_default()) {
            Some("git-receive-pack") => Verb::Push,
            _ => Verb::Fetch,
        },
    }
}

/// Who asks, and for which app. A name without `.git` is no repository's, but who asks comes first.
async fn admit(node: &Node, parts: &Parts, repository: &str, endpoint: Endpoint) -> Result<Caller, ApiError> {
    let name = repository.strip_suffix(".git").unwrap_or_default();
    let (app, user) = auth::app_of(node, parts, name, verb(endpoint, parts)).await?;
    // Each push and each fetch begins with one of these.
    let key = (user.account.id, app.id);
    if endpoint == Endpoint::InfoRefs && node.git_limits.spend(key, now_ms()).is_none() {
        let message = format!(
            "Your account reached the limit of {GIT_REQUESTS_PER_HOUR} pushes and fetches an hour for this app. One comes back \
             every {} seconds.",
            3_600 / GIT_REQUESTS_PER_HOUR
        );
        return Err(ApiError::rate_limit(message));
    }
    Ok(Caller { app, actor: user.actor })
}
