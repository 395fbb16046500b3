//! `/apps/X/domains`.

use crate::Timestamp;
use crate::reference::Named;
use ferroku_core::app::App;
use ferroku_core::domain::{AcmStatus, Domain as Stored, DomainStatus};
use ferroku_core::sni_endpoint::{SniEndpoint, managed};
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
    /// `pending` until the router serves it, then `succeeded`.
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
            hostname: app.default_host(node_domain),
            id: app.id.0,
            kind: "heroku".to_owned(),
            sni_endpoint: None,
            status: "succeeded".to_owned(),
            updated_at: app.updated_at.into(),
        }
    }

    /// A custom domain; `endpoints` are the app's.
    pub fn new(domain: &Stored, app: &App, endpoints: &[SniEndpoint]) -> Self {
        let endpoint = endpoints.iter().find(|endpoint| Some(endpoint.id) == domain.sni_endpoint_id);
        let endpoint =
            if endpoint.is_some_and(|endpoint| endpoint.acm) { managed(endpoints) } else { endpoint };
        let (acm_status, acm_status_reason) = match endpoint {
            // The owner's own certificate serves it: there is nothing to wait for.
            Some(endpoint) if app.acm && !endpoint.acm => {
                (Some(AcmStatus::Issued), Some(format!("Uses {}, which you added", endpoint.name)))
            }
            _ => (domain.acm_status, domain.acm_status_reason.clone()),
        };
        Self {
            acm_status: acm_status.map(acm_word),
            acm_status_reason,
            app: Named::app(app),
            cname: Some(domain.cname.clone()),
            created_at: domain.created_at.into(),
            hostname: domain.hostname.clone(),
            id: domain.id.0,
            kind: "custom".to_owned(),
            sni_endpoint: endpoint.map(|endpoint| Named { id: endpoint.id.0, name: endpoint.name.clone() }),
            status: match domain.status {
                DomainStatus::Pending => "pending".to_owned(),
                DomainStatus::Succeeded => "succeeded".to_owned(),
            },
            updated_at: domain.updated_at.into(),
        }
    }
}

fn acm_word(status: AcmStatus) -> String {
    match serde_json::to_value(status) {
        Ok(serde_json::Value::String(word)) => word,
        _ => unreachable!("its variants are plain words"),
    }
}
