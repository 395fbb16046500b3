//! The body of every answer of status 400 and above.

use serde::{Deserialize, Serialize};

/// An error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    /// Kind: `not_found`, `invalid_params` ...
    pub id: String,
    /// What happened, for people.
    pub message: String,
    /// Where to read more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}
