//! `/stacks`.

use crate::Timestamp;
use crate::reference::Named;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A stack: the root file system that dynos see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stack {
    pub created_at: Timestamp,
    pub default: bool,
    pub id: Uuid,
    pub name: String,
    /// `beta`, `deprecated` or `public`.
    pub state: String,
    pub updated_at: Timestamp,
}

impl Stack {
    /// The default stack, as old as the node.
    pub fn default_stack(node_created_at: Timestamp) -> Self {
        let Named { id, name } = reference(ferroku_core::app::DEFAULT_STACK);
        let state = "public".to_owned();
        Self { created_at: node_created_at, default: true, id, name, state, updated_at: node_created_at }
    }
}

/// The reference to a stack by its name.
pub fn reference(name: &str) -> Named {
    Named { id: Uuid::from_u128(0x7e04_46a1_6c6e_4b0c_9e0a_24a2_40f5_9d24), name: name.to_owned() }
}
