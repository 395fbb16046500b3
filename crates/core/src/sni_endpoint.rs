//! SNI endpoints: certificates with their private keys, and which host names they serve.

use crate::{AppId, Millis, SniEndpointId};
use serde::{Deserialize, Serialize};

/// Most certificates of one app. Source: Heroku allows 1,000 domains; each may have one.
pub const MAX_SNI_ENDPOINTS_PER_APP: usize = 1000;

/// An SNI endpoint as stored, without its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SniEndpoint {
    pub id: SniEndpointId,
    pub app_id: AppId,
    /// `ankylosaurus-12345`.
    pub name: String,
    /// The node got and renews it by itself.
    pub acm: bool,
    /// PEM, the leaf first.
    pub certificate_chain: String,
    pub certificate: Certificate,
    /// Rises with each new certificate.
    pub version: i64,
    pub created_at: Millis,
    pub updated_at: Millis,
}

/// What the first certificate of a chain says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// DNS names, lower case; `*.example.com` stands for one label.
    pub domains: Vec<String>,
    /// `/C=US/O=Example/CN=www.example.com`
    pub subject: String,
    pub issuer: String,
    pub starts_at: Millis,
    pub expires_at: Millis,
    /// A root authority that the node's system trusts vouches for it.
    pub is_ca_signed: bool,
    pub is_self_signed: bool,
}

impl Certificate {
    /// Whether clients take it for `hostname`; for `*.example.com`: for every name that this stands for.
    ///
    /// Source: RFC 6125, section 6.4.3: a star stands for one whole label.
    pub fn covers(&self, hostname: &str) -> bool {
        let wildcard = crate::domain::wildcard_of(hostname);
        self.domains.iter().any(|name| name == hostname || Some(name) == wildcard.as_ref())
    }
}

/// The endpoint under whose name and id the API shows all that the node got for an app: the first of them.
///
/// Each domain has a managed certificate of its own, so that one that fails holds up no other; but clients know one
/// managed endpoint an app, and the CLI's `domains:add` asks which to use as soon as there are two.
pub fn managed(endpoints: &[SniEndpoint]) -> Option<&SniEndpoint> {
    endpoints.iter().filter(|endpoint| endpoint.acm).min_by_key(|endpoint| (endpoint.created_at, endpoint.id))
}

/// A name in Heroku's form, chosen by `random`.
pub fn random_name(random: u64) -> String {
    let dinosaur = DINOSAURS[(random % DINOSAURS.len() as u64) as usize];
    format!("{dinosaur}-{}", 10_000 + (random >> 32) % 90_000)
}

const DINOSAURS: &[&str] = &[
    "allosaurus",
    "ankylosaurus",
    "apatosaurus",
    "archaeopteryx",
    "brachiosaurus",
    "camarasaurus",
    "ceratosaurus",
    "compsognathus",
    "corythosaurus",
    "deinonychus",
    "diplodocus",
    "edmontosaurus",
    "gallimimus",
    "hadrosaurus",
    "iguanodon",
    "kentrosaurus",
    "maiasaura",
    "megalosaurus",
    "ornithomimus",
    "oviraptor",
    "pachycephalosaurus",
    "parasaurolophus",
    "plateosaurus",
    "protoceratops",
    "spinosaurus",
    "stegosaurus",
    "styracosaurus",
    "triceratops",
    "tyrannosaurus",
    "velociraptor",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_covers_one_label() {
        let certificate = Certificate {
            domains: vec!["example.com".into(), "*.example.com".into()],
            subject: String::new(),
            issuer: String::new(),
            starts_at: 0,
            expires_at: 0,
            is_ca_signed: false,
            is_self_signed: false,
        };
        for (hostname, covered) in [
            ("example.com", true),
            ("www.example.com", true),
            ("*.example.com", true),
            ("a.b.example.com", false),
            ("*.b.example.com", false),
            ("example.org", false),
            ("badexample.com", false),
        ] {
            assert_eq!(certificate.covers(hostname), covered, "{hostname}");
        }
    }
}
