//! `/apps/X/slugs`.

use crate::reference::Named;
use crate::{Timestamp, stack};
use ferroku_core::slug::{ProcessTypes, Slug as Stored, SlugUpload};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A slug.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slug {
    pub blob: Blob,
    pub buildpack_provided_description: Option<String>,
    /// `SHA256:` and hex: of the archive that was uploaded, or of what a build made.
    pub checksum: Option<String>,
    pub commit: Option<String>,
    pub commit_description: Option<String>,
    pub created_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
    pub id: Uuid,
    pub process_types: ProcessTypes,
    /// Bytes.
    pub size: Option<i64>,
    pub stack: Named,
    pub updated_at: Timestamp,
}

/// How to put a slug's archive, or to get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    pub method: String,
    pub url: String,
}

impl Slug {
    /// The slug as the API shows it.
    pub fn new(slug: &Stored, blob_url: String) -> Self {
        Self {
            blob: Blob { method: "get".to_owned(), url: blob_url },
            buildpack_provided_description: slug.buildpack_provided_description.clone(),
            checksum: Some(format!("SHA256:{}", slug.archive_sha256.as_ref().unwrap_or(&slug.digest))),
            commit: slug.commit.clone(),
            commit_description: slug.commit_description.clone(),
            created_at: slug.created_at.into(),
            deleted_at: slug.deleted_at.map(Into::into),
            id: slug.id.0,
            process_types: slug.process_types.clone(),
            size: Some(slug.size_bytes),
            stack: stack::reference(&slug.stack),
            updated_at: slug.created_at.into(),
        }
    }

    /// A slug that waits for its archive.
    pub fn announced(slug: &SlugUpload, blob_url: String) -> Self {
        Self {
            blob: Blob { method: "put".to_owned(), url: blob_url },
            buildpack_provided_description: slug.buildpack_provided_description.clone(),
            checksum: slug.sha256.as_ref().map(|hex| format!("SHA256:{hex}")),
            commit: slug.commit.clone(),
            commit_description: slug.commit_description.clone(),
            created_at: slug.created_at.into(),
            deleted_at: None,
            id: slug.id.0,
            process_types: slug.process_types.clone(),
            size: None,
            stack: stack::reference(&slug.stack),
            updated_at: slug.created_at.into(),
        }
    }
}
