//! App transfers: an app on its way from one account to another, which has to accept it.

use crate::{AccountId, AppId, AppTransferId, Millis};
use serde::{Deserialize, Serialize};

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferState {
    Pending,
    Accepted,
    Declined,
}

/// A transfer, with the names that are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppTransfer {
    pub id: AppTransferId,
    pub app_id: AppId,
    pub app_name: String,
    pub owner_id: AccountId,
    pub owner_email: String,
    pub recipient_id: AccountId,
    pub recipient_email: String,
    pub state: TransferState,
    pub created_at: Millis,
    pub updated_at: Millis,
}
