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

/// Where the source archive of a build that no push brought came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildSource {
    /// Without user, password, query and fragment, any of which may be a secret.
    pub url: String,
    /// `SHA256:` and hex, when the client gave it; the archive was checked against it.
    pub checksum: Option<String>,
    pub version_description: Option<String>,
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
    /// None: it was pushed by git.
    pub source: Option<BuildSource>,
    /// The commit that was pushed, or the version that the client named.
    pub source_version: Option<String>,
    pub slug_id: Option<SlugId>,
    pub release_id: Option<ReleaseId>,
    pub created_at: Millis,
    pub updated_at: Millis,
}
