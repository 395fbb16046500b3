//! The formation: process types and how many dynos of each should run.

use crate::{AppId, FormationId, Millis};

/// One process type of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Formation {
    pub id: FormationId,
    pub app_id: AppId,
    pub process_type: String,
    pub command: String,
    pub quantity: u32,
    /// API name of a dyno size: `basic`, `standard-1x` ...
    pub size: String,
    pub created_at: Millis,
    pub updated_at: Millis,
}
