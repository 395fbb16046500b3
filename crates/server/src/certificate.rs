//! Checks a certificate chain and its private key before they are kept.
//!
//! In: two PEM texts, as `heroku certs:add` sends the user's files. Out: the chain in its order (leaf first), the key,
//! and what the leaf says; or an error that says what to do. What passes is what the router's TLS library accepts.
//!
//! Sources: RFC 5280 (chains), RFC 7468 (PEM), RFC 8446 section 4.4.2 (the order on the wire).

use ferroku_core::Millis;
use ferroku_core::sni_endpoint::Certificate;
use ferroku_store::sni_endpoints::Material;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, crypto};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate, X509Name};
use zeroize::Zeroizing;

/// Most certificates in one chain: a leaf and its intermediates are two to four.
const MAX_CHAIN: usize = 10;
/// Largest text of a chain or a key, in bytes: ten certificates with 4096-bit keys have 30 KB.
const MAX_PEM_BYTES: usize = 32 * 1024;
/// The system's root authorities, where Debian keeps them.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What passed the check.
pub struct Checked {
    /// PEM, the leaf first.
    pub certificate_chain: String,
    pub certificate: Certificate,
    /// PEM.
    pub private_key: Zeroizing<String>,
}

impl Checked {
    /// What the store keeps of it.
    pub fn material(&self) -> Material<'_> {
        Material {
            certificate_chain: &self.certificate_chain,
            certificate: &self.certificate,
            private_key: &self.private_key,
        }
    }
}

/// Why a certificate or its key cannot be used; for the user.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CertificateError {
    #[error("The {0} is larger than {MAX_PEM_BYTES} bytes.")]
    TooLarge(&'static str),
    #[error(
        "The private key is encrypted. Take its passphrase off first: \
         openssl pkey -in server.key -out server.plain.key"
    )]
    EncryptedKey,
    #[error("The key file holds a certificate, not a private key. Give the certificate first, then its key.")]
    KeyIsCertificate,
    #[error("The key file holds no private key in PEM form (-----BEGIN PRIVATE KEY-----).")]
    NoKey,
    #[error(
        "This kind of private key cannot be used: use RSA of 2048 to 8192 bits, or ECDSA P-256 or P-384."
    )]
    UnsupportedKey,
    #[error("The certificate file holds no certificate in PEM form (-----BEGIN CERTIFICATE-----).")]
    NoCertificate,
    #[error("Certificate number {0} of the file is damaged.")]
    Damaged(usize),
    #[error(
        "The file holds more than {MAX_CHAIN} certificates. Leave out those that are not part of the chain."
    )]
    TooMany,
    #[error(
        "The private key does not belong to the certificate {0}. Compare \
         `openssl x509 -in server.crt -noout -pubkey` with `openssl pkey -in server.key -pubout`."
    )]
    KeyMismatch(String),
    #[error(
        "The certificate {0} is not part of the chain of {1}: it signed none of its certificates. Leave it out, or \
         add the one between."
    )]
    NotInChain(String, String),
    #[error("The certificate names no domain.")]
    NoDomains,
    #[error("The certificate expired on {0}. Get a new one from its authority.")]
    Expired(String),
}

/// Checks a chain, in any order, and its key.
///
/// # Errors
/// [`CertificateError`].
pub fn check(chain_pem: &str, key_pem: &str, now: Millis) -> Result<Checked, CertificateError> {
    for (text, what) in [(chain_pem, "certificate chain"), (key_pem, "private key")] {
        if text.len() > MAX_PEM_BYTES {
            return Err(CertificateError::TooLarge(what));
        }
    }
    let (key_der, key) = read_key(key_pem)?;
    let ders = read_chain(chain_pem)?;
    let parsed = parse_chain(&ders)?;
    let leaf = ders
        .iter()
        .position(|der| belongs(der, &key))
        .ok_or_else(|| CertificateError::KeyMismatch(name(parsed[0].subject())))?;
    let order = order(&parsed, leaf)?;
    let chain: Vec<CertificateDer<'static>> = order.iter().map(|index| ders[*index].clone()).collect();
    let certificate = describe(&parsed[leaf], &chain, now)?;
    if certificate.expires_at <= now {
        return Err(CertificateError::Expired(day(certificate.expires_at)));
    }
    Ok(Checked {
        certificate_chain: chain.iter().map(|der| pem("CERTIFICATE", der)).collect(),
        certificate,
        // Written anew, as the chain is: what stands around the key in the text given goes nowhere.
        private_key: Zeroizing::new(key_to_pem(&key_der)),
    })
}

type Key = (PrivateKeyDer<'static>, Arc<dyn rustls::sign::SigningKey>);

fn read_key(text: &str) -> Result<Key, CertificateError> {
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(CertificateError::EncryptedKey);
    }
    let der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
        match text.contains("BEGIN CERTIFICATE") {
            true => CertificateError::KeyIsCertificate,
            false => CertificateError::NoKey,
        }
    })?;
    let key = crypto::ring::sign::any_supported_type(&der).map_err(|_| CertificateError::UnsupportedKey)?;
    Ok((der, key))
}

