//! `/apps`.

use crate::Timestamp;
use crate::reference::{Named, User, cedar};
use crate::{region, stack};
use ferroku_core::app::App as Stored;
use ferroku_core::team::Team;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// An app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// Automated certificate management is on.
    pub acm: bool,
    pub archived_at: Option<Timestamp>,
    pub build_stack: Named,
    pub buildpack_provided_description: Option<String>,
    /// `complete`: an app that can be seen has been made. Not in the schema, but `apps:info --shell` prints it.
    pub create_status: String,
    pub created_at: Timestamp,
    pub generation: Named,
    pub git_url: String,
    pub id: Uuid,
    pub internal_routing: Option<bool>,
    /// Not in the schema of personal apps, but `heroku apps` reads it of all.
    pub locked: bool,
    pub maintenance: bool,
    pub name: String,
    pub organization: Option<Named>,
    pub owner: User,
    /// `eco`, `basic` or `production`. Not in the schema, but the CLI asks for an hours' quota when it is `eco`.
    pub process_tier: String,
    pub region: Named,
    pub released_at: Option<Timestamp>,
    /// Bytes; never null, because the CLI cannot print a missing size.
    pub repo_size: Option<i64>,
    pub slug_size: Option<i64>,
    pub space: Option<Value>,
    pub stack: Named,
    pub team: Option<Named>,
    pub updated_at: Timestamp,
    pub web_url: Option<String>,
}

impl App {
    /// The app as the API shows it; the links depend on how the node was asked. `team` is the one that has it: it is shown
    /// as the owner, with an address that only stands for it.
    pub fn new(
        app: &Stored,
        owner_email: &str,
        team: Option<&Team>,
        git_url: String,
        web_url: String,
    ) -> Self {
        let owner = match team {
            Some(team) => User { id: team.id.0, email: team.owner_email() },
            None => User { id: app.owner_id.0, email: owner_email.to_owned() },
        };
        let team = team.map(Named::team);
        Self {
            acm: app.acm,
            archived_at: None,
            build_stack: stack::reference(&app.build_stack),
            buildpack_provided_description: app.buildpack_provided_description.clone(),
            create_status: "complete".to_owned(),
            created_at: app.created_at.into(),
            generation: cedar(),
            git_url,
            id: app.id.0,
            internal_routing: None,
            locked: app.locked,
            maintenance: app.maintenance,
            name: app.name.clone(),
            organization: team.clone(),
            owner,
            process_tier: if app.eco { "eco" } else { "basic" }.to_owned(),
            region: region::reference(&app.region),
            released_at: app.released_at.map(Timestamp),
            repo_size: Some(app.repo_size_bytes),
            slug_size: Some(app.slug_size_bytes),
            space: None,
            stack: stack::reference(&app.stack),
            team,
            updated_at: app.updated_at.into(),
            web_url: Some(web_url),
        }
    }
}
