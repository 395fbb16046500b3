//! Accounts: the people who use a node.

use crate::{AccountId, Millis};
use serde::{Deserialize, Serialize};

/// What an account may do on the node as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Made at the node's first start; may do everything.
    Owner,
    /// May administer the node.
    Admin,
    /// An ordinary user.
    Member,
}

/// A person's account. The password's hash never leaves the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub id: AccountId,
    /// Lower-case; unique.
    pub email: String,
    pub name: Option<String>,
    pub role: Role,
    pub last_login_at: Option<Millis>,
    /// Since when an admin keeps it out.
    pub suspended_at: Option<Millis>,
    /// Whether logging in takes a code beside the password.
    pub two_factor: bool,
    pub created_at: Millis,
    pub updated_at: Millis,
}
