//! `/oauth/authorizations` and `/oauth/sessions`: logging in and out.

use crate::api::body::Body;
use crate::api::conventions::{RequestContext, request_context};
use crate::api::range::{ListRange, SortBy, SortField};
use crate::api::routes::{Routes, delete, get, post};
use crate::auth::{self, Authenticated, ChangeAccount, Credentials, OwnAuthorization};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use crate::people;
use crate::secrets::API_KEY_DESCRIPTION;
use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use axum::response::Response;
use ferroku_api::Timestamp;
use ferroku_api::oauth_authorization::{Create, OauthAuthorization};
use ferroku_core::account::Account;
use ferroku_core::authorize::Verb;
use ferroku_core::browser_session::BrowserSession;
use ferroku_core::oauth_authorization::{OauthAuthorization as Stored, Scopes};
use ferroku_core::{AuthorizationId, Millis};
use ferroku_store::events::NewEvent;
use ferroku_store::oauth_authorizations::{self, NewAuthorization, NewToken};
use ferroku_store::{Store, StoreError, accounts, browser_sessions, events, write};
use http::StatusCode;
use http::request::Parts;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use uuid::Uuid;

/// Longest description, in bytes. Ours: it is shown in lists.
const MAX_DESCRIPTION_BYTES: usize = 1024;
/// Longest validity, in seconds: 100 years; beyond it the time of expiry is no real date.
const MAX_EXPIRES_IN_SECONDS: i64 = 100 * 365 * 24 * 3600;

/// Where the CLI sends the code of the second factor.
const TWO_FACTOR_CODE: &str = "Heroku-Two-Factor-Code";

const SORT_FIELDS: [SortField<OauthAuthorization>; 1] =
    [("id", SortBy::Text(|authorization| authorization.id.to_string()))];
const SESSION_SORT_FIELDS: [SortField<Session>; 1] = [("id", SortBy::Text(|session| session.id.to_string()))];

/// The endpoints of this noun.
pub fn routes() -> Routes {
    Routes::new()
        .route("/oauth/authorizations", get(list).post(create))
        .route("/oauth/authorizations/{authorization}", get(show).patch(update).delete(destroy))
        .route("/oauth/authorizations/{authorization}/actions/regenerate-tokens", post(regenerate))
        .route("/oauth/sessions", get(sessions))
        .route("/oauth/sessions/{session}", delete(end_session))
}

/// An account that proved itself by its password, or by a token that may do everything: what it makes may outlive it.
struct LoggedIn {
    account: Account,
    context: RequestContext,
    /// Then this is a login, and ends with the password.
    by_password: bool,
}

impl FromRequestParts<Arc<Node>> for LoggedIn {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, ApiError> {
        let context = request_context(parts);
        if let Credentials::Basic { user, password } = auth::credentials(&parts.headers)?
            && user.contains('@')
            && auth::by_token(node, &password, &context).await?.is_none()
        {
            let address = context.remote_address.as_deref().unwrap_or("");
            let code = parts.headers.get(TWO_FACTOR_CODE).and_then(|code| code.to_str().ok());
            let code = code.map(SecretString::from);
            let account = node.logins.check(&node.store, &user, password, code, address, now_ms()).await?;
            accounts::record_login(&node.store, account.id, now_ms()).await?;
            return Ok(Self { account, context, by_password: true });
        }
        let user = auth::user_of(node, parts, Verb::ChangeAccount).await?;
        Ok(Self { account: user.account, context, by_password: false })
    }
}

async fn create(
    State(node): State<Arc<Node>>,
    LoggedIn { account, context, by_password }: LoggedIn,
    Body(create): Body<Create>,
) -> Result<(StatusCode, Json<OauthAuthorization>), ApiError> {
    let now = now_ms();
    let description = create.description.unwrap_or_else(|| "Long-lived user authorization".to_owned());
    check_description(&description)?;
    if create.expires_in.is_some_and(|seconds| !(1..=MAX_EXPIRES_IN_SECONDS).contains(&seconds)) {
        let message =
            format!("Invalid value for expires_in: not between 1 and {MAX_EXPIRES_IN_SECONDS} seconds.");
        return Err(ApiError::invalid_params(message));
    }
    let scope = match create.scope.filter(|names| !names.is_empty()) {
        Some(names) => Scopes::parse(&names)
            .map_err(|error| ApiError::invalid_params(format!("Invalid value for scope: {error}.")))?,
        None => Scopes::global(),
    };
    let token = auth::new_token();
    let (token_hash, token_redacted) = (auth::token_hash(&token), auth::redact(&token));
    let new = NewAuthorization {
        id: AuthorizationId(Uuid::new_v4()),
        account_id: account.id,
        description: &description,
        scope: &scope,
        token_hash: &token_hash,
        token_redacted: &token_redacted,
        expires_at: create.expires_in.map(|seconds| now + seconds * 1000),
        is_login: by_password,
    };
    let stored = write_authorization(&node.store, &new, &account, &context, now).await?;
    let answer = OauthAuthorization::new(&stored, &account, Some(token.expose_secret()), now);
    Ok((StatusCode::CREATED, Json(answer)))
}

/// Makes the authorization of a CLI that a person let in, in a browser, and gives its token.
///
/// # Errors
/// The store failed.
pub async fn log_in(
    node: &Node,
    account: &Account,
    description: &str,
    valid_seconds: i64,
    context: &RequestContext,
) -> Result<SecretString, ApiError> {
    let token = auth::new_token();
    let (token_hash, token_redacted) = (auth::token_hash(&token), auth::redact(&token));
    let now = now_ms();
    let new = NewAuthorization {
        id: AuthorizationId(Uuid::new_v4()),
        account_id: account.id,
        description,
        scope: &Scopes::global(),
        token_hash: &token_hash,
        token_redacted: &token_redacted,
        expires_at: Some(now + valid_seconds * 1000),
        is_login: true,
    };
    write_authorization(&node.store, &new, account, context, now).await?;
    Ok(token)
}

