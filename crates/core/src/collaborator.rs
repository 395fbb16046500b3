//! Collaborators: accounts that work on an app of another's.

use crate::{AccountId, AppId, Millis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use uuid::Uuid;

/// One of Heroku's permissions on an app. The order is the one that they are listed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Push and fetch code, config vars, commands.
    Deploy,
    /// Rename, transfer, destroy, and who has access.
    Manage,
    /// Scale, restart, domains, maintenance, config vars.
    Operate,
    /// See it.
    View,
}

/// Somebody's permissions on an app.
pub type Permissions = BTreeSet<Permission>;

impl Permission {
    pub const ALL: [Self; 4] = [Self::Deploy, Self::Manage, Self::Operate, Self::View];

    /// Heroku's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deploy => "deploy",
            Self::Manage => "manage",
            Self::Operate => "operate",
            Self::View => "view",
        }
    }
}

/// One account's part in an app. The owner has such a row too, from the app's creation on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collaborator {
    pub id: Uuid,
    pub app_id: AppId,
    pub account_id: AccountId,
    pub email: String,
    pub permissions: Permissions,
    pub created_at: Millis,
    pub updated_at: Millis,
}
