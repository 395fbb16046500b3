//! Releases: the ledger. A release is a slug plus a config snapshot, numbered from 1 per app.

use crate::{AccountId, AppId, ConfigSnapshotId, Millis, ReleaseId, SlugId};
use serde::{Deserialize, Serialize};

/// Where a release stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseStatus {
    Pending,
    Succeeded,
    Failed,
    Expired,
}

/// One row of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub id: ReleaseId,
    pub app_id: AppId,
    pub version: i64,
    pub description: String,
    pub status: ReleaseStatus,
    /// None until the first deploy.
    pub slug_id: Option<SlugId>,
    pub config_snapshot_id: ConfigSnapshotId,
    pub account_id: AccountId,
    pub created_at: Millis,
    pub updated_at: Millis,
}
