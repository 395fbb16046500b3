//! `/apps/X/formation`.

use crate::Timestamp;
use crate::dyno_size;
use crate::reference::Named;
use ferroku_core::app::App;
use ferroku_core::formation::Formation as Stored;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One process type of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formation {
    pub app: Named,
    pub command: String,
    pub created_at: Timestamp,
    pub dyno_size: Named,
    pub id: Uuid,
    pub quantity: u32,
    /// As printed: `Basic`, `Standard-1X`.
    pub size: String,
    #[serde(rename = "type")]
    pub process_type: String,
    pub updated_at: Timestamp,
}

impl Formation {
    /// The process type as the API shows it.
    pub fn new(formation: &Stored, app: &App) -> Self {
        let dyno_size = dyno_size::reference(&formation.size);
        Self {
            app: Named::app(app),
            command: formation.command.clone(),
            created_at: formation.created_at.into(),
            id: formation.id.0,
            quantity: formation.quantity,
            size: dyno_size.name.clone(),
            dyno_size,
            process_type: formation.process_type.clone(),
            updated_at: formation.updated_at.into(),
        }
    }
}
