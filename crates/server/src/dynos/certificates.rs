//! An app's certificates as the router gets them: with their private keys, for the hosts of the domains that use them.
//!
//! An app's loop asks at every change of a dyno, an app may have a thousand chains, and certificates change a few times
//! a year. So rows are read only when somebody has said that the app's rows changed, or when a domain names a
//! certificate that is not known here; and a chain and its key are opened once for each version.

use ferroku_core::domain::Domain;
use ferroku_core::protocol::router::Certificate;
use ferroku_core::sni_endpoint::SniEndpoint;
use ferroku_core::{AppId, DomainId, SniEndpointId};
use ferroku_store::{Result, Store, StoreError, sni_endpoints};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// A certificate and the hosts that it is shown for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    pub certificate: Arc<Certificate>,
    pub hosts: Vec<String>,
}

/// What a loop remembers of its app's certificates and domains.
#[derive(Default)]
pub(super) struct Certificates {
    /// Of those that a domain uses, the version that was read, and what it is; None for a key that does not open.
    known: HashMap<SniEndpointId, (i64, Option<Arc<Certificate>>)>,
    /// The versions may be old.
    stale: bool,
    /// Domains that the router is being told of and whose rows do not say so yet.
    announced: HashSet<DomainId>,
}

impl Certificates {
    /// Somebody has changed the app's rows, and these maybe.
    pub fn rows_changed(&mut self) {
        self.stale = true;
    }

    /// Those that one of `domains` uses.
    ///
    /// # Errors
    /// The database failed. A key that does not open is left out and logged: one bad row takes no app down.
    pub async fn read(&mut self, store: &Store, app_id: AppId, domains: &[Domain]) -> Result<Vec<Shown>> {
        let mut hosts: BTreeMap<SniEndpointId, Vec<String>> = BTreeMap::new();
        for domain in domains {
            if let Some(id) = domain.sni_endpoint_id {
                hosts.entry(id).or_default().push(domain.hostname.clone());
            }
        }
        self.known.retain(|id, _| hosts.contains_key(id));
        if hosts.keys().any(|id| self.stale || !self.known.contains_key(id)) {
            for endpoint in sni_endpoints::list(store, app_id).await? {
                if hosts.contains_key(&endpoint.id) {
                    self.take(store, endpoint).await?;
                }
            }
        }
        self.stale = false;
        let shown = |(id, hosts)| {
            let certificate = self.known.get(&id)?.1.clone()?;
            Some(Shown { certificate, hosts })
        };
        Ok(hosts.into_iter().filter_map(shown).collect())
    }

    async fn take(&mut self, store: &Store, endpoint: SniEndpoint) -> Result<()> {
        let (id, version) = (endpoint.id, endpoint.version);
        if self.known.get(&id).is_some_and(|(known, _)| *known == version) {
            return Ok(());
        }
        let certificate = match sni_endpoints::private_key(store, &endpoint).await {
            // It has another certificate since it was read: whoever changed it pokes.
            Ok(None) => return Ok(()),
            Ok(Some(key)) => {
                let chain = endpoint.certificate_chain;
                Some(Arc::new(Certificate::new(id.to_string(), chain, key.as_str().to_owned())))
            }
            Err(error @ StoreError::Query { .. }) => return Err(error),
            Err(error) => {
                tracing::error!(
                    name = endpoint.name,
                    error = &error as &dyn std::error::Error,
                    "a certificate is not served, because its private key cannot be read"
                );
                None
            }
        };
        self.known.insert(id, (version, certificate));
        Ok(())
    }

