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
    /// Lower-case hex SHA-256 of the archive that a client uploaded; None for what a build made.
    pub archive_sha256: Option<String>,
    /// When its tree was removed to save space: no release can go back to it any more.
    pub deleted_at: Option<Millis>,
    pub created_at: Millis,
}

/// A slug that a client is about to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlugUpload {
    /// That of the slug which it becomes.
    pub id: SlugId,
    pub app_id: AppId,
    pub commit: Option<String>,
    pub commit_description: Option<String>,
    pub stack: String,
    pub process_types: ProcessTypes,
    pub buildpack_provided_description: Option<String>,
    /// Lower-case hex SHA-256 that the archive must have.
    pub sha256: Option<String>,
    pub created_at: Millis,
}

impl SlugUpload {
    /// The slug that it becomes when an archive of this digest has come, whose content has that digest and size.
    #[must_use]
    pub fn into_slug(self, archive_sha256: String, digest: String, size_bytes: i64) -> Slug {
        Slug {
            id: self.id,
            app_id: self.app_id,
            digest,
            commit: self.commit,
            commit_description: self.commit_description,
            stack: self.stack,
            size_bytes,
            process_types: self.process_types,
            buildpack_provided_description: self.buildpack_provided_description,
            archive_sha256: Some(archive_sha256),
            deleted_at: None,
            created_at: self.created_at,
        }
    }
}
