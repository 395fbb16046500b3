//! An app's certificates as the router gets them: with their private keys, for the hosts of the domains that use them.
//!
//! Keys are opened once for each version of a certificate and kept, because an app's loop asks at every change.

use ferroku_core::domain::Domain;
use ferroku_core::protocol::router::Certificate;
use ferroku_core::sni_endpoint::SniEndpoint;
use ferroku_core::{DomainId, SniEndpointId};
use ferroku_store::{Result, Store, sni_endpoints};
use std::collections::{HashMap, HashSet};
use zeroize::Zeroizing;

/// What a loop remembers of its app's certificates and domains.
#[derive(Default)]
pub(super) struct Certificates {
    keys: HashMap<SniEndpointId, (i64, Zeroizing<String>)>,
    /// Domains that the router was or is being told of.
    pub announced: HashSet<DomainId>,
}

impl Certificates {
    /// Those of `endpoints` that a domain uses.
    ///
    /// # Errors
    /// The database failed. A key that does not open is left out and logged: one bad row takes no app down.
    pub async fn read(
        &mut self,
        store: &Store,
        endpoints: &[SniEndpoint],
        domains: &[Domain],
    ) -> Result<Vec<Certificate>> {
        self.keys.retain(|id, _| endpoints.iter().any(|endpoint| endpoint.id == *id));
        let mut certificates = Vec::new();
        for endpoint in endpoints {
            let own = domains.iter().filter(|domain| domain.sni_endpoint_id == Some(endpoint.id));
            let hosts: Vec<String> = own.map(|domain| domain.hostname.clone()).collect();
            if hosts.is_empty() {
                continue;
            }
            let Some(key) = self.key(store, endpoint).await? else { continue };
            certificates.push(Certificate {
                id: endpoint.name.clone(),
                hosts,
                chain_pem: endpoint.certificate_chain.clone(),
                key_pem: key,
            });
        }
        Ok(certificates)
    }

    async fn key(&mut self, store: &Store, endpoint: &SniEndpoint) -> Result<Option<String>> {
        if let Some((version, key)) = self.keys.get(&endpoint.id)
            && *version == endpoint.version
        {
            return Ok(Some(key.as_str().to_owned()));
        }
        match sni_endpoints::private_key(store, endpoint).await {
            // It has another certificate since it was read: whoever changed it pokes.
            Ok(None) => Ok(None),
            Ok(Some(key)) => {
                let text = key.as_str().to_owned();
                self.keys.insert(endpoint.id, (endpoint.version, key));
                Ok(Some(text))
            }
            Err(error @ ferroku_store::StoreError::Query { .. }) => Err(error),
            Err(error) => {
                tracing::error!(
                    name = endpoint.name,
                    error = &error as &dyn std::error::Error,
                    "a certificate is not served, because its private key cannot be read"
                );
                Ok(None)
            }
        }
    }
}
