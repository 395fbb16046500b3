//! Who is asking: the credentials of a request, and whether they may touch the app it names.
//!
//! Access tokens come as `Bearer TOKEN` or as the password of Basic credentials with any user name
//! (`:TOKEN`, `heroku:TOKEN`, `APP:TOKEN`; clients use all of these), or as the user name with no password. Tokens
//! are drawn from 238 random bits and looked up by their SHA-256, so that neither the database nor the time
//! a comparison takes says anything of them. A password is accepted only where a token is made from it (`login`).
//!
//! A handler says what it is about to do by the extractor that it takes ([`ViewApp`], [`OperateApp`], [`Browse`] ...):
//! each asks `ferroku_core::authorize` before the handler runs. There is no extractor that only tells who it is. The test
//! `api/tests/authorization.rs` walks every route with every role.

use crate::api::conventions::{RequestContext, request_context};
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::extract::{FromRequestParts, RawPathParams};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ferroku_core::AuthorizationId;
use ferroku_core::account::Account;
use ferroku_core::app::App;
use ferroku_core::authorize::{Object, Principal, Refusal, Relation, Verb, authorize};
use ferroku_core::collaborator::Permissions;
use ferroku_core::event::Actor;
use ferroku_core::oauth_authorization::OauthAuthorization;
use ferroku_core::team::Team;
use ferroku_store::{accounts, apps, collaborators, teams};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use http::request::Parts;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Longest `Authorization` value that is looked at, in bytes: an email address and a password, in base64.
const MAX_CREDENTIALS_BYTES: usize = 4096;
/// To ask how many requests are left is free, and possible when there are none. Source: as [`crate::rate_limit`].
const RATE_LIMITS_PATH: &str = "/account/rate-limits";
const TOKEN_PREFIX: &str = "HRKU-";
/// Random letters and digits of a token: log2(62) * 40 = 238 bits.
pub const TOKEN_LETTERS: usize = 40;
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// The credentials of a request, unchecked.
#[derive(Debug)]
pub enum Credentials {
    Bearer(SecretString),
    Basic { user: String, password: SecretString },
}

/// Whoever sent a request, known by a valid access token. What it may do is still to be asked: a handler takes one of
/// the extractors below, which do.
#[derive(Debug, Clone)]
pub struct Authenticated {
    pub account: Account,
    pub authorization: OauthAuthorization,
    /// For events: the account, and where the request came from.
    pub actor: Actor,
}

impl Authenticated {
    /// As `authorize` knows it.
    pub fn principal(&self) -> Principal<'_> {
        principal(&self.account, &self.authorization)
    }

    /// Refuses unless the sender may do this to its own account, or to the node.
    ///
    /// # Errors
    /// 403.
    pub fn require(&self, verb: Verb) -> Result<(), ApiError> {
        let object = match verb {
            Verb::SeeNode | Verb::Administer | Verb::Appoint => Object::Node,
            _ => Object::Account(self.account.id),
        };
        authorize(self.principal(), verb, object)
            .map_err(|refusal| refused(refusal, "Only the node's owner and its admins may do this."))
    }

    /// Whether it is one of those who run the node, and sees every app.
    pub fn sees_every_app(&self) -> bool {
        authorize(self.principal(), Verb::SeeNode, Object::Node).is_ok()
    }
}

/// An account with a token, as `authorize` knows it.
pub fn principal<'a>(account: &'a Account, authorization: &'a OauthAuthorization) -> Principal<'a> {
    Principal { account_id: account.id, role: account.role, scopes: &authorization.scope }
}

/// Declares an extractor for each verb of an app: the app named by the path's `{app}`, and who may do that to it.
macro_rules! app_extractors {
    ($($(#[$doc:meta])* $name:ident = $verb:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            pub app: App,
            pub user: Authenticated,
        }

        impl FromRequestParts<Arc<Node>> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, ApiError> {
                let (app, user) = app_of_path(parts, node, Verb::$verb).await?;
                Ok(Self { app, user })
            }
        }
    )*};
}

/// Declares an extractor for each verb of a team: the team named by the path's `{team}`, and who may do that to it.
macro_rules! team_extractors {
    ($($(#[$doc:meta])* $name:ident = $verb:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name {
            pub team: Team,
            pub user: Authenticated,
        }

        impl FromRequestParts<Arc<Node>> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, ApiError> {
                let user = authenticate(node, parts).await?;
                let name = parameter(parts, node, "team").await?;
                let team = find_team(node, user.principal(), &name, Verb::$verb).await?;
                Ok(Self { team, user })
            }
        }
    )*};
}

