//! `/oauth/authorizations`.

use crate::Timestamp;
use ferroku_core::account::Account;
use ferroku_core::oauth_authorization::OauthAuthorization as Stored;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// An OAuth authorization: what an API key belongs to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OauthAuthorization {
    pub access_token: Option<Token>,
    pub client: Option<Value>,
    pub created_at: Timestamp,
    pub description: String,
    pub grant: Option<Value>,
    pub id: Uuid,
    pub refresh_token: Option<Token>,
    pub scope: Vec<String>,
    pub session: Option<Value>,
    pub updated_at: Timestamp,
    pub user: User,
}

/// A token: whole once, in the answer to its creation; with its middle blotted out later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Seconds from now; null never expires.
    pub expires_in: Option<i64>,
    pub id: Uuid,
    pub token: String,
}

/// The account that the authorization is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub email: String,
    pub full_name: Option<String>,
    pub id: Uuid,
}

/// Body of `POST /oauth/authorizations`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Create {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Seconds, or as the CLI writes them, seconds in a string; null or absent never expires.
    #[serde(default, deserialize_with = "seconds", skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Vec<String>>,
}

fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Seconds {
        Number(i64),
        Text(String),
    }
    match Option::<Seconds>::deserialize(deserializer) {
        Ok(None) => Ok(None),
        Ok(Some(Seconds::Number(number))) => Ok(Some(number)),
        Ok(Some(Seconds::Text(text))) => text.trim().parse().map(Some).map_err(|_| wrong()),
        Err(_) => Err(wrong()),
    }
}

fn wrong<E: serde::de::Error>() -> E {
    E::custom("not a whole number of seconds")
}

impl OauthAuthorization {
    /// The authorization as the API shows it at `now`; `token` is the whole token, known only at its creation.
    pub fn new(stored: &Stored, account: &Account, token: Option<&str>, now: ferroku_core::Millis) -> Self {
        Self {
            access_token: Some(Token {
                expires_in: stored.expires_at.map(|at| (at - now).max(0) / 1000),
                // An authorization has exactly one token, so they share their id.
                id: stored.id.0,
                token: token.unwrap_or(&stored.token_redacted).to_owned(),
            }),
            client: None,
            created_at: stored.created_at.into(),
            description: stored.description.clone(),
            grant: None,
            id: stored.id.0,
            refresh_token: None,
            scope: stored.scope.names(),
            session: None,
            updated_at: stored.updated_at.into(),
            user: User { email: account.email.clone(), full_name: account.name.clone(), id: account.id.0 },
        }
    }
}
