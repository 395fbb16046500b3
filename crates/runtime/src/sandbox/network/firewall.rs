//! The node's packet filter: one nftables table of its own, so that no other one is touched.
//!
//! Every chain's policy is accept and every rule names our bridge: the rest of the host's traffic is not ours
//! to judge. What a dyno may do:
//!
//! | from | to | |
//! |---|---|---|
//! | dyno | the internet | yes, masqueraded |
//! | dyno | another dyno | no; the bridge's isolated ports do not even pass it on |
//! | dyno | the node | only DNS, on the bridge's address |
//! | dyno | private, link-local and metadata addresses | only those that the admin allows |
//! | the router | dyno | yes |
//! | anybody else, also root | dyno | no |
//!
//! Of what a dyno may do, it may do so much at once: see [`CONNECTIONS_EACH`].
//!
//! Every rule that drops has a comment, which `nft list ruleset` shows; `tests/escape` takes each away by it.

use super::super::node::{Node, PREFIX_LENGTH};
use crate::{Result, RuntimeError};
use ferroku_core::uids::ROUTER_UID;
use std::io::Write;
use std::process::{Command, Stdio};

/// Addresses that are never the internet: RFC 6890, without the blocks for documentation and benchmarks,
/// which lead nowhere or, in a lab, somewhere on purpose.
const NOT_INTERNET: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "224.0.0.0/3",
];

/// Connections, and streams of datagrams, that one dyno may have open to the outside at a time; closed ones do not
/// count. All share the kernel's table, which has 65,536 entries on a machine of 2 GB (nf_conntrack_max): when it is
/// full, nobody's packets pass, not even the router's.
const CONNECTIONS_EACH: u32 = 4096;

/// Makes or replaces the table, in one transaction.
///
/// # Errors
/// `nft` is missing, or the kernel lacks nf_tables.
pub(crate) fn install(node: &Node, allowed: &[String]) -> Result<()> {
    run_nft(&["-f", "-"], &rules(node, allowed)?).map(|_| ())
}

/// Removes the table; one that is not there is no error.
///
/// # Errors
/// `nft` failed.
pub(crate) fn remove(node: &Node) -> Result<()> {
    let table = node.table();
    // Adding first makes deleting succeed in any case.
    run_nft(&["-f", "-"], &format!("add table inet {table}\ndelete table inet {table}\n")).map(|_| ())
}

/// Whether the table is there.
pub(crate) fn is_installed(node: &Node) -> bool {
    run_nft(&["list", "tables"], "").is_ok_and(|tables| tables.contains(&node.table()))
}

fn rules(node: &Node, allowed: &[String]) -> Result<String> {
    for network in allowed {
        let plain =
            network.chars().all(|character| character.is_ascii_digit() || ".:/abcdef".contains(character));
        if !plain {
            return Err(RuntimeError::Network {
                action: "read the allowed networks",
                message: format!("{network:?} is no network; write it like 10.20.0.0/16"),
            });
        }
    }
    let (table, bridge, gateway) = (node.table(), node.bridge(), node.gateway());
    let subnet = format!("{}/{PREFIX_LENGTH}", node.subnet);
    let private = NOT_INTERNET.join(", ");
    let allow = match allowed {
        [] => String::new(),
        networks => format!("iifname \"{bridge}\" ip daddr {{ {} }} accept", networks.join(", ")),
    };
    let limit = format!(
        "ct state new add @connections {{ ip saddr ct count over {CONNECTIONS_EACH} }} drop comment \"limited connections\""
    );
    Ok(format!(
        r#"
add table inet {table}
delete table inet {table}
table inet {table} {{
  set connections {{ type ipv4_addr; size 65535; flags dynamic; }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{bridge}" ct state established,related accept
    oifname "{bridge}" ct state established,related accept
    oifname "{bridge}" drop comment "nobody but the router"
    iifname "{bridge}" meta nfproto ipv6 drop comment "no IPv6"
    iifname "{bridge}" ip saddr != {subnet} drop comment "own addresses only"
    iifname "{bridge}" {limit}
    {allow}
    iifname "{bridge}" ip daddr {{ {private} }} drop comment "no private addresses"
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{bridge}" ct state established,related accept
    iifname "{bridge}" ip daddr {gateway} meta l4proto {{ tcp, udp }} th dport 53 jump names
    iifname "{bridge}" drop comment "no ports of the node"
  }}
  chain names {{
    {limit}
    accept
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname "{bridge}" ct state established,related accept
    oifname "{bridge}" meta skuid {ROUTER_UID} accept
    oifname "{bridge}" drop comment "the router's user only"
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
}}
"#
    ))
}

fn run_nft(arguments: &[&str], input: &str) -> Result<String> {
    let missing =
        RuntimeError::MissingFeature { feature: "the program nft", remedy: "install the package nftables" };
    let failed = |message: String| RuntimeError::Program { program: "nft".into(), message };
    let spawned = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing),
        Err(error) => return Err(failed(error.to_string())),
    };
    let mut stdin = child.stdin.take().expect("it was asked for above");
    stdin.write_all(input.as_bytes()).map_err(|error| failed(error.to_string()))?;
    drop(stdin);
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if message.contains("ct count") {
        return Err(RuntimeError::MissingFeature {
            feature: "limits of connections in nf_tables",
            remedy: "run a kernel built with CONFIG_NFT_CONNLIMIT, or load its module: modprobe nft_connlimit",
        });
    }
    if message.contains("Protocol not supported") || message.contains("cache initialization failed") {
        return Err(RuntimeError::MissingFeature {
            feature: "nf_tables",
            remedy: "run a kernel built with CONFIG_NF_TABLES, CONFIG_NFT_NAT and CONFIG_NFT_MASQ",
        });
    }
    Err(failed(message))
}
