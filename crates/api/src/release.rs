//! `/apps/X/releases`.

use crate::Timestamp;
use crate::reference::{Id, Named, User};
use ferroku_core::app::App;
use ferroku_core::release::{Release as Stored, ReleaseStatus};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub addon_plan_names: Vec<String>,
    pub app: Named,
    pub artifacts: Vec<Artifact>,
    pub created_at: Timestamp,
    pub current: bool,
    pub description: String,
    pub eligible_for_rollback: bool,
    pub id: Uuid,
    pub output_stream_url: Option<String>,
    pub slug: Option<Id>,
    pub status: ReleaseStatus,
    pub updated_at: Timestamp,
    pub user: User,
    pub version: i64,
}

/// What a release runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    #[serde(rename = "type")]
    pub artifact_type: String,
    pub id: Uuid,
}

impl Release {
    /// The release as the API shows it; `current` is the one the app is at. `output_stream_url`: where its command's
    /// output is, if it has a command.
    pub fn new(
        release: &Stored,
        app: &App,
        user_email: &str,
        current: Option<&Stored>,
        output_stream_url: String,
    ) -> Self {
        let slug = release.slug_id.map(|id| Id { id: id.0 });
        let artifact = |slug: &Id| Artifact { artifact_type: "slug".to_owned(), id: slug.id };
        Self {
            addon_plan_names: Vec::new(),
            app: Named::app(app),
            artifacts: slug.iter().map(artifact).collect(),
            created_at: release.created_at.into(),
            current: current.is_some_and(|current| current.id == release.id),
            description: release.description.clone(),
            eligible_for_rollback: release.is_eligible_for_rollback(current),
            id: release.id.0,
            output_stream_url: release.command_dyno.as_ref().map(|_| output_stream_url),
            slug,
            status: release.status,
            updated_at: release.updated_at.into(),
            user: User { id: release.account_id.0, email: user_email.to_owned() },
            version: release.version,
        }
    }
}

/// Body of `POST /apps/X/releases`: which release to go back to (uuid, number or `vN`), or which slug to release.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Create {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slug: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}
