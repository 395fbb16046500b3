//! Fetching what a client's URL names, from the internet and from nowhere else.
//!
//! In: an `http` or `https` URL of a client's. Out: a file, or why not. A URL may be chosen so that the node reaches what
//! its author cannot: itself, its neighbours, a cloud's metadata service. So each host is looked up once a request, every
//! address that it has must be on the internet, and the connection goes to one of just these addresses: a name that is
//! another's address a moment later changes nothing. A redirect is a new URL and is asked all of it again.
//!
//! Invariants:
//! - No connection is made to an address that [`Fetcher::pin`] has not let pass.
//! - No error names an address that a lookup gave: names of a private network are nobody's to read. No error has more of
//!   the URL than its host: the rest may hold a password.
//!
//! What the internet is: the IANA registries of special-purpose addresses (RFC 6890); of IPv6 only global unicast
//! (RFC 4291), without the ranges that carry IPv4 inside. The admin may allow networks beside it (`--fetch-from`), also
//! the node's own. Proxies of the node's environment are not used: they would look the name up once more.

use crate::git::disk_is_full;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::StatusCode;
use http::header::{ACCEPT, LOCATION};
use ipnet::IpNet;
use reqwest::redirect::Policy;
use reqwest::{Response, Url};
use sha2::{Digest, Sha256};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// Redirects that are followed. Release archives of the large hosts take two.
const MAX_REDIRECTS: usize = 5;
/// Time for a name's lookup and for a connection each.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for which a server may say nothing: as the router gives an app (H12, H28).
const STALL_TIMEOUT: Duration = Duration::from_secs(55);
/// Longest URL, in bytes: what servers take.
pub const MAX_URL_BYTES: usize = 8 * 1024;
/// The disk is looked at whenever so many more bytes have come.
const DISK_CHECK_BYTES: u64 = 16 * 1024 * 1024;

/// What may be fetched besides the internet.
#[derive(Debug, Clone, Default)]
pub struct FetchSettings {
    pub allowed: Vec<IpNet>,
}

/// Something could not be fetched.
#[derive(Debug, Error)]
pub enum FetchError {
    #[error("it is no URL that begins with https:// or http:// and names a host")]
    Malformed,
    #[error(
        "{host} is {what}, and the node fetches from the internet only; its admin may allow more (--fetch-from)"
    )]
    Forbidden { host: String, what: &'static str },
    #[error("the name {host} has no address")]
    Unknown { host: String },
    #[error("{host} cannot be reached: {reason}")]
    Unreachable { host: String, reason: String },
    #[error("{host} answered {status}")]
    Refused { host: String, status: StatusCode },
    #[error("{host} redirects to what is no URL")]
    BadRedirect { host: String },
    #[error("it was redirected more than {MAX_REDIRECTS} times")]
    Endless,
    #[error("{host} sent nothing for {} seconds", STALL_TIMEOUT.as_secs())]
    Stalled { host: String },
    #[error("it is larger than {} MB", max_bytes >> 20)]
    TooLarge { max_bytes: u64 },
    #[error("the node's disk is full")]
    DiskFull,
    #[error("cannot write what is fetched")]
    Io(#[from] io::Error),
}

/// A host whose addresses may be connected to.
#[derive(Debug, Clone)]
pub struct Pinned {
    pub host: String,
    pub addresses: Vec<SocketAddr>,
}

/// What was fetched.
#[derive(Debug)]
pub struct Fetched {
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Fetches. Clones are the same.
#[derive(Clone)]
pub struct Fetcher {
    allowed: Arc<[IpNet]>,
    lookup: Lookup,
}

/// Reads a client's URL.
///
/// # Errors
/// [`FetchError::Malformed`].
pub fn parse(url: &str) -> Result<Url, FetchError> {
    let parsed = Url::parse(url).ok().filter(|_| url.len() <= MAX_URL_BYTES);
    let parsed = parsed.filter(|url| matches!(url.scheme(), "http" | "https"));
    parsed.filter(|url| url.host_str().is_some_and(|host| !host.is_empty())).ok_or(FetchError::Malformed)
}

/// The URL as it may be shown and kept: without user, password, query and fragment.
pub fn without_secrets(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Neither can fail for a URL that has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.into()
}

impl Fetcher {
    /// Fetches from the internet, and from what the admin allows.
    pub fn new(settings: &FetchSettings) -> Self {
        let lookup = |host: String| -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            Box::pin(async move {
                let found = tokio::net::lookup_host((host, 0)).await?;
                Ok(found.map(|address| address.ip()).collect())
            })
        };
        Self { allowed: settings.allowed.clone().into(), lookup: Arc::new(lookup) }
    }

    /// The addresses of the URL's host, when all of them may be connected to.
    ///
    /// # Errors
    /// One of them may not, or it has none.
    pub async fn pin(&self, url: &Url) -> Result<Pinned, FetchError> {
        let host = url.host_str().ok_or(FetchError::Malformed)?.to_owned();
        let port = url.port_or_known_default().ok_or(FetchError::Malformed)?;
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let found = match literal {
            Ok(address) => vec![address],
            Err(_) => {
                let found = timeout(CONNECT_TIMEOUT, (self.lookup)(host.clone())).await;
                found.ok().and_then(Result::ok).unwrap_or_default()
            }
        };
        if found.is_empty() {
            return Err(FetchError::Unknown { host });
        }
        for address in &found {
            if let Some(what) = self.refusal(*address) {
                return Err(FetchError::Forbidden { host, what });
            }
        }
        let addresses = found.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        Ok(Pinned { host, addresses })
    }

    fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        let address = address.to_canonical();
        if self.allowed.iter().any(|network| network.contains(&address)) {
            return None;
        }
        not_internet(address).or_else(|| is_own(address).then_some("an address of the node itself"))
    }

    /// Writes what the URL names to the new file `place`; at most `max_bytes`.
    ///
    /// # Errors
    /// As [`FetchError`] says. What has been written stays.
    pub async fn download(&self, url: &Url, place: &Path, max_bytes: u64) -> Result<Fetched, FetchError> {
        let (host, mut response) = self.get(url.clone()).await?;
        if response.content_length().is_some_and(|length| length > max_bytes) {
            return Err(FetchError::TooLarge { max_bytes });
        }
        let mut file = tokio::fs::File::create_new(place).await?;
        let (mut bytes, mut checked, mut hash) = (0u64, 0u64, Sha256::new());
        while let Some(piece) = next_piece(&mut response, &host).await? {
            bytes += piece.len() as u64;
            if bytes > max_bytes {
                return Err(FetchError::TooLarge { max_bytes });
            }
            if bytes >= checked + DISK_CHECK_BYTES {
                checked = bytes;
                if disk_is_full(place).is_some() {
                    return Err(FetchError::DiskFull);
                }
            }
            hash.update(&piece);
            file.write_all(&piece).await?;
        }
        file.flush().await?;
        Ok(Fetched { bytes, sha256: hex::encode(hash.finalize()) })
    }

    /// The answer that is no redirect, and whose it is.
    async fn get(&self, mut url: Url) -> Result<(String, Response), FetchError> {
        for _ in 0..=MAX_REDIRECTS {
            let Pinned { host, addresses } = self.pin(&url).await?;
            let client = reqwest::Client::builder()
                .redirect(Policy::none())
                .no_proxy()
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(STALL_TIMEOUT)
                .resolve_to_addrs(&host, &addresses)
                .build()
                .map_err(|error| unreachable(&host, &error))?;
            let asked = client.get(url.clone()).header(ACCEPT, "*/*").send();
            let response = asked.await.map_err(|error| unreachable(&host, &error))?;
            if !response.status().is_redirection() {
                let status = response.status();
                return match status.is_success() {
                    true => Ok((host, response)),
                    false => Err(FetchError::Refused { host, status }),
                };
            }
            let next = response.headers().get(LOCATION).and_then(|place| place.to_str().ok());
            let next = next.and_then(|place| url.join(place).ok()).map(String::from);
            url = next.and_then(|next| parse(&next).ok()).ok_or(FetchError::BadRedirect { host })?;
        }
        Err(FetchError::Endless)
    }
}

