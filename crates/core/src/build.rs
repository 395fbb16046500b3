//! Builds.

use crate::{AccountId, AppId, BuildId, Millis, ReleaseId, SlugId};
use serde::{Deserialize, Serialize};

/// Where a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BuildStatus {
    Pending,
    Succeeded,
    Failed,
}

/// A build as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    pub id: BuildId,
    pub app_id: AppId,
    pub account_id: AccountId,
    pub status: BuildStatus,
    pub stack: String,
    /// Buildpack URLs or names in order.
    pub buildpacks: Vec<String>,
    /// The commit that was pushed.
    pub source_version: Option<String>,
    pub slug_id: Option<SlugId>,
    pub release_id: Option<ReleaseId>,
    pub created_at: Millis,
    pub updated_at: Millis,
}
