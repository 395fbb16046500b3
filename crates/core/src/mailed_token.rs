//! What a link in a letter stands for: whoever follows it reads that address.

use crate::AccountId;
use serde::{Deserialize, Serialize};

/// What following the link allows, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Make an account, because one was asked for.
    SignUp,
    /// Make an account, because an admin invited.
    Invitation,
    /// Choose a new password.
    PasswordReset,
    /// Make this address the account's.
    EmailChange,
}

/// A token as the database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailedToken {
    pub purpose: Purpose,
    /// Where the letter went.
    pub email: String,
    /// Whose password or address it changes.
    pub account_id: Option<AccountId>,
}
