//! Who is asking: the credentials of a request, and whether they may touch the app it names.
//!
//! Access tokens come as `Bearer TOKEN` or as the password of Basic credentials with any user name
//! (`:TOKEN`, `heroku:TOKEN`, `APP:TOKEN`; clients use all of these), or as the user name with no password. Tokens
//! are drawn from 238 random bits and looked up by their SHA-256, so that neither the database nor the time
//! a comparison takes says anything of them. A password is accepted only where a token is made from it (`login`).
//!
//! Every handler that touches an app takes one of [`ViewApp`], [`OperateApp`], [`ManageApp`]: each asks
//! `ferroku_core::authorize` before the handler runs.

use crate::api::conventions::{RequestContext, request_context};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::extract::{FromRequestParts, RawPathParams};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferroku_core::account::{Account, Role};
use ferroku_core::app::App;
use ferroku_core::authorize::{Object, Verb, authorize};
use ferroku_core::event::Actor;
use ferroku_core::oauth_authorization::OauthAuthorization;
use ferroku_store::{accounts, apps, collaborators};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Longest `Authorization` value that is looked at, in bytes: an email address and a password, in base64.
const MAX_CREDENTIALS_BYTES: usize = 4096;
const TOKEN_PREFIX: &str = "HRKU-";
/// Random letters and digits of a token: log2(62) * 40 = 238 bits.
const TOKEN_LETTERS: usize = 40;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// The credentials of a request, unchecked.
#[derive(Debug)]
pub enum Credentials {
    Bearer(SecretString),
    Basic { user: String, password: SecretString },
}

/// Whoever sent a request, known by a valid access token.
#[derive(Debug, Clone)]
pub struct Authenticated {
    pub account: Account,
    pub authorization: OauthAuthorization,
    /// For events: the account, and where the request came from.
    pub actor: Actor,
}

/// The app named by the path's `{app}`, which the sender may see.
#[derive(Debug, Clone)]
pub struct ViewApp {
    pub app: App,
    pub user: Authenticated,
}

/// The app named by the path's `{app}`, which the sender may change the code, config and formation of.
#[derive(Debug, Clone)]
pub struct OperateApp {
    pub app: App,
    pub user: Authenticated,
}

/// The app named by the path's `{app}`, which the sender may rename and destroy.
#[derive(Debug, Clone)]
pub struct ManageApp {
    pub app: App,
    pub user: Authenticated,
}

/// Reads the `Authorization` header.
///
/// # Errors
/// 401 when there is none or it cannot be read.
pub fn credentials(headers: &HeaderMap) -> Result<Credentials, ApiError> {
    let value = headers.get(AUTHORIZATION).ok_or_else(ApiError::no_credentials)?;
    let value = value.to_str().map_err(|_| ApiError::unauthorized())?;
    if value.len() > MAX_CREDENTIALS_BYTES {
        return Err(ApiError::unauthorized());
    }
    let (scheme, rest) = value.trim().split_once(' ').ok_or_else(ApiError::unauthorized)?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Credentials::Bearer(rest.into()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(ApiError::unauthorized());
    }
    let decoded = STANDARD.decode(rest).map_err(|_| ApiError::unauthorized())?;
    let text = String::from_utf8(decoded).map_err(|_| ApiError::unauthorized())?;
    let (user, password) = text.split_once(':').unwrap_or((&text, ""));
    Ok(Credentials::Basic { user: user.to_owned(), password: password.into() })
}

/// Checks a request's access token.
///
/// # Errors
/// 401; 429 when the account has made too many requests.
pub async fn authenticate(node: &Node, parts: &Parts) -> Result<Authenticated, ApiError> {
    let context = request_context(parts);
    let token = match credentials(&parts.headers)? {
        Credentials::Bearer(token) => token,
        Credentials::Basic { user, password } if password.expose_secret().is_empty() => user.into(),
        Credentials::Basic { password, .. } => password,
    };
    let user = by_token(node, &token, &context).await?.ok_or_else(ApiError::unauthorized)?;
    context.spend(node, &user.account)?;
    Ok(user)
}

/// Whose token this is, if it is anybody's.
///
/// # Errors
/// The store failed.
pub async fn by_token(
    node: &Node,
    token: &SecretString,
    context: &RequestContext,
) -> Result<Option<Authenticated>, ApiError> {
    let hash = token_hash(token);
    let found = accounts::by_token_hash(&node.store, &hash, now_ms()).await?;
    Ok(found.map(|(account, authorization)| {
        let actor = context.actor(&account);
        Authenticated { account, authorization, actor }
    }))
}

/// The app with this id or name, when the account may do `verb` to it.
///
/// # Errors
/// 404 when there is none; 403 when it is another's.
pub async fn find_app(node: &Node, account: &Account, id_or_name: &str, verb: Verb) -> Result<App, ApiError> {
    let app = apps::find(&node.store, id_or_name).await?.ok_or_else(|| ApiError::not_found("app"))?;
    let is_collaborator = collaborators::exists(&node.store, app.id, account.id).await?;
    if authorize(account, verb, Object::App(&app, is_collaborator)) {
        return Ok(app);
    }
    Err(ApiError::forbidden(match authorize(account, Verb::View, Object::App(&app, is_collaborator)) {
        true => format!("You do not have permission to do this to the app {}. Ask its owner.", app.name),
        false => format!("You do not have access to the app {}.", app.name),
    }))
}

