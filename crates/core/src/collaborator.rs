//! Collaborators: accounts that work on an app of another's.

use crate::{AccountId, AppId, Millis};
use uuid::Uuid;

/// One account's part in an app. The owner has such a row too, from the app's creation on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collaborator {
    pub id: Uuid,
    pub app_id: AppId,
    pub account_id: AccountId,
    pub email: String,
    /// Heroku's words: `view`, `deploy`, `operate`, `manage`.
    pub permissions: Vec<String>,
    pub created_at: Millis,
    pub updated_at: Millis,
}
