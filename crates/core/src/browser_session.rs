//! Logins in a browser.

use crate::{AccountId, BrowserSessionId, Millis};

/// One browser's login. Its cookie is known here only by its hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrowserSession {
    pub id: BrowserSessionId,
    pub account_id: AccountId,
    /// Which browser, as it calls itself, and from where.
    pub description: String,
    /// Only the password has been given so far.
    pub second_factor_due: bool,
    pub expires_at: Millis,
    pub created_at: Millis,
    pub updated_at: Millis,
}