fn key_to_pem(der: &PrivateKeyDer<'_>) -> String {
    let label = match der {
        PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
        PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    pem(label, der.secret_der())
}

fn read_chain(text: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut ders: Vec<CertificateDer<'static>> = Vec::new();
    for (index, der) in CertificateDer::pem_slice_iter(text.as_bytes()).enumerate() {
        let der = der.map_err(|_| CertificateError::Damaged(index + 1))?;
        // Files that were put together by hand hold one twice now and then.
        if !ders.contains(&der) {
            ders.push(der);
        }
    }
    match ders.len() {
        0 => Err(CertificateError::NoCertificate),
        count if count > MAX_CHAIN => Err(CertificateError::TooMany),
        _ => Ok(ders),
    }
}

fn parse_chain<'a>(ders: &'a [CertificateDer<'_>]) -> Result<Vec<X509Certificate<'a>>, CertificateError> {
    let parse = |(index, der): (usize, &'a CertificateDer<'_>)| match X509Certificate::from_der(der) {
        Ok((_, certificate)) => Ok(certificate),
        Err(_) => Err(CertificateError::Damaged(index + 1)),
    };
    ders.iter().enumerate().map(parse).collect()
}

fn belongs(der: &CertificateDer<'static>, key: &Arc<dyn rustls::sign::SigningKey>) -> bool {
    CertifiedKey::new(vec![der.clone()], key.clone()).keys_match().is_ok()
}

/// The indices from the leaf upwards, each signed by the next.
fn order(parsed: &[X509Certificate<'_>], leaf: usize) -> Result<Vec<usize>, CertificateError> {
    let mut order = vec![leaf];
    let mut current = leaf;
    loop {
        let below = &parsed[current];
        let signed = |above: &X509Certificate<'_>| {
            above.subject() == below.issuer() && below.verify_signature(Some(above.public_key())).is_ok()
        };
        let next = (0..parsed.len()).find(|index| !order.contains(index) && signed(&parsed[*index]));
        let Some(next) = next else { break };
        order.push(next);
        current = next;
    }
    match (0..parsed.len()).find(|index| !order.contains(index)) {
        None => Ok(order),
        Some(other) => {
            let (other, leaf) = (name(parsed[other].subject()), name(parsed[leaf].subject()));
            Err(CertificateError::NotInChain(other, leaf))
        }
    }
}

fn describe(
    leaf: &X509Certificate<'_>,
    chain: &[CertificateDer<'static>],
    now: Millis,
) -> Result<Certificate, CertificateError> {
    let mut domains: Vec<String> = Vec::new();
    for extension in leaf.extensions() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
            domains.extend(names.general_names.iter().filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            }));
        }
    }
    if domains.is_empty() {
        // Browsers do not look at it any more, but people make such certificates for trials.
        let common = leaf.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        domains.extend(common.map(str::to_ascii_lowercase).filter(|name| name.contains('.')));
    }
    domains.dedup();
    let first = domains.first().ok_or(CertificateError::NoDomains)?;
    Ok(Certificate {
        is_ca_signed: is_trusted(chain, &first.replace('*', "any"), now),
        subject: name(leaf.subject()),
        issuer: name(leaf.issuer()),
        starts_at: leaf.validity().not_before.timestamp() * 1000,
        expires_at: leaf.validity().not_after.timestamp() * 1000,
        is_self_signed: leaf.subject() == leaf.issuer(),
        domains,
    })
}

/// Whether the system's root authorities vouch for the chain.
fn is_trusted(chain: &[CertificateDer<'static>], host: &str, now: Millis) -> bool {
    let file = std::env::var_os("SSL_CERT_FILE").unwrap_or_else(|| SYSTEM_ROOTS.into());
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(Path::new(&file)).into_iter().flatten().flatten() {
        // An authority that the library cannot read vouches for nobody.
        let _ = roots.add(root);
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let Ok(verifier) = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build() else {
        return false;
    };
    let Ok(host) = ServerName::try_from(host) else { return false };
    let now = UnixTime::since_unix_epoch(Duration::from_millis(u64::try_from(now).unwrap_or(0)));
    verifier.verify_server_cert(&chain[0], &chain[1..], &host, &[], now).is_ok()
}

/// `/C=US/O=Example/CN=www.example.com`
fn name(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    for attribute in name.iter_attributes() {
        let kind =
            x509_parser::objects::oid2abbrev(attribute.attr_type(), x509_parser::objects::oid_registry());
        let kind = kind.map_or_else(|_| attribute.attr_type().to_id_string(), str::to_owned);
        text.push_str(&format!("/{kind}={}", attribute.as_str().unwrap_or("?")));
    }
    text
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    // A key passes through here, too.
    let text = Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(der));
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn day(at: Millis) -> String {
    let at = jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::MAX);
    at.strftime("%Y-%m-%d").to_string()
}
