//! `/oauth/clients`: programs that ask people to let them use the API.

use crate::api::body::Body;
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, get, post};
use crate::auth::{self, Browse, ChangeAccount};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::Response;
use ferroku_api::oauth_client::{Change, OauthClient};
use ferroku_core::oauth_client::OauthClient as Stored;
use ferroku_core::{AccountId, OauthClientId};
use ferroku_store::oauth_clients::{self, NewOauthClient, OauthClientChange};
use http::{StatusCode, Uri};
use secrecy::{ExposeSecret, SecretString};
use std::sync::Arc;
use uuid::Uuid;

/// Longest name, in bytes. Ours: it is shown in lists.
const MAX_NAME_BYTES: usize = 200;
/// Longest URI, in bytes.
const MAX_URI_BYTES: usize = 2048;

const SORT_FIELDS: [SortField<OauthClient>; 1] = [("id", SortBy::Text(|client| client.id.to_string()))];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/oauth/clients", get(list).post(create))
        .route("/oauth/clients/{client}", get(show).patch(update).delete(destroy))
        .route("/oauth/clients/{client}/actions/rotate-credentials", post(rotate))
}

async fn list(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    range: ListRange,
) -> Result<Response, ApiError> {
    let clients = oauth_clients::list(&node.store, user.account.id).await?;
    let all = clients.iter().map(|client| OauthClient::new(client, None)).collect();
    Ok(range.answer(all, &SORT_FIELDS))
}

async fn create(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Body(change): Body<Change>,
) -> Result<(StatusCode, Json<OauthClient>), ApiError> {
    check(&change)?;
    let missing = |what: &str| ApiError::invalid_params(format!("Invalid request: {what} is missing."));
    let (secret, secret_hash) = new_secret();
    let new = NewOauthClient {
        id: OauthClientId(Uuid::new_v4()),
        account_id: user.account.id,
        name: change.name.as_deref().ok_or_else(|| missing("name"))?,
        redirect_uri: change.redirect_uri.as_deref().ok_or_else(|| missing("redirect_uri"))?,
        secret_hash: &secret_hash,
    };
    let client = oauth_clients::create(&node.store, &new, &user.actor, now_ms()).await?;
    Ok((StatusCode::CREATED, Json(OauthClient::new(&client, Some(secret.expose_secret())))))
}

async fn show(
    State(node): State<Arc<Node>>,
    Browse(user): Browse,
    Path(id): Path<String>,
) -> Result<Json<OauthClient>, ApiError> {
    let client = find(&node, user.account.id, &id).await?;
    Ok(Json(OauthClient::new(&client, None)))
}

async fn update(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Path(id): Path<String>,
    Body(change): Body<Change>,
) -> Result<Json<OauthClient>, ApiError> {
    let client = find(&node, user.account.id, &id).await?;
    check(&change)?;
    let change = OauthClientChange {
        name: change.name.as_deref(),
        redirect_uri: change.redirect_uri.as_deref(),
        secret_hash: None,
    };
    let client = oauth_clients::update(&node.store, client.id, &change, &user.actor, now_ms()).await?;
    Ok(Json(OauthClient::new(&client, None)))
}

async fn rotate(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Path(id): Path<String>,
) -> Result<Json<OauthClient>, ApiError> {
    let client = find(&node, user.account.id, &id).await?;
    let (secret, secret_hash) = new_secret();
    let change = OauthClientChange { secret_hash: Some(&secret_hash), ..OauthClientChange::default() };
    let client = oauth_clients::update(&node.store, client.id, &change, &user.actor, now_ms()).await?;
    Ok(Json(OauthClient::new(&client, Some(secret.expose_secret()))))
}

async fn destroy(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Path(id): Path<String>,
) -> Result<Json<OauthClient>, ApiError> {
    let client = find(&node, user.account.id, &id).await?;
    oauth_clients::delete(&node.store, client.id, &user.actor, now_ms()).await?;
    Ok(Json(OauthClient::new(&client, None)))
}

/// The account's client with this id.
async fn find(node: &Node, account_id: AccountId, id: &str) -> Result<Stored, ApiError> {
    let clients = oauth_clients::list(&node.store, account_id).await?;
    let meant = clients.into_iter().find(|client| client.id.to_string() == id);
    meant.ok_or_else(|| ApiError::not_found("client"))
}

fn check(change: &Change) -> Result<(), ApiError> {
    if let Some(name) = &change.name
        && (name.trim().is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control))
    {
        let message = format!("Invalid value for name: it has 1 to {MAX_NAME_BYTES} bytes.");
        return Err(ApiError::invalid_params(message));
    }
    match &change.redirect_uri {
        Some(uri) if !is_redirect_uri(uri) => Err(ApiError::invalid_params(
            "Invalid value for redirect_uri: it begins with https://, or with http:// and localhost, and has no fragment.",
        )),
        _ => Ok(()),
    }
}

/// RFC 6749, section 3.1.2: absolute, without a fragment; by TLS but for the machine of whoever writes the client.
fn is_redirect_uri(text: &str) -> bool {
    let Ok(uri) = text.parse::<Uri>() else { return false };
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    let is_local = matches!(uri.host(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let scheme = uri.scheme_str();
    let is_safe = scheme == Some("https") || (scheme == Some("http") && is_local);
    let plain =
        !text.contains('#') && !uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    has_host && is_safe && plain && text.len() <= MAX_URI_BYTES
}

/// A client's secret, and what is kept of it.
fn new_secret() -> (SecretString, String) {
    let secret = auth::random_letters(auth::TOKEN_LETTERS).into();
    let hash = auth::token_hash(&secret);
    (secret, hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_sent_back_by_tls_or_to_their_own_machine() {
        for good in ["https://example.com/cb", "https://example.com:8443/a?b=c", "http://localhost:3000/cb"] {
            assert!(is_redirect_uri(good), "{good}");
        }
        for bad in [
            "http://example.com/cb",
            "https:///cb",
            "/cb",
            "javascript:alert(1)",
            "https://a/b#c",
            "https://u@a/",
            "",
        ] {
            assert!(!is_redirect_uri(bad), "{bad}");
        }
    }
}
