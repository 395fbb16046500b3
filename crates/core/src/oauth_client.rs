//! OAuth clients: programs that ask people to let them use the API.

use crate::{AccountId, Millis, OauthClientId};

/// A client. Its secret was shown once; its SHA-256 never leaves the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OauthClient {
    pub id: OauthClientId,
    /// Who registered it.
    pub account_id: AccountId,
    pub name: String,
    /// Where people are sent back to.
    pub redirect_uri: String,
    pub created_at: Millis,
    pub updated_at: Millis,
}
