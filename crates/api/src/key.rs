//! `/account/keys`.

use crate::Timestamp;
use ferroku_core::ssh_key::SshKey;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An SSH key of an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub comment: String,
    pub created_at: Timestamp,
    pub email: String,
    pub fingerprint: String,
    pub id: Uuid,
    pub public_key: String,
    pub updated_at: Timestamp,
}

/// Body of `POST /account/keys`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Create {
    pub public_key: String,
}

impl Key {
    /// The key of the account with this address.
    pub fn new(key: &SshKey, email: &str) -> Self {
        Self {
            comment: key.comment.clone(),
            created_at: key.created_at.into(),
            email: email.to_owned(),
            fingerprint: key.fingerprint.clone(),
            id: key.id.0,
            public_key: key.public_key.clone(),
            updated_at: key.updated_at.into(),
        }
    }
}
