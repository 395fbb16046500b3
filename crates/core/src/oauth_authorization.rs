//! OAuth authorizations: each holds one access token (an API key), stored only as its SHA-256.

use crate::{AccountId, AuthorizationId, Millis};

/// One authorization as the database knows it: the token itself was shown once, at creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OauthAuthorization {
    pub id: AuthorizationId,
    pub account_id: AccountId,
    pub description: String,
    /// Such as `["global"]`.
    pub scope: Vec<String>,
    /// The token with its middle blotted out (`HRKU-ab**********cd`), to be told from others.
    pub token_redacted: String,
    pub expires_at: Option<Millis>,
    pub created_at: Millis,
    pub updated_at: Millis,
}
