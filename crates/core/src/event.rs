//! Events: one row for every change, written in the change's own transaction.
//!
//! Log lines (`app[api]: ...`), the audit trail and later webhooks read them.

use crate::{AccountId, AppId, Millis};

/// Who did it, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    pub account_id: AccountId,
    pub email: String,
    /// Address of the client, without port.
    pub remote_address: Option<String>,
    pub request_id: Option<String>,
}

/// A change that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Rises by one with each event of the node.
    pub sequence: i64,
    pub app_id: Option<AppId>,
    pub account_id: AccountId,
    /// Noun and verb: `release.create`, `formation.update` ...
    pub kind: String,
    /// What the app's log says of it, without the ` by user` ending; None says nothing.
    pub log_message: Option<String>,
    pub email: String,
    pub remote_address: Option<String>,
    pub request_id: Option<String>,
    pub created_at: Millis,
}