async fn next_piece(response: &mut Response, host: &str) -> Result<Option<Bytes>, FetchError> {
    response.chunk().await.map_err(|error| match error.is_timeout() {
        true => FetchError::Stalled { host: host.to_owned() },
        false => unreachable(host, &error),
    })
}

/// The innermost cause: those around it say what is said already, and the URL.
fn unreachable(host: &str, error: &reqwest::Error) -> FetchError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let reason = if error.is_timeout() { "it does not answer in time".to_owned() } else { cause.to_string() };
    FetchError::Unreachable { host: host.to_owned(), reason }
}

/// What an address is that is not on the internet.
fn not_internet(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_internet_v4(address),
        IpAddr::V6(address) => not_internet_v6(address),
    }
}

fn not_internet_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [first, second, third, _] = address.octets();
    if address.is_loopback() || first == 0 {
        return Some("the node itself (a loopback address)");
    }
    if address.is_link_local() {
        return Some("a link-local address");
    }
    let is_shared = first == 100 && (64..128).contains(&second);
    if address.is_private() || is_shared {
        return Some("a private address");
    }
    let is_special = matches!((first, second, third), (192, 0, 0) | (192, 88, 99) | (198, 18 | 19, _));
    (is_special || address.is_documentation() || first >= 224).then_some("no address of the internet")
}

fn not_internet_v6(address: Ipv6Addr) -> Option<&'static str> {
    let segments = address.segments();
    if address.is_loopback() || address.is_unspecified() {
        return Some("the node itself (a loopback address)");
    }
    if address.is_unicast_link_local() {
        return Some("a link-local address");
    }
    if address.is_unique_local() {
        return Some("a private address");
    }
    let is_global = segments[0] & 0xe000 == 0x2000;
    // Protocol assignments with Teredo, documentation, 6to4.
    let is_special = segments[0] == 0x2001 && (segments[1] < 0x0200 || segments[1] == 0x0db8)
        || segments[0] == 0x2002
        || segments[0] == 0x3fff;
    (!is_global || is_special).then_some("no address of the internet")
}

/// Whether the address is one of this machine's: only these can be bound to.
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Fetcher").field("allowed", &self.allowed).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
