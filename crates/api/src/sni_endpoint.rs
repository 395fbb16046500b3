//! `/apps/X/sni-endpoints`.

use crate::Timestamp;
use crate::reference::Named;
use ferroku_core::app::App;
use ferroku_core::domain::Domain;
use ferroku_core::sni_endpoint::{SniEndpoint as Stored, managed};
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
    /// An app's endpoints as the API shows them: those that the node got are one, under the first one's name.
    pub fn list(endpoints: &[Stored], app: &App, domains: &[Domain]) -> Vec<Self> {
        let mut shown: Vec<Self> = Vec::new();
        let mut managed = managed(endpoints).map(|first| Self::new(first, app, domains));
        for endpoint in endpoints {
            let one = Self::new(endpoint, app, domains);
            match &mut managed {
                Some(managed) if endpoint.acm && managed.id != one.id => managed.merge(one),
                Some(managed) if endpoint.acm => debug_assert_eq!(managed.id, one.id),
                _ => shown.push(one),
            }
        }
        shown.extend(managed);
        shown
    }

    fn merge(&mut self, other: Self) {
        let (cert, others) = (&mut self.ssl_cert, other.ssl_cert);
        cert.cert_domains.extend(others.cert_domains);
        cert.expires_at = cert.expires_at.min(others.expires_at);
        cert.is_ca_signed &= others.is_ca_signed;
        cert.id = Uuid::from_u128(cert.id.as_u128() ^ others.id.as_u128());
        self.domains.extend(other.domains);
        self.updated_at = self.updated_at.max(other.updated_at);
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use ferroku_core::sni_endpoint::Certificate;
    use ferroku_core::{AccountId, AppId, SniEndpointId};

    fn stored(number: u128, acm: bool, name: &str) -> Stored {
        Stored {
            id: SniEndpointId(Uuid::from_u128(number)),
            app_id: AppId(Uuid::from_u128(1)),
            name: name.to_owned(),
            acm,
            certificate_chain: String::new(),
            certificate: Certificate {
                domains: vec![format!("{name}.example.com")],
                subject: String::new(),
                issuer: String::new(),
                starts_at: 0,
                expires_at: 100 - i64::try_from(number).expect("small"),
                is_ca_signed: true,
                is_self_signed: false,
            },
            version: 1,
            created_at: i64::try_from(number).expect("small"),
            updated_at: 0,
        }
    }

    #[test]
    fn what_the_node_got_is_shown_as_one() {
        let app = App {
            id: AppId(Uuid::from_u128(1)),
            name: "shop".to_owned(),
            owner_id: AccountId(Uuid::from_u128(2)),
            team_id: None,
            locked: false,
            stack: String::new(),
            build_stack: String::new(),
            region: String::new(),
            maintenance: false,
            acm: true,
            eco: false,
            uid_base: 0,
            buildpack_provided_description: None,
            repo_size_bytes: 0,
            slug_size_bytes: 0,
            restart_generation: 0,
            released_at: None,
            created_at: 0,
            updated_at: 0,
        };
        let all = [stored(3, true, "c"), stored(2, true, "b"), stored(4, false, "own"), stored(5, true, "d")];
        let shown = SniEndpoint::list(&all, &app, &[]);
        let names: Vec<&str> = shown.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["own", "b"]);
        assert_eq!(shown[1].ssl_cert.cert_domains, ["b.example.com", "c.example.com", "d.example.com"]);
        assert_eq!(shown[1].ssl_cert.expires_at, Timestamp(95), "the earliest");
        assert!(shown[1].ssl_cert.acm && !shown[0].ssl_cert.acm);
    }
}