/// Whether the account sees every app of the node.
pub fn sees_every_app(account: &Account) -> bool {
    matches!(account.role, Role::Owner | Role::Admin)
}

/// A new access token.
///
/// # Panics
/// When the kernel has no randomness, which it always has once the system is up.
pub fn new_token() -> SecretString {
    format!("{TOKEN_PREFIX}{}", random_letters(TOKEN_LETTERS)).into()
}

/// So many random letters and digits.
///
/// # Panics
/// As [`new_token`].
pub fn random_letters(count: usize) -> String {
    let mut letters = String::with_capacity(count);
    let mut bytes = [0u8; 64];
    while letters.len() < count {
        getrandom::fill(&mut bytes).expect("the kernel's random source answers once the system is up");
        // 248 is the largest multiple of 62 in a byte: above it the first letters would be likelier.
        for byte in bytes.iter().filter(|byte| **byte < 248).take(count - letters.len()) {
            letters.push(char::from(ALPHABET[usize::from(byte % 62)]));
        }
    }
    letters
}

/// What the store knows a token by: the lower-case hex of its SHA-256.
pub fn token_hash(token: &SecretString) -> String {
    hex::encode(Sha256::digest(token.expose_secret().as_bytes()))
}

/// A token as it may be shown: enough to tell it from others, in the form that the CLI compares with its own.
pub fn redact(token: &SecretString) -> String {
    let token = token.expose_secret();
    let shown = TOKEN_PREFIX.len() + 2;
    match (token.get(..shown), token.len().checked_sub(2).and_then(|at| token.get(at..))) {
        (Some(start), Some(end)) => format!("{start}**********{end}"),
        _ => "**********".to_owned(),
    }
}

impl FromRequestParts<Arc<Node>> for Authenticated {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, ApiError> {
        authenticate(node, parts).await
    }
}

async fn app_of_path(
    parts: &mut Parts,
    node: &Arc<Node>,
    verb: Verb,
) -> Result<(App, Authenticated), ApiError> {
    let user = authenticate(node, parts).await?;
    let params = RawPathParams::from_request_parts(parts, node)
        .await
        .map_err(|_| ApiError::bad_request("The path is not valid UTF-8."))?;
    let name = params.iter().find(|(name, _)| *name == "app").map(|(_, value)| value.to_owned());
    let name =
        name.ok_or_else(|| ApiError::internal(anyhow::anyhow!("a route without {{app}} asks for an app")))?;
    Ok((find_app(node, &user.account, &name, verb).await?, user))
}

impl FromRequestParts<Arc<Node>> for ViewApp {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, ApiError> {
        let (app, user) = app_of_path(parts, node, Verb::View).await?;
        Ok(Self { app, user })
    }
}

impl FromRequestParts<Arc<Node>> for OperateApp {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, ApiError> {
        let (app, user) = app_of_path(parts, node, Verb::Operate).await?;
        Ok(Self { app, user })
    }
}

impl FromRequestParts<Arc<Node>> for ManageApp {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, ApiError> {
        let (app, user) = app_of_path(parts, node, Verb::Manage).await?;
        Ok(Self { app, user })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().expect("a header value"))])
    }

    #[test]
    fn credentials_are_read_in_every_form_that_clients_use() {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let cases = [
            ("Bearer T".to_owned(), "bearer T"),
            ("bearer   T ".to_owned(), "bearer T"),
            (basic(":T"), "basic  T"),
            (basic("heroku:T"), "basic heroku T"),
            (basic("me@example.com:a:b"), "basic me@example.com a:b"),
            (basic("T"), "basic T "),
            ("Basic !".to_owned(), "401"),
            ("Basic /w==".to_owned(), "401"),
            ("Digest x".to_owned(), "401"),
            ("T".to_owned(), "401"),
            (format!("Bearer {}", "x".repeat(5000)), "401"),
        ];
        for (value, expected) in cases {
            let seen = match credentials(&header(&value)) {
                Ok(Credentials::Bearer(token)) => format!("bearer {}", token.expose_secret()),
                Ok(Credentials::Basic { user, password }) => {
                    format!("basic {user} {}", password.expose_secret())
                }
                Err(error) => error.status.as_u16().to_string(),
            };
            assert_eq!(seen, expected, "{value}");
        }
        assert_eq!(credentials(&HeaderMap::new()).expect_err("none").status, 401);
    }

    #[test]
    fn tokens_differ_and_are_redacted_as_the_cli_compares_them() {
        let (one, two) = (new_token(), new_token());
        assert_ne!(one.expose_secret(), two.expose_secret());
        assert_eq!(one.expose_secret().len(), TOKEN_PREFIX.len() + TOKEN_LETTERS);
        let redacted = redact(&one);
        let (start, end) = redacted.split_once("**********").expect("redacted");
        assert!(one.expose_secret().starts_with(start) && one.expose_secret().ends_with(end));
        assert_eq!(start.len() + end.len(), 9);
        assert_eq!(redact(&"short".into()), "**********");
        assert!(!format!("{one:?}").contains(one.expose_secret()));
    }
}
