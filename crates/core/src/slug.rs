//! Slugs: what a build makes; an immutable tree kept at `slugs/<digest>/`.

use crate::{AppId, Millis, SlugId};
use std::collections::BTreeMap;

/// Process types by name, each with its command line: what a Procfile says.
pub type ProcessTypes = BTreeMap<String, String>;

/// A slug as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slug {
    pub id: SlugId,
    pub app_id: AppId,
    /// Lower-case hex SHA-256 of the canonical content; names the folder `slugs/<digest>`.
    pub digest: String,
    /// Git commit or the version the Build API was given.
    pub commit: Option<String>,
    pub commit_description: Option<String>,
    pub stack: String,
    /// Size of the tree as stored.
    pub size_bytes: i64,
    pub process_types: ProcessTypes,
    /// Such as `Python`.
    pub buildpack_provided_description: Option<String>,
    /// When its tree was removed to save space: no release can go back to it any more.
    pub deleted_at: Option<Millis>,
    pub created_at: Millis,
}
