//! `/apps/X/domains`.

use crate::Timestamp;
use crate::reference::Named;
use ferroku_core::app::App;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A host name that leads to an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Domain {
    pub acm_status: Option<String>,
    pub acm_status_reason: Option<String>,
    pub app: Named,
    pub cname: Option<String>,
    pub created_at: Timestamp,
    pub hostname: String,
    pub id: Uuid,
    /// `heroku` or `custom`.
    pub kind: String,
    pub sni_endpoint: Option<Named>,
    pub status: String,
    pub updated_at: Timestamp,
}

impl Domain {
    /// The name that every app has from its creation. It shares its id with the app: there is exactly one.
    pub fn default_of(app: &App, node_domain: &str) -> Self {
        Self {
            acm_status: None,
            acm_status_reason: None,
            app: Named::app(app),
            cname: None,
            created_at: app.created_at.into(),
            hostname: format!("{}.{node_domain}", app.name),
            id: app.id.0,
            kind: "heroku".to_owned(),
            sni_endpoint: None,
            status: "succeeded".to_owned(),
            updated_at: app.updated_at.into(),
        }
    }
}
