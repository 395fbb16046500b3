//! SSH keys that people keep with their account.

use crate::{Millis, SshKeyId};

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey {
    pub id: SshKeyId,
    /// A line of an `authorized_keys` file, without what may stand before the key.
    pub public_key: String,
    /// MD5 of the key in hexadecimal pairs, as Heroku shows it.
    pub fingerprint: String,
    /// What follows the key: often `user@machine`.
    pub comment: String,
    pub created_at: Millis,
    pub updated_at: Millis,
}
