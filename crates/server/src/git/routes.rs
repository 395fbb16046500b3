//! The paths that git clients ask for: who it is, which app, and then git itself.

use super::{Caller, Endpoint, refuse};
use crate::auth;
use crate::error::ApiError;
use crate::node::Node;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{get, post};
use ferroku_core::authorize::Verb;
use http::request::Parts;
use std::sync::Arc;

/// `APP.git` and what is below it.
pub fn routes() -> Router<Arc<Node>> {
    Router::new()
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
    let caller = match admit(&node, &parts, &repository).await {
        Ok(caller) => caller,
        Err(error) => return refuse(error.status, &error.message),
    };
    let app_id = caller.app.id;
    let builds = node.builds.clone();
    let request = Request::from_parts(parts, body);
    node.builds.git().serve(endpoint, caller, request, move || builds.after_push(app_id)).await
}

/// Who asks, and for which app.
async fn admit(node: &Node, parts: &Parts, repository: &str) -> Result<Caller, ApiError> {
    let user = auth::authenticate(node, parts).await?;
    let name = repository.strip_suffix(".git").ok_or_else(|| ApiError::not_found("app"))?;
    let app = auth::find_app(node, &user.account, name, Verb::Operate).await?;
    Ok(Caller { app, actor: user.actor })
}
