//! Addresses of streams of text (a build's output, a release's) that are opened without credentials, as the CLI does.
//!
//! An address holds what it shows and by whose authorization, sealed with the master key, as a log session's does; nothing is
//! kept on the node.
//!
//! Invariant: it gives no more than the authorization that asked for it, and that for minutes: the id of a build or a
//! release, which is in many places, opens nothing.

use crate::access::{Access, Held};
use crate::api::conventions::RequestContext;
use crate::api::links::Links;
use crate::api::log_sessions::OPEN_FOR_MS;
use crate::auth::Authenticated;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use ferroku_core::app::App;
use ferroku_core::authorize::Verb;
use ferroku_core::{AppId, AuthorizationId, Millis};
use ferroku_store::MasterKey;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The nouns whose output is streamed.
pub const BUILDS: &str = "builds";
/// See [`BUILDS`].
pub const RELEASES: &str = "releases";

/// What a token holds, without names because it becomes an address: what is shown, of which app, by whose right, since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Token(Uuid, AppId, AuthorizationId, Millis);

/// Makes the addresses of one noun's streams for whoever asks.
pub struct StreamLinks<'a> {
    pub links: Links,
    key: &'a MasterKey,
    noun: &'static str,
    app_id: AppId,
    authorization_id: AuthorizationId,
    now: Millis,
}

impl<'a> StreamLinks<'a> {
    /// Of this app's, for this user.
    pub fn new(node: &'a Node, links: Links, noun: &'static str, app: &App, user: &Authenticated) -> Self {
        let (app_id, authorization_id) = (app.id, user.authorization.id);
        Self { links, key: node.store.key(), noun, app_id, authorization_id, now: now_ms() }
    }

    /// Where the stream of the thing with this id is read.
    pub fn url(&self, id: Uuid) -> String {
        let token = seal(self.key, self.noun, Token(id, self.app_id, self.authorization_id, self.now));
        self.links.url(format_args!("/streams/{}/{token}", self.noun))
    }
}

/// What a token shows, and by what access, if that is still there.
///
/// # Errors
/// 403; 404; 429.
pub async fn open(
    node: &Node,
    noun: &'static str,
    token: &str,
    context: &RequestContext,
) -> Result<(AppId, Uuid, Held), ApiError> {
    let Token(id, app_id, authorization_id, _) = unseal(node.store.key(), noun, token, now_ms())?;
    let held = Access::new(authorization_id, app_id, Verb::View).read(node, context).await?;
    Ok((app_id, id, held))
}

/// Names what a token is, so that nothing else that is sealed passes for one.
fn purpose(noun: &str) -> String {
    format!("stream/{noun}/1")
}

fn seal(key: &MasterKey, noun: &str, token: Token) -> String {
    let json = serde_json::to_vec(&token).expect("ids and a number are valid JSON");
    key.seal(&purpose(noun), &json)
}

fn unseal(key: &MasterKey, noun: &str, token: &str, now: Millis) -> Result<Token, ApiError> {
    let missing = || ApiError::not_found("stream");
    let json = key.unseal(&purpose(noun), token).map_err(|_| missing())?;
    let token: Token = serde_json::from_slice(&json).map_err(|_| missing())?;
    if !(0..=OPEN_FOR_MS).contains(&(now - token.3)) {
        let message =
            "This address has expired: ask for the build or release again, and take the one in the answer.";
        return Err(ApiError::forbidden(message));
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    #[test]
    fn a_token_opens_its_own_kind_of_stream_for_minutes() {
        let key = MasterKey::new("k", [7; 32]);
        let id = Uuid::from_u128;
        let token = Token(id(1), AppId(id(2)), AuthorizationId(id(3)), 0);
        let sealed = seal(&key, BUILDS, token);
        let open = |noun, now| unseal(&key, noun, &sealed, now).map_err(|error| error.status);
        assert_eq!(open(BUILDS, OPEN_FOR_MS), Ok(token));
        assert_eq!(open(BUILDS, OPEN_FOR_MS + 1), Err(StatusCode::FORBIDDEN));
        assert_eq!(open(BUILDS, -1), Err(StatusCode::FORBIDDEN));
        assert_eq!(open(RELEASES, 0), Err(StatusCode::NOT_FOUND));
        assert!(unseal(&key, BUILDS, &id(1).to_string(), 0).is_err(), "an id is no token");
    }
}
