//! Apps.

use crate::{AccountId, AppId, Millis};

/// An app as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    pub id: AppId,
    pub name: String,
    pub owner_id: AccountId,
    /// Left-most label of the default host name: `NAME.DOMAIN`.
    pub stack: String,
    pub build_stack: String,
    pub region: String,
    pub maintenance: bool,
    /// First of the 65,536 uids on the host that this app's dynos run under; a multiple of 65,536.
    pub uid_base: u32,
    pub buildpack_provided_description: Option<String>,
    pub repo_size_bytes: i64,
    pub slug_size_bytes: i64,
    /// Raised by `ps:restart`: dynos started under a lower one are to be replaced.
    pub restart_generation: i64,
    pub released_at: Option<Millis>,
    pub created_at: Millis,
    pub updated_at: Millis,
}
