//! TLS on the router's listeners: which certificate a client is shown, and what both sides agree on.
//!
//! In: the certificates of the route table, by server name (RFC 6066, section 3): an exact name before a
//! wildcard of one label. A client that names a host without a certificate, or none, gets the fatal alert
//! `access_denied`: there is no certificate that would be true. TLS 1.2 and 1.3; sessions are resumed by
//! tickets, whose key lives and dies with the router's process.
//!
//! Invariant: private keys are in memory only. A router that has just started knows none before control has
//! sent them and a table; handshakes wait for it. What is shown changes with a table and only then: a certificate
//! that was sent is kept aside until a table names it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use ferroku_core::protocol::router::{Certificate, CertificateUse};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ProtocolVersion, ServerConfig};

use crate::table::Table;

/// The protocol names of RFC 7301, best first.
const ALPN_HTTP2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// What the log line and the proxy need to know of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    /// As the log line has it: `tls1.3`.
    pub version: &'static str,
    /// The host that the client asked for, in lower case.
    pub server_name: Option<Box<str>>,
}

/// Certificates by host name.
#[derive(Debug, Default)]
pub struct Certificates {
    hosts: HashMap<Box<str>, Arc<CertifiedKey>>,
}

/// The certificates that control has sent, read once each.
#[derive(Debug, Default)]
pub struct Keyring {
    /// Those that the newest table names, by id.
    shown: HashMap<String, Known>,
    /// Those that came after it, by id.
    sent: HashMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    digest: String,
    key: Arc<CertifiedKey>,
}

impl Certificates {
    /// The certificate for a host name in lower case.
    pub fn find(&self, host: &str) -> Option<&Arc<CertifiedKey>> {
        if let Some(exact) = self.hosts.get(host) {
            return Some(exact);
        }
        let (_, parent) = host.split_once('.')?;
        self.hosts.get(format!("*.{parent}").as_str())
    }
}

impl Keyring {
    /// Takes in a certificate for the tables to come. One that cannot be used is logged and left out.
    pub fn take(&mut self, certificate: &Certificate) {
        let same = |known: &Known| known.digest == certificate.digest;
        if self.shown.get(&certificate.id).is_some_and(same) {
            // A control that is new here sends all.
            self.sent.remove(&certificate.id);
            return;
        }
        match certified(certificate) {
            Ok(key) => {
                let known = Known { digest: certificate.digest.clone(), key: Arc::new(key) };
                self.sent.insert(certificate.id.clone(), known);
            }
            Err(error) => {
                tracing::error!(
                    id = certificate.id,
                    error,
                    "a certificate cannot be used, so that the one before stays, if there is one; upload it again"
                );
            }
        }
    }

    /// What a table shows. Forgets what it does not name. Where the content that it names never came or cannot be
    /// used, the one before of the same id stays; of two for the same host the first counts.
    pub fn place(&mut self, uses: Vec<CertificateUse>) -> Certificates {
        let mut shown = HashMap::with_capacity(uses.len());
        let mut hosts = HashMap::with_capacity(uses.len());
        for CertificateUse { id, digest, hosts: names } in uses {
            let sent = self.sent.remove(&id).filter(|known| known.digest == digest);
            let Some(known) = sent.or_else(|| self.shown.remove(&id)) else {
                tracing::debug!(id, "a table names a certificate that is not here");
                continue;
            };
            for name in names {
                let name = name.to_ascii_lowercase().into_boxed_str();
                hosts.entry(name).or_insert_with(|| known.key.clone());
            }
            shown.insert(id, known);
        }
        self.shown = shown;
        self.sent.clear();
        Certificates { hosts }
    }

    /// Forgets what no table has named: its sender is gone, and the next one sends all anew.
    pub fn forget_unplaced(&mut self) {
        self.sent.clear();
    }
}

fn certified(certificate: &Certificate) -> Result<CertifiedKey, String> {
    let chain = CertificateDer::pem_slice_iter(certificate.chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("the chain is no PEM: {error:?}"))?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes())
        .map_err(|_| "the private key is no PEM".to_owned())?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
        .map_err(|error| error.to_string())
}

/// Accepts TLS with the certificates of whatever table is in place.
///
/// # Errors
/// No random bytes can be had for the tickets' key.
pub fn server_config(table: Arc<ArcSwapOption<Table>>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver(table)));
    config.alpn_protocols = vec![ALPN_HTTP2.to_vec(), ALPN_HTTP1.to_vec()];
    config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    // Tickets carry the session, so that nothing is kept here for each client.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// What was agreed on.
pub fn handshake(connection: &rustls::ServerConnection) -> Handshake {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "tls1.2",
        Some(ProtocolVersion::TLSv1_3) => "tls1.3",
        _ => "unknown",
    };
    let server_name = connection.server_name().map(|name| name.to_ascii_lowercase().into_boxed_str());
    Handshake { version, server_name }
}

/// Whether both sides chose HTTP/2.
pub fn is_http2(connection: &rustls::ServerConnection) -> bool {
    connection.alpn_protocol() == Some(ALPN_HTTP2)
}

#[derive(Debug)]
struct Resolver(Arc<ArcSwapOption<Table>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.0.load();
        let name = hello.server_name()?;
        table.as_ref()?.certificates.find(&name.to_ascii_lowercase()).cloned()
    }
}
