//! The node's own certificate authority and the certificate that the API listener shows.
//!
//! The official CLI checks the certificate of a rendezvous and of git, so users
//! are given `DIR/ca.crt` to trust (`ferrokud env` says how). The files:
//!
//! ```text
//! DIR/ca.crt          0644  what clients trust; ten years
//! DIR/tls/ca.key      0600  its key; it stays the same when ca.crt is issued anew
//! DIR/tls/server.pem  0600  key, certificate (one year), CA certificate; one file, so that they always match
//! ```
//!
//! Renewed without a restart [`RENEW_BEFORE_DAYS`] days before it ends, and
//! at a start when the names of the node have changed.
//!
//! The admin may give a certificate from elsewhere beside it ([`Given`]): it is shown to whoever asks for one of its names,
//! ours to all others, so that `localhost` through a tunnel goes on working. Its files are read again twice a day.

use arc_swap::{ArcSwap, ArcSwapOption};
use ferroku_core::Millis;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// How long the server's certificate is good for, in days. Some clients refuse more than 398.
const SERVER_DAYS: i64 = 365;

/// How long the CA's certificate is good for, in days: users install it by hand.
const AUTHORITY_DAYS: i64 = 3_653;

/// The server's certificate is renewed when it has fewer days left.
pub const RENEW_BEFORE_DAYS: i64 = 30;

/// The CA's certificate is issued anew when it has fewer days left: it must outlive what it signs.
const AUTHORITY_RENEW_BEFORE_DAYS: i64 = SERVER_DAYS + 60;

/// How often a running node looks whether its certificate is due.
const CHECK_INTERVAL: Duration = Duration::from_secs(12 * 3_600);

/// How often it looks while the given certificate could not be used yet: what writes its files takes seconds.
const LACKING_INTERVAL: Duration = Duration::from_secs(60);

const DAY_MS: Millis = 24 * 3_600 * 1_000;