/// Declares an extractor for each verb of the sender's own account, or of the node: who may do that.
macro_rules! user_extractors {
    ($($(#[$doc:meta])* $name:ident = $verb:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(pub Authenticated);

        impl FromRequestParts<Arc<Node>> for $name {
            type Rejection = ApiError;

            async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, ApiError> {
                let user = authenticate(node, parts).await?;
                user.require(Verb::$verb)?;
                Ok(Self(user))
            }
        }
    )*};
}

app_extractors! {
    /// May see the app.
    ViewApp = View,
    /// May read its config vars.
    ReadConfigApp = ReadConfig,
    /// May change its config vars.
    WriteConfigApp = WriteConfig,
    /// May choose what code is built.
    PushApp = Push,
    /// May put an older release or slug in force.
    ReleaseApp = Release,
    /// May run commands in its dynos.
    RunApp = Run,
    /// May scale and restart it, and change what it is reached by.
    OperateApp = Operate,
    /// May change some of its settings; the handler asks which, by [`require_app`].
    ChangeApp = Change,
    /// May destroy, rename and lock it, and take others' access away.
    ManageApp = Manage,
    /// May give others access, or the app to them.
    ShareApp = Share,
    /// May join or leave it.
    OwnAccessApp = OwnAccess,
}

team_extractors! {
    /// May see the team.
    ViewTeam = ViewTeam,
    /// May see its members and all its apps.
    ViewMembers = ViewMembers,
    /// May leave it.
    OwnAccessTeam = OwnAccess,
    /// May rename and delete it, and take others out.
    ManageTeam = ManageTeam,
    /// May take others in.
    ShareTeam = Share,
}

user_extractors! {
    /// May see its own account.
    ViewAccount = ViewAccount,
    /// May change its own account, and what logs in as it.
    ChangeAccount = ChangeAccount,
    /// May list what it has and what the node offers.
    Browse = Browse,
    /// May make something new.
    Create = Create,
    /// May see what the whole node does.
    SeeNode = SeeNode,
    /// May change the node's accounts and settings.
    Administer = Administer,
    /// May say who the node's admins are.
    Appoint = Appoint,
}

/// May see and revoke the authorization that the path's `{authorization}` names: any of its account's, or the very one that
/// asks, whatever its scope. A token that leaked can be revoked with itself.
#[derive(Debug, Clone)]
pub struct OwnAuthorization(pub Authenticated);

impl FromRequestParts<Arc<Node>> for OwnAuthorization {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, node: &Arc<Node>) -> Result<Self, ApiError> {
        let user = authenticate(node, parts).await?;
        if parameter(parts, node, "authorization").await? != user.authorization.id.to_string() {
            user.require(Verb::ChangeAccount)?;
        }
        Ok(Self(user))
    }
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
async fn authenticate(node: &Node, parts: &Parts) -> Result<Authenticated, ApiError> {
    let context = request_context(parts);
    let token = match credentials(&parts.headers)? {
        Credentials::Bearer(token) => token,
        Credentials::Basic { user, password } if password.expose_secret().is_empty() => user.into(),
        Credentials::Basic { password, .. } => password,
    };
    let user = by_token(node, &token, &context).await?.ok_or_else(ApiError::unauthorized)?;
    if parts.uri.path() == RATE_LIMITS_PATH {
        context.look_at_limit(node, &user.account);
    } else {
        context.spend(node, &user.account)?;
    }
    Ok(user)
}

/// Whose token this is, if it is anybody's.
///
/// # Errors
/// The store failed; 403 for an account that is suspended.
pub async fn by_token(
    node: &Node,
    token: &SecretString,
    context: &RequestContext,
) -> Result<Option<Authenticated>, ApiError> {
    let hash = token_hash(token);
    let found = accounts::by_token_hash(&node.store, &hash, now_ms()).await?;
    let Some((account, authorization)) = found else { return Ok(None) };
    refuse_suspended(&account)?;
    let actor = context.actor(&account);
    Ok(Some(Authenticated { account, authorization, actor }))
}

/// Who an authorization belongs to, while it is good; for what goes on after its request.
///
/// # Errors
/// The store failed.
pub async fn by_authorization(
    node: &Node,
    id: AuthorizationId,
) -> Result<Option<(Account, OauthAuthorization)>, ApiError> {
    let found = accounts::by_authorization(&node.store, id, now_ms()).await?;
    Ok(found.filter(|(account, _)| account.suspended_at.is_none()))
}

/// Who sent a request, when it may do `verb` to its own account or to the node.
///
/// # Errors
/// 401; 403; 429.
pub async fn user_of(node: &Node, parts: &Parts, verb: Verb) -> Result<Authenticated, ApiError> {
    let user = authenticate(node, parts).await?;
    user.require(verb)?;
    Ok(user)
}

/// The app of this id or name and who sent the request, when it may do `verb` to it.
///
/// # Errors
/// 401; 403; 404; 429.
pub async fn app_of(
    node: &Node,
    parts: &Parts,
    id_or_name: &str,
    verb: Verb,
) -> Result<(App, Authenticated), ApiError> {
    let user = authenticate(node, parts).await?;
    Ok((find_app(node, user.principal(), id_or_name, verb).await?, user))
}

/// The app with this id or name, when the principal may do `verb` to it.
///
/// # Errors
/// 404 when there is none; 403 when it is another's, or the token is not for that.
pub async fn find_app(
    node: &Node,
    principal: Principal<'_>,
    id_or_name: &str,
    verb: Verb,
) -> Result<App, ApiError> {
    if !principal.scopes.allow(verb.scope()) {
        // Before the app is looked for: the token tells nothing of what there is.
        return Err(refused(Refusal::Scope(verb.scope()), ""));
    }
    let app = apps::find(&node.store, id_or_name).await?.ok_or_else(|| ApiError::not_found("app"))?;
    require(node, principal, &app, verb, id_or_name).await?;
    Ok(app)
}

/// Refuses unless the principal may do `verb` to the app.
///
/// # Errors
/// 403.
pub async fn require_app(
    node: &Node,
    principal: Principal<'_>,
    app: &App,
    verb: Verb,
) -> Result<(), ApiError> {
    require(node, principal, app, verb, &app.name).await
}

/// The same; a refusal calls the app what the client calls it, so that an id tells no name.
async fn require(
    node: &Node,
    principal: Principal<'_>,
    app: &App,
    verb: Verb,
    shown: &str,
) -> Result<(), ApiError> {
    let account_id = principal.account_id;
    let is_owner = app.belongs_to(account_id);
    let permissions = match is_owner {
        // Whoever owns it may do everything; nothing needs to be looked up.
        true => Permissions::new(),
        false => collaborators::permissions(&node.store, app.id, account_id).await?,
    };
    let team_role = match app.team_id {
        Some(team_id) => teams::role(&node.store, team_id, account_id).await?,
        None => None,
    };
    let relation = Relation { is_owner, permissions, team_role };
    authorize(principal, verb, Object::App(&relation)).map_err(|refusal| match refusal {
        Refusal::Stranger => ApiError::forbidden(format!("You do not have access to the app {shown}.")),
        refusal => {
            let message = format!("You do not have permission to do this to the app {shown}. Ask its owner.");
            refused(refusal, &message)
        }
    })
}

/// The team with this id or name, when the principal may do `verb` to it.
///
/// # Errors
/// 404 when there is none; 403 when the principal has nothing to do with it, or too little.
pub async fn find_team(
    node: &Node,
    principal: Principal<'_>,
    id_or_name: &str,
    verb: Verb,
) -> Result<Team, ApiError> {
    if !principal.scopes.allow(verb.scope()) {
        return Err(refused(Refusal::Scope(verb.scope()), ""));
    }
    let team = teams::find(&node.store, id_or_name).await?.ok_or_else(|| ApiError::not_found("team"))?;
    let role = teams::role(&node.store, team.id, principal.account_id).await?;
    authorize(principal, verb, Object::Team(role)).map_err(|refusal| match refusal {
        Refusal::Stranger => ApiError::forbidden(format!("You do not have access to the team {id_or_name}.")),
        refusal => {
            let message =
                format!("You do not have permission to do this in the team {id_or_name}. Ask its admins.");
            refused(refusal, &message)
        }
    })?;
    Ok(team)
}

/// The answer for a refusal; `message` is for one that no other scope would lift.
fn refused(refusal: Refusal, message: &str) -> ApiError {
    match refusal {
        Refusal::Scope(scope) => ApiError::forbidden(format!(
            "The scope of this OAuth authorization does not allow access to this resource: it needs {}.",
            scope.name()
        )),
        Refusal::Stranger | Refusal::Forbidden => ApiError::forbidden(message),
    }
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
    random_of(ALPHABET, count)
}

/// So many random digits and lower-case letters, for people to type.
///
/// # Panics
/// As [`new_token`].
pub fn random_lower_case(count: usize) -> String {
    random_of(&ALPHABET[26..], count)
}

fn random_of(alphabet: &[u8], count: usize) -> String {
    let mut letters = String::with_capacity(count);
    let mut bytes = [0u8; 64];
    // Above the largest multiple of the alphabet in a byte the first letters would be likelier.
    let limit = 256 - 256 % alphabet.len();
    while letters.len() < count {
        getrandom::fill(&mut bytes).expect("the kernel's random source answers once the system is up");
        let usable = bytes.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < limit);
        letters.extend(
            usable.take(count - letters.len()).map(|byte| char::from(alphabet[byte % alphabet.len()])),
        );
    }
    letters
}

/// Refuses an account that an admin keeps out.
///
/// # Errors
/// 403.
pub fn refuse_suspended(account: &Account) -> Result<(), ApiError> {
    match account.suspended_at {
        Some(_) => Err(ApiError::suspended()),
        None => Ok(()),
    }
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

async fn app_of_path(
    parts: &mut Parts,
    node: &Arc<Node>,
    verb: Verb,
) -> Result<(App, Authenticated), ApiError> {
    let user = authenticate(node, parts).await?;
    let name = parameter(parts, node, "app").await?;
    Ok((find_app(node, user.principal(), &name, verb).await?, user))
}

/// What the path has in this parameter's place.
async fn parameter(parts: &mut Parts, node: &Arc<Node>, wanted: &str) -> Result<String, ApiError> {
    let params = RawPathParams::from_request_parts(parts, node)
        .await
        .map_err(|_| ApiError::bad_request("The path is not valid UTF-8."))?;
    let found = params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
    found.ok_or_else(|| ApiError::internal(anyhow::anyhow!("a route without {{{wanted}}} asks for one")))
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
