//! `/oauth/clients`.

use crate::Timestamp;
use ferroku_core::oauth_client::OauthClient as Stored;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Stands for the secret in every answer but those that make one.
pub const REDACTED: &str = "**********";

/// A program that people may let use the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OauthClient {
    pub created_at: Timestamp,
    pub id: Uuid,
    pub ignores_delinquent: Option<bool>,
    pub name: String,
    pub redirect_uri: String,
    /// Whole once, in the answer to its making or rotation.
    pub secret: String,
    pub updated_at: Timestamp,
}

/// Body of `POST` and `PATCH`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Change {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect_uri: Option<String>,
}

impl OauthClient {
    /// The client as the API shows it; `secret` is known only when it was just made.
    pub fn new(client: &Stored, secret: Option<&str>) -> Self {
        Self {
            created_at: client.created_at.into(),
            id: client.id.0,
            ignores_delinquent: None,
            name: client.name.clone(),
            redirect_uri: client.redirect_uri.clone(),
            secret: secret.unwrap_or(REDACTED).to_owned(),
            updated_at: client.updated_at.into(),
        }
    }
}