    /// Of the domains that the router is to be told of, those that it is not being told of yet.
    pub fn announce(&mut self, pending: &[DomainId]) -> Vec<DomainId> {
        self.announced.retain(|id| pending.contains(id));
        pending.iter().copied().filter(|id| self.announced.insert(*id)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Node;
    use ferroku_core::app::{DEFAULT_REGION, DEFAULT_STACK};
    use ferroku_core::event::Actor;
    use ferroku_core::sni_endpoint::Certificate as Leaf;
    use ferroku_store::apps::{self, NewApp};
    use ferroku_store::domains::NewDomain;
    use ferroku_store::sni_endpoints::Material;
    use ferroku_store::{accounts, domains};
    use uuid::Uuid;

    const HOST: &str = "www.example.com";

    fn leaf() -> Leaf {
        Leaf {
            domains: vec![HOST.into()],
            subject: String::new(),
            issuer: String::new(),
            starts_at: 0,
            expires_at: 0,
            is_ca_signed: false,
            is_self_signed: false,
        }
    }

    #[tokio::test]
    async fn rows_are_read_when_they_have_changed_and_keys_are_opened_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::for_tests(folder.path()).await;
        let store = &node.store;
        let owner = accounts::find_by_email(store, "owner@example.com").await.expect("read").expect("made");
        let actor =
            Actor { account_id: owner.id, email: owner.email, remote_address: None, request_id: None };
        let app_id = AppId(Uuid::new_v4());
        let new = NewApp { id: app_id, name: "secure", stack: DEFAULT_STACK, region: DEFAULT_REGION };
        apps::create(store, &new, &actor, 1).await.expect("made");
        let leaf = leaf();
        let of = |chain: &'static str| Material {
            certificate_chain: chain,
            certificate: &leaf,
            private_key: "KEY",
        };
        let app = apps::by_id(store, app_id).await.expect("read").expect("made");
        let id = DomainId(Uuid::new_v4());
        let new = NewDomain { id, hostname: HOST, cname: "node.test", sni_endpoint_id: None };
        let domain = domains::create(store, &app, &new, &actor, 1).await.expect("made");
        let mut certificates = Certificates::default();
        assert_eq!(certificates.read(store, app_id, std::slice::from_ref(&domain)).await.expect("read"), []);

        // A certificate that a domain names, and that is not known here, is read without being told of.
        let endpoint =
            sni_endpoints::create(store, app_id, "a-1", &of("ONE"), &actor, 2).await.expect("made");
        let bound = domains::list(store, app_id).await.expect("read");
        let first = certificates.read(store, app_id, &bound).await.expect("read");
        assert_eq!(first[0].hosts, [HOST]);
        assert_eq!(
            (first[0].certificate.chain_pem.as_str(), first[0].certificate.key_pem.as_str()),
            ("ONE", "KEY")
        );

        // Another one is looked for only after somebody has said that rows changed.
        sni_endpoints::update(store, &endpoint, &of("TWO"), &actor, 3).await.expect("updated");
        let same = certificates.read(store, app_id, &bound).await.expect("read");
        assert!(Arc::ptr_eq(&first[0].certificate, &same[0].certificate));
        certificates.rows_changed();
        let second = certificates.read(store, app_id, &bound).await.expect("read");
        assert_eq!(second[0].certificate.chain_pem, "TWO");
        assert_eq!(second[0].certificate.id, first[0].certificate.id);
        assert_ne!(second[0].certificate.digest, first[0].certificate.digest);
        certificates.rows_changed();
        let same = certificates.read(store, app_id, &bound).await.expect("read");
        assert!(Arc::ptr_eq(&second[0].certificate, &same[0].certificate), "its version is the same");
        assert_eq!(certificates.read(store, app_id, &[domain]).await.expect("read"), [], "no domain uses it");
    }

    #[test]
    fn a_domain_is_announced_once_and_forgotten_when_its_row_says_so() {
        let mut certificates = Certificates::default();
        let [one, two] = [1, 2].map(|number| DomainId(Uuid::from_u128(number)));
        assert_eq!(certificates.announce(&[one]), [one]);
        assert_eq!(certificates.announce(&[one, two]), [two]);
        assert_eq!(certificates.announce(&[]), []);
        assert!(certificates.announced.is_empty());
    }
}
