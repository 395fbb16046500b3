//! `/pipelines`, `/pipeline-couplings` and `/pipeline-promotions`.

use crate::Timestamp;
use crate::reference::{Id, Named, cedar};
use ferroku_core::pipeline::{
    Coupling as StoredCoupling, Pipeline as Stored, PipelineOwner, Promotion as StoredPromotion, Stage,
    Target as StoredTarget, TargetStatus,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    pub created_at: Timestamp,
    pub generation: Named,
    pub id: Uuid,
    pub name: String,
    pub owner: Owner,
    pub updated_at: Timestamp,
}

/// Whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub id: Uuid,
    #[serde(rename = "type")]
    pub kind: OwnerKind,
}

/// What owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerKind {
    User,
    Team,
}

/// An app in a pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineCoupling {
    pub app: Id,
    pub created_at: Timestamp,
    pub id: Uuid,
    pub pipeline: Named,
    pub stage: Stage,
    pub updated_at: Timestamp,
}

/// What was promoted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelinePromotion {
    pub created_at: Timestamp,
    pub id: Uuid,
    pub pipeline: Id,
    pub source: Source,
    /// `pending` or `completed`.
    pub status: String,
    pub updated_at: Option<Timestamp>,
}

/// Where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    pub app: Id,
    pub release: Id,
}

/// An app that it went to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelinePromotionTarget {
    pub app: Id,
    pub error_message: Option<String>,
    pub id: Uuid,
    pub pipeline_promotion: Id,
    pub release: Option<Id>,
    pub status: TargetStatus,
}

impl From<&Stored> for Pipeline {
    fn from(stored: &Stored) -> Self {
        let (id, kind) = match stored.owner {
            PipelineOwner::User(id) => (id.0, OwnerKind::User),
            PipelineOwner::Team(id) => (id.0, OwnerKind::Team),
        };
        Self {
            created_at: stored.created_at.into(),
            generation: cedar(),
            id: stored.id.0,
            name: stored.name.clone(),
            owner: Owner { id, kind },
            updated_at: stored.updated_at.into(),
        }
    }
}

impl From<&StoredCoupling> for PipelineCoupling {
    fn from(stored: &StoredCoupling) -> Self {
        Self {
            app: Id { id: stored.app_id.0 },
            created_at: stored.created_at.into(),
            id: stored.id.0,
            pipeline: Named { id: stored.pipeline_id.0, name: stored.pipeline_name.clone() },
            stage: stored.stage,
            updated_at: stored.updated_at.into(),
        }
    }
}

impl From<&StoredPromotion> for PipelinePromotion {
    fn from(stored: &StoredPromotion) -> Self {
        Self {
            created_at: stored.created_at.into(),
            id: stored.id.0,
            pipeline: Id { id: stored.pipeline_id.0 },
            source: Source {
                app: Id { id: stored.source_app_id.0 },
                release: Id { id: stored.source_release_id.0 },
            },
            status: if stored.is_complete() { "completed" } else { "pending" }.to_owned(),
            updated_at: Some(stored.updated_at.into()),
        }
    }
}

impl PipelinePromotionTarget {
    /// The target of a promotion.
    pub fn new(promotion: &StoredPromotion, stored: &StoredTarget) -> Self {
        Self {
            app: Id { id: stored.app_id.0 },
            error_message: stored.why_failed().map(str::to_owned),
            id: stored.id.0,
            pipeline_promotion: Id { id: promotion.id.0 },
            release: stored.release.map(|(id, _)| Id { id: id.0 }),
            status: stored.status(),
        }
    }
}
