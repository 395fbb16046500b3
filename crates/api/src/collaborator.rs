//! `/apps/X/collaborators`.

use crate::Timestamp;
use crate::reference::Named;
use ferroku_core::app::App;
use ferroku_core::collaborator::{Collaborator as Stored, Permission as Granted};
use ferroku_core::team::TeamRole;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Somebody who works on an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collaborator {
    pub app: Named,
    pub created_at: Timestamp,
    pub id: Uuid,
    pub permissions: Vec<Permission>,
    /// `owner` or `collaborator`; of a team's app, what they are in the team.
    pub role: Option<String>,
    pub updated_at: Timestamp,
    pub user: User,
}

/// One thing that a collaborator may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    pub description: String,
    pub name: String,
}

/// The account behind a collaborator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub email: String,
    pub federated: bool,
    pub id: Uuid,
}

impl From<Granted> for Permission {
    fn from(permission: Granted) -> Self {
        let description = match permission {
            Granted::View => "Can see the app and its logs",
            Granted::Deploy => "Can fetch and push code, change config vars and run commands",
            Granted::Operate => "Can scale, restart, change config vars, domains and maintenance",
            Granted::Manage => "Can rename, transfer and destroy the app, and say who has access",
        };
        Self { description: description.to_owned(), name: permission.name().to_owned() }
    }
}

impl Collaborator {
    /// The collaborator as the API shows it; `team_role` is what they are in the team that has the app.
    pub fn new(collaborator: &Stored, app: &App, team_role: Option<TeamRole>) -> Self {
        let role = match team_role {
            Some(role) => role.name(),
            None if app.belongs_to(collaborator.account_id) => "owner",
            None => "collaborator",
        };
        Self {
            app: Named::app(app),
            created_at: collaborator.created_at.into(),
            id: collaborator.id,
            permissions: collaborator.permissions.iter().map(|one| Permission::from(*one)).collect(),
            role: Some(role.to_owned()),
            updated_at: collaborator.updated_at.into(),
            user: User { email: collaborator.email.clone(), federated: false, id: collaborator.account_id.0 },
        }
    }
}
