//! `GET /account`.

use crate::Timestamp;
use crate::reference::Named;
use ferroku_core::account::Account as Stored;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// An account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub allow_tracking: bool,
    pub beta: bool,
    pub country_of_residence: Option<String>,
    pub created_at: Timestamp,
    pub default_organization: Option<Named>,
    pub default_team: Option<Named>,
    pub delinquent_at: Option<Timestamp>,
    pub email: String,
    pub federated: bool,
    pub id: Uuid,
    pub identity_provider: Option<Value>,
    pub last_login: Option<Timestamp>,
    pub name: Option<String>,
    pub sms_number: Option<String>,
    pub suspended_at: Option<Timestamp>,
    pub two_factor_authentication: bool,
    pub updated_at: Timestamp,
    /// Heroku: a payment method is known. A node bills nobody, so nobody is held back.
    pub verified: bool,
}

impl From<&Stored> for Account {
    fn from(account: &Stored) -> Self {
        Self {
            allow_tracking: false,
            beta: false,
            country_of_residence: None,
            created_at: account.created_at.into(),
            default_organization: None,
            default_team: None,
            delinquent_at: None,
            email: account.email.clone(),
            federated: false,
            id: account.id.0,
            identity_provider: None,
            last_login: account.last_login_at.map(Timestamp),
            name: account.name.clone(),
            sms_number: None,
            suspended_at: account.suspended_at.map(Timestamp),
            two_factor_authentication: account.two_factor,
            updated_at: account.updated_at.into(),
            verified: true,
        }
    }
}
