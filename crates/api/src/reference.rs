//! Short references that resources hold to each other: `{"id": ..., "name": ...}`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An app, a region, a stack, a dyno size ... as another resource names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    pub id: Uuid,
    pub name: String,
}

impl Named {
    /// The reference to an app.
    pub fn app(app: &ferroku_core::app::App) -> Self {
        Self { id: app.id.0, name: app.name.clone() }
    }

    /// The reference to a team.
    pub fn team(team: &ferroku_core::team::Team) -> Self {
        Self { id: team.id.0, name: team.name.clone() }
    }
}

/// An account as another resource names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: Uuid,
    pub email: String,
}

/// Something known by its id alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Id {
    pub id: Uuid,
}

/// The generation of the platform that Ferroku is compatible with: Heroku's classic one.
pub fn cedar() -> Named {
    Named { id: Uuid::from_u128(0x5f0a_6a0e_97a4_4b39_a4a3_3a37_c6c8_6f0d), name: "cedar".to_owned() }
}
