//! `/regions`.

use crate::Timestamp;
use crate::reference::Named;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Where apps run: the node itself, under the name of Heroku's default region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    pub country: String,
    pub created_at: Timestamp,
    pub description: String,
    pub id: Uuid,
    pub locale: String,
    pub name: String,
    pub private_capable: bool,
    pub provider: Provider,
    pub updated_at: Timestamp,
}

/// Who runs the machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    pub name: String,
    /// One of a list of names in Heroku's schema, whatever the provider; Heroku's own for `us`.
    pub region: String,
}

impl Region {
    /// The node's only region; `domain` is the one its apps are served under.
    pub fn of_node(domain: &str, node_created_at: Timestamp) -> Self {
        let Named { id, name } = reference(ferroku_core::app::DEFAULT_REGION);
        Self {
            country: "Self-hosted".to_owned(),
            created_at: node_created_at,
            description: "This Ferroku node".to_owned(),
            id,
            locale: domain.to_owned(),
            name,
            private_capable: false,
            provider: Provider { name: "ferroku".to_owned(), region: "us-east-1".to_owned() },
            updated_at: node_created_at,
        }
    }
}

/// The reference to a region by its name.
pub fn reference(name: &str) -> Named {
    Named { id: Uuid::from_u128(0x59ac_cabd_5162_4a1f_8a4f_6f7e_0d3a_12b8), name: name.to_owned() }
}