async fn write_authorization(
    store: &Store,
    new: &NewAuthorization<'_>,
    account: &Account,
    context: &RequestContext,
    now: Millis,
) -> Result<Stored, StoreError> {
    let actor = context.actor(account);
    write!(store, tx => {
        let stored = oauth_authorizations::create(&mut tx, new, now).await?;
        let event =
            NewEvent { app_id: None, actor: &actor, kind: "oauth_authorization.create", log_message: None };
        events::append(&mut tx, event, now).await?;
        Ok(stored)
    })
}

async fn list(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    range: ListRange,
) -> Result<Response, ApiError> {
    let now = now_ms();
    let stored = oauth_authorizations::list(&node.store, user.account.id, now).await?;
    let present = |stored: &Stored| OauthAuthorization::new(stored, &user.account, None, now);
    Ok(range.answer(stored.iter().map(present).collect(), &SORT_FIELDS))
}

async fn show(
    State(node): State<Arc<Node>>,
    OwnAuthorization(user): OwnAuthorization,
    Path(id): Path<String>,
) -> Result<Json<OauthAuthorization>, ApiError> {
    let stored = find(&node, &user, &id).await?;
    Ok(Json(OauthAuthorization::new(&stored, &user.account, None, now_ms())))
}

async fn destroy(
    State(node): State<Arc<Node>>,
    OwnAuthorization(user): OwnAuthorization,
    Path(id): Path<String>,
) -> Result<Json<OauthAuthorization>, ApiError> {
    let stored = find(&node, &user, &id).await?;
    oauth_authorizations::delete(&node.store, &stored, &user.actor, now_ms()).await?;
    Ok(Json(OauthAuthorization::new(&stored, &user.account, None, now_ms())))
}

/// Heroku also takes a client's id and secret here, which make the authorization that client's.
#[derive(Deserialize)]
struct Update {
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    client: Option<serde_json::Value>,
}

async fn update(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Path(id): Path<String>,
    Body(update): Body<Update>,
) -> Result<Json<OauthAuthorization>, ApiError> {
    let stored = find(&node, &user, &id).await?;
    if update.client.is_some() {
        let message = "An authorization cannot be handed to a client here: make a new one for it.";
        return Err(ApiError::invalid_params(message));
    }
    let now = now_ms();
    let description = update.description.as_deref();
    description.map_or(Ok(()), check_description)?;
    let stored =
        oauth_authorizations::update(&node.store, stored.id, description, None, &user.actor, now).await?;
    Ok(Json(OauthAuthorization::new(&stored, &user.account, None, now)))
}

/// A new token, which lasts as long as the old one would have.
async fn regenerate(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Path(id): Path<String>,
) -> Result<Json<OauthAuthorization>, ApiError> {
    let stored = find(&node, &user, &id).await?;
    let token = auth::new_token();
    let new = NewToken { hash: &auth::token_hash(&token), redacted: &auth::redact(&token) };
    let now = now_ms();
    let stored =
        oauth_authorizations::update(&node.store, stored.id, None, Some(new), &user.actor, now).await?;
    Ok(Json(OauthAuthorization::new(&stored, &user.account, Some(token.expose_secret()), now)))
}

/// A browser that is logged in.
#[derive(Serialize)]
struct Session {
    created_at: Timestamp,
    description: String,
    expires_in: i64,
    id: Uuid,
    updated_at: Timestamp,
}

impl Session {
    fn new(session: &BrowserSession, now: Millis) -> Self {
        Self {
            created_at: session.created_at.into(),
            description: session.description.clone(),
            expires_in: (session.expires_at - now).max(0) / 1000,
            id: session.id.0,
            updated_at: session.updated_at.into(),
        }
    }
}

async fn sessions(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    range: ListRange,
) -> Result<Response, ApiError> {
    let now = now_ms();
    let sessions = browser_sessions::list(&node.store, user.account.id, now).await?;
    Ok(range
        .answer(sessions.iter().map(|session| Session::new(session, now)).collect(), &SESSION_SORT_FIELDS))
}

/// `~` is the session behind the token that asks, and tokens have none here: the CLI asks for it when it logs out.
async fn end_session(
    State(node): State<Arc<Node>>,
    ChangeAccount(user): ChangeAccount,
    Path(id): Path<String>,
) -> Result<Json<Session>, ApiError> {
    let now = now_ms();
    let sessions = browser_sessions::list(&node.store, user.account.id, now).await?;
    let meant = sessions.iter().find(|session| session.id.to_string() == id);
    let meant = meant.ok_or_else(|| ApiError::not_found("session"))?;
    people::sessions::end(&node, meant.id).await?;
    Ok(Json(Session::new(meant, now)))
}

fn check_description(description: &str) -> Result<(), ApiError> {
    if description.len() <= MAX_DESCRIPTION_BYTES {
        return Ok(());
    }
    let message = format!("Invalid value for description: longer than {MAX_DESCRIPTION_BYTES} bytes.");
    Err(ApiError::invalid_params(message))
}

/// The account's authorization with this id; `~` is the one behind its API key.
async fn find(node: &Node, user: &Authenticated, id: &str) -> Result<Stored, ApiError> {
    let all = oauth_authorizations::list(&node.store, user.account.id, now_ms()).await?;
    let is_meant = |stored: &Stored| match id {
        "~" => stored.description == API_KEY_DESCRIPTION,
        id => stored.id.to_string() == id,
    };
    all.into_iter().find(is_meant).ok_or_else(|| ApiError::not_found("authorization"))
}
