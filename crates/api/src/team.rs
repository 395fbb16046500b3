//! `/teams`, `/teams/T/members` and `/teams/apps`.

use crate::Timestamp;
use crate::app::App;
use ferroku_core::team::{Team as Stored, TeamMember as StoredMember, TeamRole};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// A team.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Team {
    pub created_at: Timestamp,
    pub credit_card_collections: bool,
    pub default: bool,
    pub enterprise_account: Option<Value>,
    pub id: Uuid,
    pub identity_provider: Option<Value>,
    pub membership_limit: Option<i64>,
    pub name: String,
    pub provisioned_licenses: bool,
    /// What whoever asks is in it; null for who is not.
    pub role: Option<TeamRole>,
    #[serde(rename = "type")]
    pub kind: String,
    pub updated_at: Timestamp,
}

/// Somebody in a team.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TeamMember {
    pub created_at: Timestamp,
    pub email: String,
    pub federated: bool,
    pub id: Uuid,
    pub identity_provider: Option<Value>,
    pub role: TeamRole,
    pub two_factor_authentication: bool,
    pub updated_at: Timestamp,
    pub user: MemberUser,
}

/// The account behind a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberUser {
    pub email: String,
    pub id: Uuid,
    pub name: Option<String>,
}

/// An app as its team sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TeamApp {
    #[serde(flatten)]
    pub app: App,
    /// Whoever asks has access to it of their own.
    pub joined: bool,
}

impl Team {
    /// The team as the API shows it to somebody of this role.
    pub fn new(team: &Stored, role: Option<TeamRole>) -> Self {
        Self {
            created_at: team.created_at.into(),
            credit_card_collections: false,
            default: false,
            enterprise_account: None,
            id: team.id.0,
            identity_provider: None,
            membership_limit: None,
            name: team.name.clone(),
            provisioned_licenses: false,
            role,
            kind: "team".to_owned(),
            updated_at: team.updated_at.into(),
        }
    }
}

impl From<&StoredMember> for TeamMember {
    fn from(member: &StoredMember) -> Self {
        Self {
            created_at: member.created_at.into(),
            email: member.email.clone(),
            federated: false,
            id: member.id,
            identity_provider: None,
            role: member.role,
            two_factor_authentication: false,
            updated_at: member.updated_at.into(),
            user: MemberUser {
                email: member.email.clone(),
                id: member.account_id.0,
                name: member.name.clone(),
            },
        }
    }
}
