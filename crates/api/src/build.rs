//! `/apps/X/builds`.

use crate::Timestamp;
use crate::buildpack_installation::Buildpack;
use crate::reference::{Id, User};
use ferroku_core::build::{Build as Stored, BuildStatus};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    pub app: Id,
    pub buildpacks: Option<Vec<Buildpack>>,
    pub created_at: Timestamp,
    pub generation: String,
    pub id: Uuid,
    pub output_stream_url: String,
    pub release: Option<Id>,
    pub slug: Option<Id>,
    pub source_blob: SourceBlob,
    pub stack: String,
    pub status: BuildStatus,
    pub updated_at: Timestamp,
    pub user: User,
}

/// Where a build's source came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceBlob {
    pub checksum: Option<String>,
    pub url: String,
    pub version: Option<String>,
    #[serde(default)]
    pub version_description: Option<String>,
}

impl Build {
    /// The build as the API shows it.
    pub fn new(build: &Stored, user_email: &str, output_stream_url: String, source_blob: SourceBlob) -> Self {
        Self {
            app: Id { id: build.app_id.0 },
            buildpacks: Some(build.buildpacks.iter().map(|url| Buildpack::new(url)).collect()),
            created_at: build.created_at.into(),
            generation: "cedar".to_owned(),
            id: build.id.0,
            output_stream_url,
            release: build.release_id.map(|id| Id { id: id.0 }),
            slug: build.slug_id.map(|id| Id { id: id.0 }),
            source_blob,
            stack: build.stack.clone(),
            status: build.status,
            updated_at: build.updated_at.into(),
            user: User { id: build.account_id.0, email: user_email.to_owned() },
        }
    }
}
