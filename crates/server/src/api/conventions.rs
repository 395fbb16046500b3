//! What every answer of the API has in common: ids of requests, versions, rate limits, JSON for every error.
//!
//! - `Request-Id`: each answer names its own id first and then those that the client sent, so that a chain
//!   of requests can be followed. A client that gathers them (the Heroku CLI) finds its own again.
//! - `Accept`: Heroku answers 406 to whatever does not ask for version 3. Here only a *wrong* version is refused;
//!   no header at all, `*/*` and `application/json` are served as version 3, because `curl`, browsers and
//!   event streams send these, and there is no other version that they could mean.
//! - `If-Match`: tags are weak, and such never match by its strong comparison; a change that depends on one is refused with
//!   412 instead of being done in spite of it (RFC 9110, 13.1.1).
//! - `RateLimit-Remaining`: on every answer to a request with a valid token.
//! - `ETag`, `Last-Modified`, gzip: see [`super::representation`]. `Accept-Inclusion` and `Accept-Expansion` are ignored:
//!   clients send them for add-ons only, and there is none to expand.
//! - No `Access-Control-...`: no web page of another origin may read the API with somebody's credentials.
//! - What changes something is handled to its end, though its client leaves: see [`super::to_the_end`].
//! - A handler that panics is 500 in Heroku's shape, not a connection that breaks off.
//!
//! Source: <https://devcenter.heroku.com/articles/platform-api-reference#overview>.

