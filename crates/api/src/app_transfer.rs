//! `/account/app-transfers`.

use crate::Timestamp;
use crate::reference::{Named, User};
use ferroku_core::app_transfer::{AppTransfer as Stored, TransferState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An app on its way from one account to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppTransfer {
    pub app: Named,
    pub created_at: Timestamp,
    pub id: Uuid,
    pub owner: User,
    pub recipient: User,
    pub state: TransferState,
    pub updated_at: Timestamp,
}

impl From<&Stored> for AppTransfer {
    fn from(stored: &Stored) -> Self {
        Self {
            app: Named { id: stored.app_id.0, name: stored.app_name.clone() },
            created_at: stored.created_at.into(),
            id: stored.id.0,
            owner: User { id: stored.owner_id.0, email: stored.owner_email.clone() },
            recipient: User { id: stored.recipient_id.0, email: stored.recipient_email.clone() },
            state: stored.state,
            updated_at: stored.updated_at.into(),
        }
    }
}
