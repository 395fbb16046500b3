//! Custom domains: which host names an app may have, and what is stored of them.
//!
//! In: what a user typed (`Bücher.Example.`). Out: the name as it stands in DNS and certificates
//! (`xn--bcher-kva.example`), or why it cannot be one. Sources: RFC 1123 section 2.1 (host names), RFC 5891 (IDNA),
//! Heroku's article "Custom Domain Names for Apps".

use crate::app::random_words;
use crate::{AppId, DomainId, Millis, SniEndpointId};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Longest host name, in bytes, without its final dot. Source: RFC 1035, section 2.3.4.
pub const MAX_HOSTNAME_BYTES: usize = 253;
/// Longest label of a host name, in bytes. Source: RFC 1035, section 2.3.4.
pub const MAX_LABEL_BYTES: usize = 63;
/// Most custom domains of one app. Source: Heroku's article "Limits".
pub const MAX_DOMAINS_PER_APP: usize = 1000;
/// Random letters and digits of a DNS target: with them it is longer than any app's name, so it never is one's.
pub const CNAME_LETTERS: usize = 24;

/// A custom domain as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    pub id: DomainId,
    pub app_id: AppId,
    /// Lower-case ASCII; `*.example.com` stands for one label.
    pub hostname: String,
    /// What its owner points a CNAME record at.
    pub cname: String,
    pub status: DomainStatus,
    pub sni_endpoint_id: Option<SniEndpointId>,
    pub acm_status: Option<AcmStatus>,
    pub acm_status_reason: Option<String>,
    /// When a certificate is to be ordered (again); None: as soon as automatic management is on.
    pub acm_due_at: Option<Millis>,
    pub created_at: Millis,
    pub updated_at: Millis,
}

impl Domain {
    /// Whether it stands for every name one label below another.
    pub fn is_wildcard(&self) -> bool {
        self.hostname.starts_with("*.")
    }
}

/// Whether the router serves a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainStatus {
    /// The router has not been told yet.
    Pending,
    Succeeded,
}

/// How far a domain's automatic certificate is. The words are Heroku's: the CLI knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AcmStatus {
    /// The authority is looking whether the domain leads here.
    #[serde(rename = "verified")]
    InProgress,
    /// An attempt failed; there will be another soon.
    #[serde(rename = "failing")]
    Failing,
    /// Given up until tomorrow, or until `certs:auto:refresh`.
    #[serde(rename = "failed")]
    Failed,
    #[serde(rename = "cert issued")]
    Issued,
}

/// The form in which a host name is stored and compared.
///
/// # Errors
/// Why it cannot be a domain's, for the user.
pub fn normalize(text: &str) -> Result<String, String> {
    let refuse = |why: &str| Err(format!("\"{}\" cannot be a domain: {why}", shown(text)));
    let trimmed = text.trim();
    let trimmed = trimmed.strip_suffix('.').unwrap_or(trimmed);
    if trimmed.is_empty() {
        return Err("Hostname is missing: name a domain such as www.example.com.".to_owned());
    }
    if trimmed.contains("://") || trimmed.contains('/') || trimmed.contains('@') {
        return refuse("give the host name alone, without scheme, path or user.");
    }
    if trimmed.parse::<IpAddr>().is_ok() || trimmed.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return refuse("it is an IP address. A domain is a name such as www.example.com.");
    }
    if trimmed.contains(':') {
        return refuse("give the host name without a port.");
    }
    let (star, rest) = match trimmed.strip_prefix("*.") {
        Some(rest) => ("*.", rest),
        None => ("", trimmed),
    };
    if rest.contains('*') {
        return refuse("a wildcard is a star in place of the whole first label, as in *.example.com.");
    }
    let Ok(ascii) = idna::domain_to_ascii(rest) else {
        return refuse("it is no valid internationalized name (IDNA).");
    };
    let name = format!("{star}{ascii}");
    if name.len() > MAX_HOSTNAME_BYTES {
        return refuse("a host name has at most 253 characters.");
    }
    if !ascii.split('.').all(is_label) {
        return refuse(
            "each part between dots has 1 to 63 letters, digits and hyphens, and no hyphen at its ends.",
        );
    }
    let last = ascii.rsplit('.').next().unwrap_or_default();
    if !ascii.contains('.') || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return refuse("it needs a top-level domain, as in www.example.com.");
    }
    Ok(name)
}