use crate::api::absent::not_here;
use crate::api::representation::Asked;
use crate::api::to_the_end;
use crate::error::{ApiError, Cause};
use crate::node::{Node, now_ms};
use axum::extract::{ConnectInfo, FromRequestParts, MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ferroku_core::account::Account;
use ferroku_core::event::Actor;
use http::header::{ACCEPT, IF_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use std::any::Any;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use uuid::Uuid;

/// Ids of a client's that are given back with ours. The CLI's list grows with each request of a command.
const MAX_CLIENT_IDS: usize = 50;
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
const RATE_LIMIT_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
/// Stands for "no account was charged" in a [`RequestContext`].
const NOT_CHARGED: i64 = -1;

/// What is known of a request besides its parts. Held in its extensions.
#[derive(Debug, Clone)]
pub struct RequestContext {
    pub request_id: Uuid,
    /// The client's address without port; None when the listener did not say.
    pub remote_address: Option<String>,
    remaining: Arc<AtomicI64>,
}

impl RequestContext {
    /// Charges the account for this request.
    ///
    /// # Errors
    /// 429 when it has made too many.
    pub fn spend(&self, node: &Node, account: &Account) -> Result<(), ApiError> {
        let left = node.rate_limits.spend(account.id, now_ms());
        self.remaining.store(left.unwrap_or(0), Ordering::Relaxed);
        left.map(|_| ()).ok_or_else(|| ApiError::rate_limit("Your account reached the API rate limit"))
    }

    /// Tells the account how many requests it has left, and takes none.
    pub fn look_at_limit(&self, node: &Node, account: &Account) {
        self.remaining.store(node.rate_limits.remaining(account.id, now_ms()), Ordering::Relaxed);
    }

    /// The account as the actor of this request.
    pub fn actor(&self, account: &Account) -> Actor {
        Actor {
            account_id: account.id,
            email: account.email.clone(),
            remote_address: self.remote_address.clone(),
            request_id: Some(self.request_id.to_string()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RequestContext {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(request_context(parts))
    }
}

/// The context of a request; one that did not come through [`apply`] gets a new one.
pub fn request_context(parts: &Parts) -> RequestContext {
    parts.extensions.get().cloned().unwrap_or_else(|| new_context(&parts.extensions))
}

/// The middleware around every route.
pub async fn apply(mut request: Request, next: Next) -> Response {
    let context = new_context(request.extensions());
    let ids = response_ids(&context, request.headers());
    let asked = Asked::of(&request);
    // Not the path itself, which may be a link that opens what it names.
    let route = request.extensions().get::<MatchedPath>();
    let line = format!("{} {}", request.method(), route.map_or("(no route)", MatchedPath::as_str));
    request.extensions_mut().insert(context.clone());
    let mut response = match to_the_end::handle(request, next).await {
        Ok(response) => response,
        Err(panic) => {
            ApiError::internal(anyhow::anyhow!("the handler panicked: {}", text_of(&*panic))).into_response()
        }
    };
    if let Some(Cause(cause)) = response.extensions_mut().remove() {
        tracing::error!(request_id = %context.request_id, "{line}: {cause:#}");
    }
    let mut response = asked.give(response).await;
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, ids);
    let remaining = context.remaining.load(Ordering::Relaxed);
    if remaining != NOT_CHARGED {
        headers.insert(RATE_LIMIT_REMAINING, remaining.into());
    }
    response
}

/// Refuses what no handler could answer. The innermost layer: who may ask at all comes first.
pub async fn check(request: Request, next: Next) -> Response {
    let checked = check_version(request.headers())
        .and_then(|()| check_path(request.uri().path()))
        .and_then(|()| check_condition(request.method(), request.headers()));
    match checked {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("it says nothing")
}

/// Heroku's answer for paths that are not in the API; what Heroku has and this node has not is named.
pub async fn unknown_route(uri: Uri) -> ApiError {
    if let Some(error) = not_here(uri.path()) {
        return error;
    }
    let message = "The requested API endpoint was not found. Are you using the right HTTP verb \
                   (i.e. `GET` vs. `POST`), and did you specify your intended version with the `Accept` header?";
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}

/// For a method that a known path does not have.
pub async fn unknown_method(uri: Uri) -> ApiError {
    if let Some(error) = not_here(uri.path()) {
        return error;
    }
    let message = "This API endpoint does not support that HTTP method.";
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}

fn new_context(extensions: &http::Extensions) -> RequestContext {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    RequestContext {
        request_id: Uuid::new_v4(),
        remote_address: peer.map(|ConnectInfo(peer)| peer.ip().to_canonical().to_string()),
        remaining: Arc::new(AtomicI64::new(NOT_CHARGED)),
    }
}

fn response_ids(context: &RequestContext, headers: &HeaderMap) -> HeaderValue {
    let mut ids = context.request_id.to_string();
    let sent = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok()).unwrap_or("");
    for id in sent.split(',').map(str::trim).filter(|id| Uuid::parse_str(id).is_ok()).take(MAX_CLIENT_IDS) {
        ids.push(',');
        ids.push_str(id);
    }
    HeaderValue::from_str(&ids).expect("UUIDs and commas are valid in a header")
}

fn check_version(headers: &HeaderMap) -> Result<(), ApiError> {
    for value in headers.get_all(ACCEPT) {
        let Ok(value) = value.to_str() else { continue };
        for parameter in value.split([',', ';']) {
            let Some(version) = parameter.trim().strip_prefix("version=") else { continue };
            let number = version.split('.').next().unwrap_or("");
            if number != "3" {
                let message = format!("Version {version:?} of the API does not exist: send `version=3`.");
                return Err(ApiError::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", message));
            }
        }
    }
    Ok(())
}

/// Refuses a change on a condition that nothing here fulfils.
fn check_condition(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if reads || headers.get_all(IF_MATCH).iter().all(|value| value == "*") {
        return Ok(());
    }
    let message = "Nothing was changed: If-Match compares strong tags, and those of this API are weak. Read the resource again \
                   and send the request without If-Match.";
    Err(ApiError::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", message))
}

/// No name has a NUL, and PostgreSQL has no text with one.
fn check_path(path: &str) -> Result<(), ApiError> {
    match path.contains("%00") {
        true => Err(ApiError::bad_request("The path holds a NUL character (%00).")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wrong_version_is_refused() {
        let cases = [
            (None, true),
            (Some("*/*"), true),
            (Some("application/json"), true),
            (Some("text/event-stream"), true),
            (Some("application/vnd.heroku+json; version=3"), true),
            (Some("application/vnd.heroku+json;version=3.sdk"), true),
            (Some("application/vnd.heroku+json; version=3.cedar-acm"), true),
            (Some("application/vnd.heroku+json; version=2"), false),
            (Some("application/vnd.heroku+json; version=30"), false),
            (Some("application/vnd.heroku+json; version="), false),
        ];
        for (accept, accepted) in cases {
            let headers = accept.map(|value| (ACCEPT, HeaderValue::from_static(value)));
            assert_eq!(check_version(&headers.into_iter().collect()).is_ok(), accepted, "{accept:?}");
        }
    }

    #[test]
    fn a_clients_request_ids_come_back_behind_our_own_and_rubbish_does_not() {
        let context = new_context(&http::Extensions::new());
        let theirs = Uuid::from_u128(7).to_string();
        let sent = HeaderValue::from_str(&format!("{theirs}, rubbish,{theirs}")).expect("valid");
        let ids = response_ids(&context, &HeaderMap::from_iter([(REQUEST_ID, sent)]));
        assert_eq!(ids, format!("{},{theirs},{theirs}", context.request_id));
    }
}
