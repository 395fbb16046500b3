//! Git over HTTP: `https://NODE/APP.git`, the repositories that are pushed to.
//!
//! In: the three requests of git's smart protocol, with Basic credentials (any user, an API key as the password).
//! Out: the answer of `git http-backend`. A push's hook is our own program ([`pre_receive`]), which hands the commit
//! to a build and shows the build's text; the references move only when the release is written.
//!
//! Invariant: a request reaches git only after the account may operate the app that its path names.
//!
//! Source: gitprotocol-http(5); git-http-backend(1); githooks(5).

pub mod http_backend;
pub mod post_receive;
pub mod pre_receive;
pub mod push;
pub mod repository;
pub mod routes;

use crate::disk::Room;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use ferroku_core::app::App;
use ferroku_core::event::Actor;
use ferroku_core::protocol::push::{SOCKET_VARIABLE, TOKEN_VARIABLE};
use http::{Method, StatusCode, header};
use http_backend::BackendRequest;
use push::{Push, PushGuard, Pushes};
use repository::Repositories;
use std::path::Path;

/// What a push leaves free on the data folder's disk; below it no push is taken. The store and the logs of
/// running apps need them more.
pub const DISK_RESERVE: Room = Room { bytes: 256 * 1024 * 1024, files: 2_000 };

/// The repositories and the pushes under way. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GitService {
    pub repositories: Repositories,
    pub pushes: Pushes,
}

/// A request that has been let in.
#[derive(Debug, Clone)]
pub struct Caller {
    pub app: App,
    pub actor: Actor,
}

/// Which of the smart protocol's requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    InfoRefs,
    UploadPack,
    ReceivePack,
}

/// What a request holds until its program has ended.
struct Held<F: FnOnce() + Send + 'static> {
    push: Option<PushGuard>,
    afterwards: Option<F>,
}

impl GitService {
    /// For the data folder `data`.
    pub fn new(data: &Path) -> Self {
        Self { repositories: Repositories::new(data), pushes: Pushes::default() }
    }

    /// Answers a request of somebody who may operate the app. `afterwards` runs once a push's program has ended.
    pub async fn serve<F>(
        &self,
        endpoint: Endpoint,
        caller: Caller,
        request: Request,
        afterwards: F,
    ) -> Response
    where
        F: FnOnce() + Send + 'static,
    {
        // git is given what was looked at, not the client's query: it may read that in another way.
        let (is_push, query) = match endpoint {
            Endpoint::ReceivePack => (true, ""),
            Endpoint::UploadPack => (false, ""),
            Endpoint::InfoRefs => match service(request.uri().query().unwrap_or_default()) {
                Some("git-receive-pack") => (true, "service=git-receive-pack"),
                Some("git-upload-pack") => (false, "service=git-upload-pack"),
                _ => {
                    return refuse(
                        StatusCode::FORBIDDEN,
                        "This git client is too old: it must speak smart HTTP.",
                    );
                }
            },
        };
        if is_push && let Some(message) = disk_is_full(self.repositories.folder().as_path()) {
            return refuse(StatusCode::INSUFFICIENT_STORAGE, &message);
        }
        if let Err(error) = self.repositories.ensure(caller.app.id).await {
            return broken(&error);
        }
        let mut environment = Vec::new();
        let mut held = Held { push: None, afterwards: None };
        if endpoint == Endpoint::ReceivePack {
            let push = Push { app: caller.app.clone(), actor: caller.actor.clone() };
            let guard = self.pushes.register(push);
            environment.push((TOKEN_VARIABLE, guard.token().to_owned()));
            environment.push((SOCKET_VARIABLE, self.repositories.hook_socket().display().to_string()));
            held = Held { push: Some(guard), afterwards: Some(afterwards) };
        }
        let (parts, body) = request.into_parts();
        let request = BackendRequest {
            app_id: caller.app.id,
            method: parts.method,
            endpoint: endpoint.path(),
            query,
            headers: parts.headers,
            user: caller.actor.email,
            remote_address: caller.actor.remote_address,
            environment,
            body,
        };
        match http_backend::serve(&self.repositories, request, held).await {
            Ok(response) => response,
            Err(error) => broken(&error),
        }
    }
}

impl Endpoint {
    /// The endpoint with this path behind `APP.git/`, when the method fits it.
    pub fn find(method: &Method, path: &str) -> Option<Self> {
        match (method, path) {
            (&Method::GET, "info/refs") => Some(Self::InfoRefs),
            (&Method::POST, "git-upload-pack") => Some(Self::UploadPack),
            (&Method::POST, "git-receive-pack") => Some(Self::ReceivePack),
            _ => None,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::InfoRefs => "info/refs",
            Self::UploadPack => "git-upload-pack",
            Self::ReceivePack => "git-receive-pack",
        }
    }
}

/// `text` as an answer that git shows to its user, as `remote:` lines.
pub fn refuse(status: StatusCode, text: &str) -> Response {
    let mut response = (status, Body::from(format!("{text}\n"))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Basic realm=\"Ferroku\""));
    }
    response
}

fn broken(error: &dyn std::error::Error) -> Response {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        chain.push_str(&format!(": {error}"));
        source = error.source();
    }
    tracing::error!("git request failed: {chain}");
    refuse(StatusCode::INTERNAL_SERVER_ERROR, "The node could not serve this git request; its log says why.")
}

fn service(query: &str) -> Option<&str> {
    query.split('&').find_map(|pair| pair.strip_prefix("service="))
}

/// What to say when less than the reserve is free on the disk of `folder`.
pub fn disk_is_full(folder: &Path) -> Option<String> {
    const ADVICE: &str = "Nothing was changed; free some space on the node and push again.";
    let free = Room::on(folder)?;
    if free.bytes < DISK_RESERVE.bytes {
        let [free, kept] = [free.bytes, DISK_RESERVE.bytes].map(|bytes| bytes / (1024 * 1024));
        let why = format!("{free} MB are free and {kept} MB are kept for running apps");
        return Some(format!("The node's disk is full: {why}. {ADVICE}"));
    }
    let why =
        format!("{} files can be made and {} are kept for running apps", free.files, DISK_RESERVE.files);
    (free.files < DISK_RESERVE.files).then(|| format!("The node's disk is full: {why}. {ADVICE}"))
}

impl<F: FnOnce() + Send + 'static> Drop for Held<F> {
    fn drop(&mut self) {
        drop(self.push.take());
        if let Some(afterwards) = self.afterwards.take() {
            afterwards();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
