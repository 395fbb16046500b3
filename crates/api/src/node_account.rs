//! `/admin/...`: accounts as the node's owner and admins see them. Ours.

use crate::Timestamp;
use crate::account::Account;
use ferroku_core::account::{Account as Stored, Role};
use serde::{Deserialize, Serialize};

/// An account, and what it is on the node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeAccount {
    #[serde(flatten)]
    pub account: Account,
    pub role: Role,
}

impl From<&Stored> for NodeAccount {
    fn from(stored: &Stored) -> Self {
        Self { account: Account::from(stored), role: stored.role }
    }
}

/// Body of `POST /admin/invitations`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Invite {
    pub email: String,
}

/// An invitation that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    pub email: String,
    pub expires_at: Timestamp,
    /// Where the letter lies on the node, when there is no SMTP server to send it.
    pub letter_file: Option<String>,
}
