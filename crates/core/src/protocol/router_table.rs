//! The route table: all that the router knows of apps, their dynos and their certificates.
//!
//! In: written whole by control. Out: read by the router, which keeps it on disk without the certificates.
//! Chains and keys are not part of the table, which is sent with every change: each travels once, in a frame of its
//! own ahead of the first table that names it, and the table says for which hosts it is.
//! Invariant: fields that came after version 1's first are left out of the frame while they have their default.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{AppId, DynoId};

/// Every app that has a host name. Replaces the table before it as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Stamped by control's link when it is published; comes back in [`super::router::TableApplied`].
    pub version: u64,
    #[serde(default)]
    pub apps: Vec<RouteApp>,
    /// What the router is to show of the certificates that it was sent; it forgets all others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateUse>,
    /// Answers to `/.well-known/acme-challenge/TOKEN` on any host: token to key authorization (RFC 8555,
    /// section 8.3).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub acme_challenges: BTreeMap<String, String>,
}

/// What TLS clients that ask for one of `hosts` are shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateUse {
    /// As in [`Certificate`]: this content and no other.
    pub id: String,
    pub digest: String,
    /// Lower case; `*.example.com` stands for one label.
    pub hosts: Vec<String>,
}

/// A certificate and its key, without whom it is for. At most a few times 32 KB, which is what the API takes of a
/// chain and of a key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Stays when the content is replaced; no two owners' certificates have the same.
    pub id: String,
    /// Of the chain, and so of the key, of which there is one to a leaf.
    pub digest: String,
    /// The leaf first.
    pub chain_pem: String,
    pub key_pem: String,
}

impl Certificate {
    /// With the digest of its chain: SHA-256, hexadecimal.
    pub fn new(id: impl Into<String>, chain_pem: String, key_pem: String) -> Self {
        let digest = hex::encode(Sha256::digest(chain_pem.as_bytes()));
        Self { id: id.into(), digest, chain_pem, key_pem }
    }

    /// What a table says of it.
    pub fn shown_to(&self, hosts: Vec<String>) -> CertificateUse {
        CertificateUse { id: self.id.clone(), digest: self.digest.clone(), hosts }
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Certificate")
            .field("id", &self.id)
            .field("digest", &self.digest)
            .finish_non_exhaustive()
    }
}

/// One app as the router sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteApp {
    pub app_id: AppId,
    pub name: String,
    /// Host names without port, lower case; `*.example.com` stands for one label.
    pub hosts: Vec<String>,
    /// H80.
    #[serde(default)]
    pub maintenance: bool,
    /// No release with code yet: H81.
    #[serde(default)]
    pub blank: bool,
    /// How many web dynos are wanted; 0 answers H14.
    #[serde(default)]
    pub web_quantity: u32,
    /// All web dynos crashed: H10 while there is no healthy target and none is booting.
    #[serde(default)]
    pub crashed: bool,
    /// A web dyno is on its way: requests are held for up to 75 s, then H20.
    #[serde(default)]
    pub booting: bool,
    /// The config var `ERROR_PAGE_URL`.
    #[serde(default)]
    pub error_page_url: Option<String>,
    /// The config var `MAINTENANCE_PAGE_URL`.
    #[serde(default)]
    pub maintenance_page_url: Option<String>,
    #[serde(default)]
    pub targets: Vec<Target>,
    /// Requests in clear text are sent to https.
    #[serde(default, skip_serializing_if = "is_false")]
    pub https_redirect: bool,
    /// A client stays with the dyno that answered it first, by a cookie.
    #[serde(default, skip_serializing_if = "is_false")]
    pub session_affinity: bool,
    /// The dynos speak HTTP/2 in clear text with prior knowledge (RFC 9113, section 3.3).
    #[serde(default, skip_serializing_if = "is_false")]
    pub http2: bool,
    /// Its dynos were stopped until a request comes: it is held as while booting, and control is told to wake the app.
    #[serde(default, skip_serializing_if = "is_false")]
    pub asleep: bool,
    /// Its web dynos may not run before the month is over: H82.
    #[serde(default, skip_serializing_if = "is_false")]
    pub out_of_hours: bool,
    /// Requests at once to the whole app before H11; the router's limit for each dyno otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests: Option<u32>,
    /// What a dyno must answer with 2xx or 3xx before it is healthy; without it, it must accept a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check_path: Option<String>,
}

impl RouteApp {
    /// An app without dynos that wants none; everything else is set by field.
    pub fn new(app_id: AppId, name: impl Into<String>, hosts: Vec<String>) -> Self {
        Self {
            app_id,
            name: name.into(),
            hosts,
            maintenance: false,
            blank: false,
            web_quantity: 0,
            crashed: false,
            booting: false,
            error_page_url: None,
            maintenance_page_url: None,
            targets: Vec::new(),
            https_redirect: false,
            session_affinity: false,
            http2: false,
            asleep: false,
            out_of_hours: false,
            max_requests: None,
            health_check_path: None,
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// One web dyno.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub dyno_id: DynoId,
    /// The label for log lines: `web.1`.
    pub name: String,
    pub address: SocketAddr,
    pub state: TargetState,
    /// It is healthy, but frozen or about to be: before it gets a request it is woken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asleep: Option<Asleep>,
}

/// How the router wakes a dyno by itself; see [`super::dyno`] for what is said there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asleep {
    /// Absolute; only the router's user and root may connect.
    pub wake_socket: PathBuf,
    /// Which sleep this is, or [`Asleep::UNKNOWN`]: one that a router has ended stays ended for it, whatever older tables
    /// still say.
    pub sleep_id: u64,
}

impl Asleep {
    /// A control that has just begun does not know yet which sleep it is: the dyno is woken each time a table says so.
    pub const UNKNOWN: u64 = 0;
}

/// Whether a target gets new requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TargetState {
    /// Gets none yet; the router probes it and reports [`super::router::Probed`].
    Adding,
    Healthy,
    /// Gets no new request; [`super::router::Drained`] is reported when the last one has ended.
    Draining,
}