/// What can go wrong with certificates.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("cannot make the folder {path}; check that the data folder is writable")]
    MakeFolder { path: PathBuf, source: std::io::Error },
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("cannot write {path}; check that the data folder is writable and has room")]
    Write { path: PathBuf, source: std::io::Error },
    #[error("cannot make a {what}")]
    Make { what: &'static str, source: rcgen::Error },
    #[error("{path} holds no private key that can be used; move it away to have a new CA made")]
    BadKey { path: PathBuf, source: rcgen::Error },
    #[error("{path} does not hold a key and its certificates; move it away to have it made anew")]
    BadServerFile { path: PathBuf },
    #[error("{path} holds no certificate or key in the PEM format; --tls-certificate and --tls-key name it")]
    BadGiven { path: PathBuf },
    #[error("{path} and the key beside it cannot be used together; is it the key of another certificate?")]
    GivenMismatch { path: PathBuf, source: rustls::Error },
    #[error("TLS cannot be set up")]
    Rustls(#[from] rustls::Error),
}

/// The names and addresses that clients reach the node by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerNames {
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl ServerNames {
    /// Those of a node that serves `domain` and listens on `listen`: with them localhost and the host's own name.
    ///
    /// `*.localhost` is for lenient clients only: the strict ones (rustls, OpenSSL, node) want two labels behind a star.
    pub fn of_node(domain: &str, listen: SocketAddr) -> Self {
        let mut dns: Vec<String> = vec!["localhost".into(), "*.localhost".into()];
        let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        match domain.parse::<IpAddr>() {
            Ok(address) => addresses.push(address),
            Err(_) => dns.extend([domain.to_ascii_lowercase(), format!("*.{}", domain.to_ascii_lowercase())]),
        }
        let host_name = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
        dns.push(host_name);
        if !listen.ip().is_unspecified() {
            addresses.push(listen.ip());
        }
        dns.retain(|name| is_dns_name(name));
        dns.sort_unstable();
        dns.dedup();
        addresses.sort_unstable();
        addresses.dedup();
        Self { dns, addresses }
    }

    fn covered_by(&self, certificate: &X509Certificate<'_>) -> bool {
        let Ok(Some(extension)) = certificate.subject_alternative_name() else { return false };
        let names = &extension.value.general_names;
        let dns = self.dns.iter().all(|name| {
            names.iter().any(|other| matches!(other, GeneralName::DNSName(other) if other == name))
        });
        let addresses = self.addresses.iter().all(|address| {
            let octets = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            names.iter().any(|other| matches!(other, GeneralName::IPAddress(other) if *other == octets))
        });
        dns && addresses
    }
}

/// A name that may stand in a certificate; a host may be called anything.
fn is_dns_name(name: &str) -> bool {
    let labels = name.strip_prefix("*.").unwrap_or(name);
    !labels.is_empty()
        && labels.len() <= 253
        && labels.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

/// A certificate that the admin has from elsewhere: two PEM files, the chain with the leaf first, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// The certificate of a node and all that is needed to renew it.
#[derive(Debug)]
pub struct Identity {
    data: PathBuf,
    names: ServerNames,
    given: Option<Given>,
    current: Arc<Current>,
    server_config: Arc<ServerConfig>,
}

impl Identity {
    /// Loads the node's certificates from its data folder, and makes what is missing, too old, or for other names.
    ///
    /// `now` is in milliseconds since the Unix epoch. rustls' provider must be installed already.
    ///
    /// # Errors
    /// The node's own files cannot be read or written, or are not what they should be. A given certificate that cannot be
    /// used is none: the log says so, and it is looked at again every minute.
    pub fn open(
        data: &Path,
        names: ServerNames,
        given: Option<Given>,
        now: Millis,
    ) -> Result<Self, TlsError> {
        let folder = data.join("tls");
        if let Err(source) = DirBuilder::new().recursive(true).mode(0o700).create(&folder) {
            return Err(TlsError::MakeFolder { path: folder, source });
        }
        let (key, _) = load_or_issue(data, &names, now)?;
        let current = Arc::new(Current { own: ArcSwap::from_pointee(key), given: ArcSwapOption::empty() });
        match given.as_ref().map(Given::load) {
            Some(Ok(given)) => current.given.store(Some(Arc::new(given))),
            // Half written, it may be: everything else must go on, and the dynos need this process.
            Some(Err(error)) => {
                let error = anyhow::Error::from(error);
                tracing::error!(
                    "the node's own certificate is shown for every name, until this is put right: {error:#}"
                );
            }
            None => {}
        }
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { data: data.to_owned(), names, given, current, server_config: Arc::new(config) })
    }

    /// For the listener. It shows the renewed certificate once there is one.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server_config.clone()
    }

    /// Renews the certificate when it is due, and reads the given one again. True when it was due.
    ///
    /// # Errors
    /// As [`Identity::open`]; the old one stays in use.
    pub fn renew_if_due(&self, now: Millis) -> Result<bool, TlsError> {
        let (key, issued) = load_or_issue(&self.data, &self.names, now)?;
        if issued {
            self.current.own.store(Arc::new(key));
        }
        if let Some(given) = &self.given {
            self.current.given.store(Some(Arc::new(given.load()?)));
        }
        Ok(issued)
    }

    /// Looks twice a day whether the certificate is due. Never ends.
    pub async fn keep_renewed(self: Arc<Self>) {
        loop {
            let lacks_given = self.given.is_some() && self.current.given.load().is_none();
            tokio::time::sleep(if lacks_given { LACKING_INTERVAL } else { CHECK_INTERVAL }).await;
            let identity = self.clone();
            let now = jiff::Timestamp::now().as_millisecond();
            match tokio::task::spawn_blocking(move || identity.renew_if_due(now)).await {
                Ok(Ok(true)) => tracing::info!("renewed the server's certificate"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::error!(
                        "cannot renew the server's certificate: {:#}",
                        anyhow::Error::from(error)
                    );
                }
                Err(error) => tracing::error!(%error, "renewing the server's certificate has panicked"),
            }
        }
    }
}

#[derive(Debug)]
struct Current {
    own: ArcSwap<CertifiedKey>,
    given: ArcSwapOption<CertifiedKey>,
}

impl ResolvesServerCert for Current {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let given = self.given.load_full();
        let asked_for = given.filter(|given| hello.server_name().is_some_and(|name| covers(given, name)));
        Some(asked_for.unwrap_or_else(|| self.own.load_full()))
    }
}

/// Whether the certificate is for this name.
fn covers(key: &CertifiedKey, name: &str) -> bool {
    let leaf = key.end_entity_cert().ok().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
    let name = ServerName::try_from(name).ok();
    leaf.zip(name).is_some_and(|(leaf, name)| verify_server_name(&leaf, &name).is_ok())
}

impl Given {
    /// Refuses what could not be shown.
    ///
    /// # Errors
    /// A file cannot be read, is not PEM, or the key belongs to another certificate.
    pub fn check(&self) -> Result<(), TlsError> {
        self.load().map(drop)
    }

    fn load(&self) -> Result<CertifiedKey, TlsError> {
        let pem =
            |path: &Path| fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source });
        let unusable = |path: &Path| TlsError::BadGiven { path: path.to_owned() };
        let chain = CertificateDer::pem_slice_iter(&pem(&self.certificate)?).collect::<Result<Vec<_>, _>>();
        let chain =
            chain.ok().filter(|chain| !chain.is_empty()).ok_or_else(|| unusable(&self.certificate))?;
        let key = PrivateKeyDer::from_pem_slice(&pem(&self.key)?).map_err(|_| unusable(&self.key))?;
        CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .map_err(|source| TlsError::GivenMismatch { path: self.certificate.clone(), source })
    }
}

