//! `/apps/X/collaborators`.

use crate::Timestamp;
use crate::reference::Named;
use ferroku_core::app::App;
use ferroku_core::collaborator::Collaborator as Stored;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Somebody who works on an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collaborator {
    pub app: Named,
    pub created_at: Timestamp,
    pub id: Uuid,
    pub permissions: Vec<Permission>,
    /// `owner` or `collaborator`.
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

impl Collaborator {
    /// The collaborator as the API shows it.
    pub fn new(collaborator: &Stored, app: &App) -> Self {
        let is_owner = collaborator.account_id == app.owner_id;
        let permission = |name: &str| Permission {
            description: match name {
                "view" => "Can see the app, its config and its logs",
                "deploy" => "Can push code and roll back",
                "operate" => "Can change config and scale",
                _ => "Can rename, transfer and destroy the app",
            }
            .to_owned(),
            name: name.to_owned(),
        };
        Self {
            app: Named::app(app),
            created_at: collaborator.created_at.into(),
            id: collaborator.id,
            permissions: collaborator.permissions.iter().map(|name| permission(name)).collect(),
            role: Some(if is_owner { "owner" } else { "collaborator" }.to_owned()),
            updated_at: collaborator.updated_at.into(),
            user: User { email: collaborator.email.clone(), federated: false, id: collaborator.account_id.0 },
        }
    }
}
