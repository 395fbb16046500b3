//! Teams: people who have apps together.
//!
//! A team's name is in paths (`/teams/NAME`) and in the made-up address that Heroku shows as the owner of a team's app, so
//! it follows the rule for apps' names. The words that the API has in the same place are no names.

use crate::{AccountId, Millis, TeamId, app};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Where Heroku's made-up addresses of teams are; clients tell a team's app by it.
pub const OWNER_DOMAIN: &str = "herokumanager.com";
/// What comes behind `/teams/` that is no team.
const RESERVED_NAMES: [&str; 3] = ["apps", "invitations", "permissions"];

/// A team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Team {
    pub id: TeamId,
    /// Unique.
    pub name: String,
    pub created_at: Millis,
    pub updated_at: Millis,
}

/// What somebody is in a team. The order is that of what they may do, most first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TeamRole {
    /// May do everything to the team and its apps.
    Admin,
    /// Sees the team's apps, joins them, makes new ones.
    Member,
    /// Sees the team's apps.
    Viewer,
    /// Sees those that somebody gave access to.
    Collaborator,
}

/// One account's part in a team.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TeamMember {
    pub id: Uuid,
    pub team_id: TeamId,
    pub account_id: AccountId,
    pub email: String,
    pub name: Option<String>,
    pub role: TeamRole,
    pub created_at: Millis,
    pub updated_at: Millis,
}

impl Team {
    /// What its apps show as their owner's address.
    pub fn owner_email(&self) -> String {
        format!("{}@{OWNER_DOMAIN}", self.name)
    }
}

impl TeamRole {
    /// Heroku's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Viewer => "viewer",
            Self::Collaborator => "collaborator",
        }
    }

    /// The role of this name.
    pub fn find(name: &str) -> Option<Self> {
        [Self::Admin, Self::Member, Self::Viewer, Self::Collaborator]
            .into_iter()
            .find(|role| role.name() == name)
    }
}

/// Whether a team may be called `name`.
///
/// # Errors
/// A message for the user.
pub fn check_name(name: &str) -> Result<(), &'static str> {
    if RESERVED_NAMES.contains(&name) {
        return Err("Name is a word of the API: choose another.");
    }
    app::check_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_apps_without_the_apis_own_words() {
        assert_eq!(check_name("widgets"), Ok(()));
        for bad in ["apps", "permissions", "invitations", "Widgets", "a@b", "x"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
