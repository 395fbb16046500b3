//! `/apps/X/sni-endpoints`.

use crate::Timestamp;
use crate::reference::Named;
use ferroku_core::app::App;
use ferroku_core::domain::Domain;
use ferroku_core::sni_endpoint::SniEndpoint as Stored;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A certificate; its private key is never shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SniEndpoint {
    pub app: Named,
    pub certificate_chain: String,
    pub created_at: Timestamp,
    pub display_name: Option<String>,
    /// Ids of the domains that use it.
    pub domains: Vec<Uuid>,
    pub id: Uuid,
    pub name: String,
    pub ssl_cert: SslCert,
    pub updated_at: Timestamp,
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SslCert {
    /// The node got it by itself. Not in the schema, but the CLI shows it as `Type`.
    pub acm: bool,
    #[serde(rename = "ca_signed?")]
    pub is_ca_signed: bool,
    pub cert_domains: Vec<String>,
    pub expires_at: Timestamp,
    /// Of this certificate; another one in the same endpoint has another.
    pub id: Uuid,
    pub issuer: String,
    #[serde(rename = "self_signed?")]
    pub is_self_signed: bool,
    pub starts_at: Timestamp,
    pub subject: String,
}

impl SniEndpoint {
    /// The endpoint as the API shows it; `domains` are the app's.
    pub fn new(endpoint: &Stored, app: &App, domains: &[Domain]) -> Self {
        let certificate = &endpoint.certificate;
        let own = domains.iter().filter(|domain| domain.sni_endpoint_id == Some(endpoint.id));
        let number = u128::from(endpoint.version.unsigned_abs());
        Self {
            app: Named::app(app),
            certificate_chain: endpoint.certificate_chain.clone(),
            created_at: endpoint.created_at.into(),
            display_name: None,
            domains: own.map(|domain| domain.id.0).collect(),
            id: endpoint.id.0,
            name: endpoint.name.clone(),
            ssl_cert: SslCert {
                acm: endpoint.acm,
                is_ca_signed: certificate.is_ca_signed,
                cert_domains: certificate.domains.clone(),
                expires_at: certificate.expires_at.into(),
                id: Uuid::from_u128(endpoint.id.0.as_u128() ^ number),
                issuer: certificate.issuer.clone(),
                is_self_signed: certificate.is_self_signed,
                starts_at: certificate.starts_at.into(),
                subject: certificate.subject.clone(),
            },
            updated_at: endpoint.updated_at.into(),
        }
    }
}