/// Whether an app may have a (normalized) host name on a node that serves apps at `NAME.node_domain`, on a machine that
/// is called `machine`.
///
/// # Errors
/// Why not, for the user.
pub fn check_place(hostname: &str, app_name: &str, node_domain: &str, machine: &str) -> Result<(), String> {
    let own = format!("{app_name}.{node_domain}");
    if hostname == own {
        return Err(format!("{own} is this app's own name already: it needs not be added."));
    }
    let below = |name: &str| hostname.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
    if (hostname == node_domain || below(node_domain)) && !below(&own) {
        return Err(format!(
            "{hostname} lies under {node_domain}, where this node serves every app by its name. \
             Use a domain of your own, or a name under {own}."
        ));
    }
    for reserved in [node_domain, machine] {
        if hostname == reserved || wildcard_of(reserved).as_deref() == Some(hostname) {
            return Err(format!("{hostname} would answer for {reserved}, which is this node's own name."));
        }
    }
    if let Some(base) = hostname.strip_prefix("*.")
        && is_public_suffix(base)
    {
        return Err(format!(
            "{hostname} stands for the domains of many owners. Use a wildcard below one of yours, such as \
             *.example.{base}."
        ));
    }
    Ok(())
}

/// Whether strangers have domains right below it, as below `co.uk` (the Public Suffix List, as of this build). A name that
/// the list does not know, such as a company's own `intranet`, is not.
fn is_public_suffix(name: &str) -> bool {
    psl::suffix(name.as_bytes())
        .is_some_and(|suffix| suffix.is_known() && suffix.as_bytes() == name.as_bytes())
}

/// The name that answers for `hostname` beside it, if there is one: `*.example.com` for `www.example.com`.
pub fn wildcard_of(hostname: &str) -> Option<String> {
    if hostname.starts_with("*.") {
        return None;
    }
    hostname.split_once('.').map(|(_, rest)| format!("*.{rest}"))
}

/// A DNS target in Heroku's form, `two-words-` and 24 letters and digits, under the node's domain.
pub fn cname(random: u64, letters: &str, node_domain: &str) -> String {
    format!("{}-{letters}.{node_domain}", random_words(random))
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_BYTES).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// At most so much of a name as an error message can bear.
fn shown(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_stored_as_dns_has_them() {
        for (typed, stored) in [
            ("www.example.com", "www.example.com"),
            (" WWW.Example.COM. ", "www.example.com"),
            ("*.example.com", "*.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("*.bücher.example", "*.xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("a-b.1c.example", "a-b.1c.example"),
            ("例え.jp", "xn--r8jz45g.jp"),
        ] {
            assert_eq!(normalize(typed).as_deref(), Ok(stored), "{typed}");
        }
    }

    #[test]
    fn what_is_no_host_name_is_refused_with_its_reason() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = format!("{}example", "abcdefg.".repeat(32));
        for (typed, why) in [
            ("", "missing"),
            (".", "missing"),
            ("http://www.example.com/", "without scheme"),
            ("me@example.com", "user"),
            ("127.0.0.1", "IP address"),
            ("[::1]", "IP address"),
            ("::1", "IP address"),
            ("www.example.com:8080", "port"),
            ("*", "wildcard"),
            ("a.*.example.com", "wildcard"),
            ("*a.example.com", "wildcard"),
            ("*.*.example.com", "wildcard"),
            ("*.com", "top-level"),
            ("localhost", "top-level"),
            ("1.2", "top-level"),
            ("a..example.com", "hyphen"),
            ("-a.example.com", "hyphen"),
            ("a_b.example.com", "hyphen"),
            ("a b.example.com", ""),
            ("xn--0.example", ""),
            (&long_label, ""),
            (&long_name, ""),
        ] {
            let told = normalize(typed).expect_err(typed);
            assert!(told.contains(why), "{typed}: {told}");
        }
    }

    #[test]
    fn only_an_apps_own_part_of_the_nodes_domain_is_its() {
        let check = |hostname| check_place(hostname, "shop", "apps.example.com", "node1.example.net");
        for good in ["www.example.com", "example.com", "*.example.org", "api.shop.apps.example.com"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in
            ["apps.example.com", "other.apps.example.com", "*.apps.example.com", "x.other.apps.example.com"]
        {
            assert!(check(bad).expect_err(bad).contains("serves every app"), "{bad}");
        }
        for bad in ["*.example.com", "node1.example.net", "*.example.net"] {
            assert!(check(bad).expect_err(bad).contains("own name"), "{bad}");
        }
        assert!(check("shop.apps.example.com").expect_err("its own").contains("already"));
        for bad in ["*.com", "*.co.uk", "*.github.io", "*.xn--p1ai"] {
            assert!(check(bad).expect_err(bad).contains("many owners"), "{bad}");
        }
        for good in ["*.example.co.uk", "*.me.github.io", "*.intranet", "github.io"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn a_dns_target_is_no_apps_name() {
        let target = cname(7, "abcdefghijklmnopqrstuvwx", "localhost");
        let label = target.strip_suffix(".localhost").expect("under the node's domain");
        assert!(is_label(label) && crate::app::check_name(label).is_err(), "{label}");
    }
}