/// The certificate in use, and whether it was just made.
fn load_or_issue(data: &Path, names: &ServerNames, now: Millis) -> Result<(CertifiedKey, bool), TlsError> {
    let authority = load_or_make_authority(data, now)?;
    let path = data.join("tls").join("server.pem");
    if let Some(pem) = read(&path)?
        && let Some((chain, key)) = parse_server_file(&pem)
        && is_good(&chain, &authority, names, now)
    {
        return Ok((certified(chain, key, &path)?, false));
    }
    let pem = issue(&authority, names, now)?;
    write(&path, pem.as_bytes(), 0o600)?;
    let (chain, key) =
        parse_server_file(pem.as_bytes()).ok_or_else(|| TlsError::BadServerFile { path: path.clone() })?;
    Ok((certified(chain, key, &path)?, true))
}

struct Authority {
    key: KeyPair,
    certificate_pem: String,
    certificate: CertificateDer<'static>,
}

fn load_or_make_authority(data: &Path, now: Millis) -> Result<Authority, TlsError> {
    let key_path = data.join("tls").join("ca.key");
    let key = match read(&key_path)? {
        Some(pem) => KeyPair::from_pem(&String::from_utf8_lossy(&pem))
            .map_err(|source| TlsError::BadKey { path: key_path, source })?,
        None => {
            let key =
                KeyPair::generate().map_err(|source| TlsError::Make { what: "key for the CA", source })?;
            write(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
            key
        }
    };
    let path = data.join("ca.crt");
    if let Some(pem) = read(&path)?
        && let Ok(certificate) = CertificateDer::from_pem_slice(&pem)
        && is_authority_of(&certificate, &key, now)
    {
        let certificate_pem = String::from_utf8_lossy(&pem).into_owned();
        return Ok(Authority { key, certificate_pem, certificate });
    }
    let made = authority_params(now)
        .self_signed(&key)
        .map_err(|source| TlsError::Make { what: "certificate for the CA", source })?;
    write(&path, made.pem().as_bytes(), 0o644)?;
    Ok(Authority { key, certificate_pem: made.pem(), certificate: made.der().clone() })
}

fn is_authority_of(certificate: &CertificateDer<'_>, key: &KeyPair, now: Millis) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
    parsed.public_key().subject_public_key.data == key.public_key_raw()
        && days_left(&parsed, now) >= AUTHORITY_RENEW_BEFORE_DAYS
}

fn authority_params(now: Millis) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("Ferroku node CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, AUTHORITY_DAYS);
    params
}

/// A new key and certificate, with the CA's behind it, as PEM.
fn issue(authority: &Authority, names: &ServerNames, now: Millis) -> Result<String, TlsError> {
    let failed = |source| TlsError::Make { what: "certificate for the server", source };
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(names.dns.clone()).map_err(failed)?;
    params.subject_alt_names.extend(names.addresses.iter().map(|address| SanType::IpAddress(*address)));
    params.distinguished_name = name("Ferroku node");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now, SERVER_DAYS);
    let issuer = Issuer::from_ca_cert_der(&authority.certificate, &authority.key).map_err(failed)?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    Ok(format!("{}{}{}", key.serialize_pem(), certificate.pem(), authority.certificate_pem))
}

fn is_good(chain: &[CertificateDer<'_>], authority: &Authority, names: &ServerNames, now: Millis) -> bool {
    let [server, issuer] = chain else { return false };
    let Ok((_, parsed)) = X509Certificate::from_der(server) else { return false };
    *issuer == authority.certificate
        && days_left(&parsed, now) >= RENEW_BEFORE_DAYS
        && names.covered_by(&parsed)
}

/// Days until it ends; below zero when it is not good yet.
fn days_left(certificate: &X509Certificate<'_>, now: Millis) -> i64 {
    let validity = certificate.validity();
    if validity.not_before.timestamp() > now / 1_000 {
        return -1;
    }
    (validity.not_after.timestamp() * 1_000 - now) / DAY_MS
}

fn parse_server_file(pem: &[u8]) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    Some((chain, key))
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    path: &Path,
) -> Result<CertifiedKey, TlsError> {
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
        tracing::error!(%error, path = %path.display(), "the server's certificate cannot be used");
        TlsError::BadServerFile { path: path.to_owned() }
    })
}

/// From the day before `now`, for clocks that are behind, to so many days behind it, by midnights UTC.
fn set_validity(params: &mut CertificateParams, now: Millis, days: i64) {
    let midnight = |at: Millis| {
        let time = jiff::Timestamp::from_millisecond(at).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
        let (month, day) = (date.month().unsigned_abs(), date.day().unsigned_abs());
        rcgen::date_time_ymd(date.year().into(), month, day)
    };
    params.not_before = midnight(now - DAY_MS);
    params.not_after = midnight(now + days * DAY_MS);
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, TlsError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TlsError::Read { path: path.to_owned(), source }),
    }
}

/// Writes a file whole or not at all, a power cut included.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let beside = path.with_extension("new");
    let written = (|| {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    })();
    written.map_err(|source| TlsError::Write { path: path.to_owned(), source })
}
